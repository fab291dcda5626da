"""Pictures of attributions: a figure that compares networks, and one of a single result.

Colours as in the LAM paper: the upper half of `seismic`, from white (0) to red (1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastbg.attribution.density import kde_density

if TYPE_CHECKING:
    from fastbg.attribution.result import AttributionResult

Pixels = NDArray[np.uint8]
WINDOW_COLOUR = "#e6194b"
PANEL = 2.0  # inches a side


@dataclass(frozen=True)
class Panel:
    """One network's map (h,w), diffusion index and SR image (s*h,s*w,3)."""

    name: str
    map: NDArray[np.float32]
    diffusion_index: float
    sr: Pixels


def pixels(image: Tensor) -> Pixels:
    """8-bit pixels (h,w,3) of an image (3,h,w) in [0,1]."""
    levels = (image.detach().float().clamp(0, 1) * 255).round()
    grey: Pixels = levels.permute(1, 2, 0).to(torch.uint8).cpu().numpy()
    return grey


def heat(values: NDArray[Any], scale: int = 1) -> Pixels:
    """`values` (h,w) in [0,1] as colours (s*h,s*w,3), bicubically enlarged."""
    colours = mpl.colormaps["seismic"](values * 0.5 + 0.5, bytes=True)[..., :3]
    height, width = values.shape
    large = Image.fromarray(colours).resize(
        (width * scale, height * scale), Image.Resampling.BICUBIC
    )
    return np.asarray(large)


def density_over(image: Pixels, map_: NDArray[Any], scale: int) -> Pixels:
    """Kernel density of a map, half transparent over the input (h,w,3), both enlarged."""
    height, width = map_.shape
    size = (width * scale, height * scale)
    below = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    blend: Pixels = (0.5 * below + 0.5 * heat(_density(map_), scale)).round().astype(np.uint8)
    return blend


def figure(image: Tensor, panels: Sequence[Panel], window: Sequence[int], scale: int) -> Figure:
    """The input with the window; for each network map, density, SR crop and diffusion index.

    Args:
        image: LR (3,h,w) in [0,1].
        panels: as `explain` gives them.
        window: y, x, size in SR pixels.
        scale: SR pixels per LR pixel.
    """
    lr = pixels(image)
    enlarged = np.repeat(np.repeat(lr, scale, 0), scale, 1)
    height, width = enlarged.shape[:2]
    columns = len(panels) + 1
    drawn = Figure(figsize=(PANEL * columns, 3 * PANEL + 0.6), layout="constrained")
    axes = drawn.subplots(3, columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])

    _show(axes[0, 0], enlarged, "LR input")
    _mark(axes[0, 0], window)
    axes[1, 0].axis("off")
    view = _around(window, height, width)
    _show(axes[2, 0], enlarged[view], "window, LR")
    for column, panel in enumerate(panels, start=1):
        _show(axes[0, column], heat(panel.map), panel.name)
        _show(axes[1, column], density_over(lr, panel.map, scale), "")
        _mark(axes[1, column], window)
        _show(axes[2, column], panel.sr[view], "")
        axes[2, column].set_xlabel(_spread(panel.map, panel.diffusion_index))
    for row, text in enumerate(("attribution", "density", "SR"), start=0):
        if columns > 1:
            axes[row, 1].set_ylabel(text)
    return drawn


def result_figure(result: "AttributionResult", index: int | tuple[int, ...] = 0) -> Figure:
    """Input with window, map and density of one entry of `result`."""
    lr = pixels(result.images[index])
    window = result.windows[index].tolist()
    map_ = result.map[index].cpu().numpy()
    enlarged = np.repeat(np.repeat(lr, result.scale, 0), result.scale, 1)
    drawn = Figure(figsize=(3 * PANEL, PANEL + 0.5), layout="constrained")
    axes = drawn.subplots(1, 3)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    _show(axes[0], enlarged, "LR input")
    _mark(axes[0], window)
    _show(axes[1], heat(map_), "attribution")
    _show(axes[2], density_over(lr, map_, result.scale), "density")
    _mark(axes[2], window)
    axes[1].set_xlabel(_spread(map_, float(result.diffusion_index[index])))
    return drawn


def _density(map_: NDArray[np.float32]) -> NDArray[np.float64]:
    """`kde_density`; zeros for a map of zeros, as an image without structure has."""
    return kde_density(map_) if map_.any() else np.zeros(map_.shape)


def _spread(map_: NDArray[np.float32], diffusion_index: float) -> str:
    """The diffusion index as text; a map of zeros has none."""
    return f"DI {diffusion_index:.2f}" if map_.any() else "nothing attributed"


def _show(axis: Axes, image: Pixels, title: str) -> None:
    axis.imshow(image, interpolation="nearest")
    # A network may be called "$x$", which is no formula.
    axis.set_title(title, fontsize="medium", parse_math=False)


def _mark(axis: Axes, window: Sequence[int]) -> None:
    y, x, size = window
    axis.add_patch(
        Rectangle((x - 0.5, y - 0.5), size, size, fill=False, color=WINDOW_COLOUR, linewidth=1.5)
    )


def _around(window: Sequence[int], height: int, width: int) -> tuple[slice, slice]:
    """The window with half its side more on each side, cut off at the image's border."""
    y, x, size = window
    margin = math.ceil(size / 2)
    return (
        slice(max(y - margin, 0), min(y + size + margin, height)),
        slice(max(x - margin, 0), min(x + size + margin, width)),
    )
