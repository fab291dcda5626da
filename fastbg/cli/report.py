"""`fastbg report DIR`: the report again, from what the run folder holds."""

import argparse
from pathlib import Path
from typing import Any

from fastbg.runs.records import report
from fastbg.runs.store import RunStore


def register(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("report", help="write the report of a run folder again")
    command.add_argument("folder", type=Path, metavar="DIR", help="run folder")
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Write report.html, figures and tables; needs neither images nor networks."""
    with RunStore.read(arguments.folder) as store:
        print(report(store))
