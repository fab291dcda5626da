"""`fastbg report DIR`: writes the report of a run folder again."""

import argparse

from rich.console import Console

from fastbg.errors import InvalidArgument
from fastbg.printable import printable
from fastbg.runs.progress import Display
from fastbg.runs.records import read_run
from fastbg.runs.reporting import report


def main(arguments: argparse.Namespace) -> None:
    """Write report.html, figures and tables; needs neither images nor networks."""
    if arguments.folder.is_file() or not arguments.folder.exists():
        what = "a file" if arguments.folder.exists() else "no such folder"
        raise InvalidArgument("DIR", arguments.folder, f"the --out folder of a run; this is {what}")
    with read_run(arguments.folder) as store:
        with Display(Console(stderr=True, highlight=False), steps=True) as display:
            path = report(store, display.now)
        print(printable(path))
