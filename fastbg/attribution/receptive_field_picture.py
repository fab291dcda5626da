"""Picture of an effective receptive field, in the manner of the public code."""

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

if TYPE_CHECKING:
    from fastbg.attribution.receptive_field import ReceptiveField


LINES = ("-", "--", "-.", ":")  # of the squares, the smallest first


def field_figure(field: "ReceptiveField") -> Figure:
    """The map (fourth root), the squares that hold each share of it, and the reach."""
    drawn = Figure(figsize=(5.2, 4.2), layout="constrained")
    axis = drawn.subplots()
    height, width = field.total.shape
    image = axis.imshow(field.map.numpy(), cmap="RdYlGn", vmin=0, vmax=1, interpolation="nearest")
    drawn.colorbar(image, label="(positive gradient / its maximum) ** 0.25")
    for (share, side, area), line in zip(field.table(), LINES, strict=True):
        label = f"{share:.0%} in {side} x {side} ({100 * area:.2g}% of the image)"
        axis.add_patch(_square(field, side, line, label))
    if field.reach is not None:
        y0, x0, y1, x1 = field.reach
        label = "reach: the whole image, or unknown"
        if field.theoretical is not None:
            label = "reach: {} x {} by the layers".format(*field.theoretical)
        style: Any = {"fill": False, "color": "white", "linestyle": "--", "label": label}
        axis.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, **style))
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xlabel="LR pixels")
    drawn.legend(loc="outside lower center", ncols=2, fontsize="small", facecolor="#c0c0c0")
    return drawn


def _square(field: "ReceptiveField", side: int, line: str, label: str) -> Rectangle:
    """The square of `side` LR pixels around the window's."""
    y0, x0, y1, x1 = field.window.coarsen(field.scale)
    corner = (x0 + x1 - side) / 2 - 0.5, (y0 + y1 - side) / 2 - 0.5
    style: Any = {"fill": False, "color": "black", "linestyle": line, "linewidth": 1.4}
    return Rectangle(corner, side, side, label=label, **style)
