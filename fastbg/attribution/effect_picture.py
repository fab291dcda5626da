"""Pictures of causal effects, in the colours of the public code."""

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import FuncNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from fastbg.attribution.passes import as_box
from fastbg.attribution.picture import PANEL, WINDOW_COLOUR, Pixels, pair_of, pixels

if TYPE_CHECKING:
    from fastbg.attribution.effect_result import CausalEffectResult

EXPONENT = 1 / 1.2  # as in the public code: makes small effects slightly more visible
INPUT_SHARE = 0.25  # opacity of the input under the map
HARM, HELP, IDLE = "#2c4fc4", "#c43c2c", "#d9d9d9"


def colours(values: NDArray[Any], bound: float) -> Pixels:
    """`values` as colours (...,3): `seismic` of sign(v) |v / bound| ^ (1 / 1.2), clipped to 1.

    Grey levels are rounded down, as in the public code.
    """
    shades = mpl.colormaps["seismic"](_shade(values, bound) / 2 + 0.5)[..., :3]
    levels: Pixels = (255 * shades).astype(np.uint8)
    return levels


def _shade(values: NDArray[Any], bound: float) -> NDArray[Any]:
    part = np.clip(values, -bound, bound) / bound
    shade: NDArray[Any] = np.sign(part) * np.abs(part) ** EXPONENT
    return shade


def _unshade(shade: NDArray[Any], bound: float) -> NDArray[Any]:
    value: NDArray[Any] = np.sign(shade) * np.abs(shade) ** (1 / EXPONENT) * bound
    return value


def result_figure(result: "CausalEffectResult", index: int | tuple[int, ...] = 0) -> Figure:
    """The input with its window, the map over it with a colour bar, and a pie chart of counts."""
    index = pair_of(index, result.windows.shape[:-1])
    scale = result.scale
    lr = pixels(result.images[index])
    enlarged = lr.repeat(scale, 0).repeat(scale, 1)
    own = result.grid.on_pixels(result.own[index].numpy()).repeat(scale, 0).repeat(scale, 1)
    blended = (1 - INPUT_SHARE) * result.colours()[index] + INPUT_SHARE * enlarged
    blended = np.where(own[..., None], enlarged, blended)  # no colour, as not measured
    drawn = Figure(figsize=(3 * PANEL + 1.2, PANEL + 0.6), layout="constrained")
    first, second, third = drawn.subplots(1, 3)
    y0, x0, y1, x1 = as_box(result.windows[index].tolist())
    shown = {"LR input": enlarged, "causal effect": blended.astype(np.uint8)}
    for axis, (title, image) in zip((first, second), shown.items(), strict=True):
        axis.imshow(image, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize="medium")
        corner, sides = (x0 - 0.5, y0 - 0.5), (x1 - x0, y1 - y0)
        frame = Rectangle(corner, *sides, fill=False, color=WINDOW_COLOUR, linewidth=1.5)
        axis.add_patch(frame)
    _colour_bar(drawn, second, result)
    _pie(third, result, index)
    return drawn


def _colour_bar(drawn: Figure, axis: Axes, result: "CausalEffectResult") -> None:
    """A colour bar with the map's own norm; the public code draws the bar with another norm."""
    bound = result.bound
    norm = FuncNorm(
        (lambda v: _shade(v, bound), lambda u: _unshade(u, bound)), vmin=-bound, vmax=bound
    )
    bar = drawn.colorbar(ScalarMappable(norm, "seismic"), ax=axis, ticks=[-bound, 0, bound])
    bar.set_label(f"effect, {result.unit}")


def _pie(axis: Axes, result: "CausalEffectResult", index: tuple[int, ...]) -> None:
    harm, help_, idle = (int(kind[index]) for kind in result.counts())
    if not harm + help_ + idle:  # the window covers them, see include_window
        axis.set_axis_off()
        axis.set_title("no blocks outside of the window", fontsize="medium")
        return
    axis.pie(
        [harm, help_, idle],
        colors=[HARM, HELP, IDLE],
        startangle=90,
        counterclock=False,
        wedgeprops={"linewidth": 0.5, "edgecolor": "white"},
    )
    axis.set_title("blocks", fontsize="medium")
    axis.legend(
        [f"harm: {harm}", f"help: {help_}", f"idle: {idle}"],
        loc="upper center",
        bbox_to_anchor=(0.5, 0.02),
        fontsize="x-small",
        frameon=False,
        ncols=3,
        columnspacing=0.8,
        handlelength=0.8,
    )
