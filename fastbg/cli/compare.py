"""`fastbg compare RUN OTHER`: two runs side by side, with paired intervals."""

import argparse
import csv
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastbg.cli.files import check_ending, check_folder
from fastbg.errors import InvalidArgument
from fastbg.printable import printable
from fastbg.runs.comparison import Compared, Outcomes, compare, input_differences
from fastbg.runs.records import read_run
from fastbg.runs.store import RunStore
from fastbg.writing import replacing


def main(arguments: argparse.Namespace) -> None:
    """Print the differences of the runs, then the numbers and verdicts of both."""
    if arguments.csv is not None:
        check_ending("--csv", arguments.csv, ".csv")
        check_folder("--csv", arguments.csv)
    runs = {"RUN": arguments.run, "OTHER": arguments.other}
    for name, path in runs.items():
        if not (path / "run.sqlite").is_file():
            raise InvalidArgument(name, path, "the --out folder of a run, with its run.sqlite")
    nets = None if arguments.model is None else (arguments.model[0], arguments.model[1])
    with ExitStack() as stack:
        stores = [stack.enter_context(read_run(path)) for path in runs.values()]
        if nets is not None:
            check_labels(stores, nets)
        apart = input_differences(stores)
        numbers, outcomes = compare(stores, nets)
    if not numbers:
        labels = "networks and experiments in common" + ("; name one of each: --model" * (not nets))
        both = " and ".join(map(printable, runs.values()))
        raise InvalidArgument("RUN, OTHER", both, f"runs with {labels}")
    console = Console(highlight=False)
    names = [f"A: {printable(arguments.run)}", f"B: {printable(arguments.other)}"]
    console.print("\n".join(names), markup=False, soft_wrap=True)
    told = "; ".join(apart) or "nothing that decides their numbers"
    console.print(f"A against B differ in {told}\n", markup=False, soft_wrap=True)
    table, width = changes(numbers), console.width
    unlimited = console.options.update(max_width=10_000)
    console.width = max(width, console.measure(table, options=unlimited).maximum)
    console.print(table)  # on narrow terminals lines wrap; names and numbers are never cut
    console.width = width
    if outcomes:
        console.print(judged(outcomes))
    if arguments.csv is not None:
        write(numbers, arguments.csv)
        print(printable(arguments.csv))


def check_labels(stores: list[RunStore], nets: tuple[str, ...]) -> None:
    """Raises InvalidArgument for a network that its run does not have."""
    for store, label in zip(stores, nets, strict=True):
        there = [name.removeprefix("network ") for name in store.remembered("network ")]
        if label not in there:
            expected = f"a network of {printable(store.folder)}: {', '.join(there)}"
            raise InvalidArgument("--model", repr(label), expected)


def changes(numbers: list[Compared]) -> Table:
    """A row for each number: means, and the paired difference."""
    table = Table("experiment", "network", "number", box=None, padding=(0, 2, 0, 0))
    for title in ("A", "B", "B - A (95 % interval)", "pairs"):
        table.add_column(title, justify="right")
    for each in numbers:
        low, high = each.change.low, each.change.high
        sure = each.change.known and not low <= 0 <= high
        table.add_row(
            each.experiment,
            escape(printable(" / ".join(dict.fromkeys(each.nets)))),
            each.number,
            *(f"{mean:.4g}" for mean in each.means),
            f"{'[bold]' if sure else ''}{span(each)}{'[/]' if sure else ''}",
            f"{each.pairs} {each.unit}",
        )
    return table


def span(each: Compared) -> str:
    """The difference and its interval."""
    change = each.change
    if not change.known:
        return f"{change.value:+.3g} (no interval from one photograph)"
    return f"{change.value:+.3g} ({change.low:+.3g} to {change.high:+.3g})"


def judged(outcomes: list[Outcomes]) -> Table:
    """A row for each verdict."""
    table = Table("claim", "statement", "about", "A", "B", box=None, padding=(1, 2, 0, 0))
    for each in outcomes:
        differ = each.outcomes[0] != each.outcomes[1]
        shown = (f"[bold]{text}[/]" if differ else text for text in each.outcomes)
        table.add_row(each.claim, each.statement, escape(printable(each.about)), *shown)
    return table


def write(numbers: list[Compared], path: Path) -> None:
    """The numbers in full precision, as CSV."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        titles = ("experiment", "network A", "network B", "number", "mean A", "mean B")
        writer.writerow([*titles, "B - A", "low", "high", "pairs", "paired by", "photographs"])
        for each in numbers:
            change = each.change
            ends = (change.value, change.low, change.high)
            row = (each.experiment, *each.nets, each.number, *each.means, *ends)
            writer.writerow([*row, each.pairs, each.unit, change.photographs])
