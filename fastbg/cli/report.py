"""`fastbg report DIR`: the report again, from what the run folder holds."""

import argparse

from rich.console import Console

from fastbg.runs.progress import Display
from fastbg.runs.records import report
from fastbg.runs.store import RunStore


def main(arguments: argparse.Namespace) -> None:
    """Write report.html, figures and tables; needs neither images nor networks."""
    with RunStore.read(arguments.folder) as store:
        with Display(Console(stderr=True, highlight=False), steps=True) as display:
            path = report(store, display.now)
        print(path)
