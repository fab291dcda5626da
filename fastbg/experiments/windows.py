"""Shared by experiments that explain one window of each image: window and quadrature options."""

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeAlias

from fastbg.errors import DataError, InvalidArgument
from fastbg.experiments.options import option
from fastbg.experiments.study import Item, Study, detailed
from fastbg.geometry import Box, centre
from fastbg.vocabulary import NODE_COUNTS

# Arguments of `LocalAttribution.attribute` for each value of the option `nodes`
# (bench/bench_convergence.py, and "How many nodes" in bench/NOTES.md).
NODES: dict[str, dict[str, Any]] = {
    "few": {"n_steps": 8, "method": "arc_midpoint"},
    "many": {"accuracy": "published"},
    "published": {"n_steps": 50, "method": "riemann_right"},
}

Nodes: TypeAlias = Literal["few", "many", "published"]
Chooser: TypeAlias = Callable[[Item], Box | None]  # returns an item's window, None: has none


def nodes_option(default: Nodes) -> Nodes:
    """Declares the option `nodes`."""
    return option(
        default,
        "number of nodes on the attribution's path",
        few=NODE_COUNTS["few"],
        many=NODE_COUNTS["many"],
        published=NODE_COUNTS["published"],
    )


class WindowOptions(Protocol):
    """The options that these experiments share; sizes in HR pixels."""

    @property
    def count(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def window(self) -> int: ...


def check_sizes(owner: str, options: WindowOptions, scale: int) -> None:
    """Raise InvalidArgument naming `owner`.size or `owner`.window.

    Both must be multiples of 2 `scale`, so that a central window lies on the LR grid.
    """
    step = 2 * scale
    for name, side in (("size", options.size), ("window", options.window)):
        if side % step:
            raise InvalidArgument(f"{owner}.{name}", side, f"a multiple of {step}")
    if options.window >= options.size:
        expected = f"less than the size {options.size}"
        raise InvalidArgument(f"{owner}.window", options.window, expected)


def middle(options: WindowOptions, study: Study) -> Chooser:
    """Chooses the central window if it has detail."""
    box = centre(options.window, options.size, options.size)
    return lambda item: box if with_detail(item, box, study) else None


def with_detail(item: Item, window: Box, study: Study) -> bool:
    """Whether the image has detail in `window`, in HR pixels of the item; see `detailed`."""
    return detailed(study.ground_truth([item]), window)[0]


def draw_windows(
    owner: str, options: WindowOptions, study: Study, choose: Chooser
) -> list[tuple[Item, Box]]:
    """`count` sub-images drawn with the seed, and the window of each in HR pixels of the sub-image.

    Twice as many are drawn, because some have no window. Raises DataError naming `owner`.count if
    too few have one.
    """
    drawn = study.sub_images(2 * options.count, options.size)
    found: list[tuple[Item, Box]] = []
    for item in drawn:
        window = choose(item)
        if window is not None:
            found.append((item, window))
        if len(found) == options.count:
            return found
    raise DataError(
        f"{owner}: {len(found)} of {len(drawn)} sub-images have a window with detail; "
        f"expected {owner}.count = {options.count}: lower it, or add photographs"
    )
