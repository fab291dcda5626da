"""`fastbg options`: lists the options of experiments."""

import argparse

from rich.console import Console
from rich.table import Table

from fastbg.experiments import EXPERIMENTS, experiment_type


def main(arguments: argparse.Namespace) -> None:
    """Print a table for each experiment: option, default, allowed values, meaning."""
    console = Console(highlight=False)
    names = list(dict.fromkeys(arguments.experiments)) or [*EXPERIMENTS]
    kinds = [experiment_type(name) for name in names]
    for kind in kinds:
        console.print(f"[bold]{kind.name}[/]  {kind.title}", soft_wrap=True)
        table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
        for title in ("option", "default"):
            table.add_column(title, no_wrap=True)
        table.add_column("values")
        table.add_column("meaning")
        for name, declared in kind.options_type.declared().items():
            table.add_row(name, str(declared.default), declared.expected, declared.description)
        console.print(table, markup=False)
        console.print()
    console.print("Set by fastbg run -o EXPERIMENT.NAME=VALUE, and stored with the run.")
