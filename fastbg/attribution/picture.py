"""Pictures of attributions: the figure that goes into papers, and single results.

Colours as in the LAM paper: `seismic`, white for nothing, red for much.
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
    """What one network did: its map (h,w), diffusion index and SR image (s*h,s*w,3)."""

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
    """Kernel density of a map, half transparent over the enlarged input (h,w,3)."""
    height, width = map_.shape
    size = (width * scale, height * scale)
    below = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    blend: Pixels = (0.5 * below + 0.5 * heat(_density(map_), scale)).round().astype(np.uint8)
    return blend


def figure(image: Tensor, panels: Sequence[Panel], window: Sequence[int], scale: int) -> Figure:
    """Input with window; below each network's name its map, density, SR crop, diffusion index.

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
    """`kde_density`, and nothing for a map of zeros: that of an image without any structure."""
    return kde_density(map_) if map_.any() else np.zeros(map_.shape)


def _spread(map_: NDArray[np.float32], diffusion_index: float) -> str:
    """The diffusion index, which a map of zeros has none of."""
    return f"DI {diffusion_index:.2f}" if map_.any() else "nothing attributed"


def _show(axis: Axes, image: Pixels, title: str) -> None:
    axis.imshow(image, interpolation="nearest")
    # A network may be called "$x$": names are no formulas.
    axis.set_title(title, fontsize="medium", parse_math=False)


def _mark(axis: Axes, window: Sequence[int]) -> None:
    y, x, size = window
    axis.add_patch(
        Rectangle((x - 0.5, y - 0.5), size, size, fill=False, color=WINDOW_COLOUR, linewidth=1.5)
    )


def _around(window: Sequence[int], height: int, width: int) -> tuple[slice, slice]:
    """The window and as much again around it."""
    y, x, size = window
    margin = math.ceil(size / 2)
    return (
        slice(max(y - margin, 0), min(y + size + margin, height)),
        slice(max(x - margin, 0), min(x + size + margin, width)),
    )
