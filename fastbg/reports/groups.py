"""Shared by the reports of experiments on groups (`composites`, `swap`, `seam`, `gram`)."""

from fastbg.experiments.experiment import Measured
from fastbg.experiments.groups import ROOM, SETS, GroupOptions, by_set
from fastbg.experiments.study import Item
from fastbg.reports import figures

COLOURS = dict(zip(SETS, (figures.FULL, figures.OTHERS[2]), strict=True))


def place(item: Item) -> str:
    """Image and position of a sub-image, for captions."""
    return f"{item.image}, at {item.box[0]}, {item.box[1]}"


def parts(result: Measured) -> dict[str, Measured]:
    """The result of each set."""
    return {
        name: Measured(
            result.net,
            [result.items[i] for i in rows],
            {column: values[rows] for column, values in result.columns.items()},
            result.pictures,
        )
        for name, rows in by_set(result).items()
    }


def drawn_text(result: Measured, o: GroupOptions) -> str:
    """One sentence on how many groups were requested and drawn."""
    counts = [
        f"{len(part.items)} foregrounds in {1 + len(part.items[0].partners)} backgrounds each "
        f"({SETS[name]})"
        for name, part in parts(result).items()
    ]
    return (
        f"Drawn: {', '.join(counts)}. Requested: {o.groups} in {o.backgrounds}; the paper: 100 in "
        "100. Foreign backgrounds come from other photographs, and sub-images cover the images at "
        f"most {ROOM} times, so few images give fewer groups."
    )
