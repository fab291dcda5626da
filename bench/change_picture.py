"""Draw the picture of docs/concepts/changes.md: pixels that EDSR computes for one changed block.

python bench/change_picture.py [docs/pictures/change.png]
"""

import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

from fastbg.geometry import Box
from fastbg.models.conv_stack import link_layers
from fastbg.models.edsr import EDSR

SIZE, WINDOW, BLOCK = 64, Box(112, 112, 144, 144), Box(20, 24, 22, 26)
SHOWN = (0, 6, 12, 18, 24, 33)  # convolutions
REACH, NEED, BOTH = "#e9a23b", "#3b78c4", "#1d7a3f"


def common(a: Box, b: Box) -> Box:
    """Intersection of two boxes; its area is 0 if they do not meet."""
    y0, x0 = max(a.y0, b.y0), max(a.x0, b.x0)
    return Box(y0, x0, max(min(a.y1, b.y1), y0), max(min(a.x1, b.x1), x0))


def area(box: Box) -> int:
    """Pixels."""
    return (box.y1 - box.y0) * (box.x1 - box.x0)


def boxes_of(net: EDSR) -> list[tuple[int, Box, Box, Box]]:
    """For each convolution: its scale, and the boxes that the change reaches, that the window
    needs, and that are computed.
    """
    factors = [link.upscale for link in net.links()]
    layers = link_layers(net.links(), WINDOW, SIZE, SIZE, False)
    need = [Box(*layer.box or ()) for layer in layers]
    rows, scale, changed = [], 1, BLOCK
    reach = BLOCK
    for factor, needed in zip(factors, need, strict=True):
        side = SIZE * scale
        reach, changed = reach.grow(1, side, side), changed.grow(1, side, side)
        computed = common(changed, needed)
        rows.append((scale, reach, needed, computed))
        scale *= factor
        reach, changed = reach.refine(factor), computed.refine(factor)
    return rows


def draw(axis: Axes, number: int, row: tuple[int, Box, Box, Box]) -> None:
    """One convolution's map."""
    scale, reach, need, computed = row
    side = SIZE * scale
    axis.set(xlim=(0, side), ylim=(side, 0), xticks=[], yticks=[], aspect="equal")
    axis.set_title(f"convolution {number + 1}", fontsize="medium")
    for box, colour, filled in ((need, NEED, False), (reach, REACH, False), (computed, BOTH, True)):
        y0, x0, y1, x1 = box
        axis.add_patch(
            Rectangle(
                (x0, y0),
                x1 - x0,
                y1 - y0,
                fill=filled,
                facecolor=colour,
                edgecolor=colour,
                linewidth=1.5,
                alpha=0.55 if filled else 1,
            )
        )
    axis.set_xlabel(f"{100 * area(computed) / side**2:.2g} % of the map", fontsize="small")


def picture() -> Figure:
    """Maps of some convolutions, and below them the part of every map."""
    rows = boxes_of(EDSR())
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, len(SHOWN), height_ratios=(1, 1))
    for column, number in enumerate(SHOWN):
        draw(figure.add_subplot(grid[0, column]), number, rows[number])
    axis = figure.add_subplot(grid[1, :])
    steps = range(1, len(rows) + 1)
    parts = {
        "a change reaches": (REACH, [area(r) / (SIZE * s) ** 2 for s, r, _, _ in rows]),
        "the window needs": (NEED, [area(n) / (SIZE * s) ** 2 for s, _, n, _ in rows]),
        "computed: both": (BOTH, [area(c) / (SIZE * s) ** 2 for s, _, _, c in rows]),
    }
    for label, (colour, values) in parts.items():
        axis.plot(steps, [100 * v for v in values], color=colour, label=label, linewidth=2)
    axis.fill_between(steps, [100 * v for v in parts["computed: both"][1]], color=BOTH, alpha=0.3)
    axis.set(xlabel="convolution of EDSR 16x64", ylabel="% of its map", ylim=(0, 102))
    axis.margins(x=0.01)
    axis.legend(frameon=False, loc="center right", bbox_to_anchor=(0.97, 0.46))
    return figure


if __name__ == "__main__":
    picture().savefig(sys.argv[1] if len(sys.argv) > 1 else "change.png", dpi=110)
