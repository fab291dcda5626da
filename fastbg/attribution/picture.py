"""Pictures of attributions: a figure that compares networks, and one of a single result.

Colours as in the LAM paper: `seismic`, white for nothing, red for much. Every axis is in SR pixels,
so that the window, the zoom and the images lie where they belong.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastbg.attribution.density import kde_density
from fastbg.attribution.diffusion import offset_index
from fastbg.attribution.passes import as_box
from fastbg.errors import InvalidArgument
from fastbg.filters.dtypes import as_uint8
from fastbg.geometry import Box

if TYPE_CHECKING:
    from fastbg.attribution.result import AttributionResult

Pixels = NDArray[np.uint8]
WINDOW_COLOUR = "#e6194b"
ZOOM_COLOUR = "#ffd000"
PANEL = 2.0  # inches a side
LETTERS = 16  # characters of the smallest text per inch
THUMBNAIL = 800  # pixels a side of the whole input, at most
# Smallest share of every map that the zoomed maps show: the first that a part of the image holds.
SHOWN = (0.95, 0.8, 0.5)
LEAST_VIEW = 8  # LR pixels on each side of the window's centre
MOST_OFFSET = 0.1  # largest share of a diffusion index due to the offset without a star
STAR = "*"
STARRED = (
    f"{STAR} More than {100 * MOST_OFFSET:.0f} % of this index is due to the 1e-7 that the public "
    "code adds to each pixel."
)
DENSE = 512  # LR pixels a side of a zoom that is still enlarged to SR pixels


@dataclass(frozen=True)
class Panel:
    """The results of one network for a window.

    Attributes:
        name: of the network.
        result: the attribution of one window.
        sr: SR pixels of the box `shown`, the window and its surroundings (.., .., 3).
        psnr: of the window in dB, None without ground truth.
    """

    name: str
    result: "AttributionResult"
    sr: Pixels
    shown: Box
    psnr: float | None = None

    @cached_property
    def map(self) -> NDArray[np.float32]:
        """(h,w) attribution map, LR."""
        values: NDArray[np.float32] = self.result.map[0].cpu().numpy()
        return values

    @property
    def diffusion_index(self) -> float:
        """Diffusion index of the map."""
        return float(self.result.diffusion_index[0])


def pixels(image: Tensor) -> Pixels:
    """8-bit pixels (h,w,3) of an image (3,h,w), or of a grey one (1,h,w), in [0,1]."""
    levels: Pixels = as_uint8(image.expand(3, -1, -1)).permute(1, 2, 0).cpu().numpy()
    return levels


def heat(values: NDArray[Any], scale: int = 1) -> Pixels:
    """`values` (h,w) in [0,1] as colours (s*h,s*w,3), bicubically enlarged."""
    colours = mpl.colormaps["seismic"](values * 0.5 + 0.5, bytes=True)[..., :3]
    height, width = values.shape
    large = Image.fromarray(colours).resize(
        (width * scale, height * scale), Image.Resampling.BICUBIC
    )
    return np.asarray(large)


def density_over(image: Pixels, density: NDArray[Any], scale: int) -> Pixels:
    """A density (h,w) in [0,1], half transparent over the enlarged input (h,w,3)."""
    height, width = density.shape
    size = (width * scale, height * scale)
    below = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    blend: Pixels = (0.5 * below + 0.5 * heat(density, scale)).round().astype(np.uint8)
    return blend


def around(window: Box, height: int, width: int) -> Box:
    """A square twice as large as the window, inside (height, width)."""
    return window.around(2 * max(_sides(window)), height, width)


def view_of(maps: Sequence[NDArray[Any]], window: Box, scale: int) -> tuple[Box, float]:
    """LR pixels to show, and the share of each of the maps (h,w) that they hold at least.

    A square around the window. All of the image where the smallest share needs most of it anyway.
    """
    height, width = maps[0].shape
    for share in SHOWN:
        radius = _radius(maps, window, scale, share)
        if 2 * radius < 0.8 * min(height, width):
            return window.coarsen(scale).around(2 * radius + 1, height, width), share
    return Box(0, 0, height, width), 1.0


def _radius(maps: Sequence[NDArray[Any]], window: Box, scale: int, share: float) -> int:
    """Half the side of the square around the window that holds `share` of each map."""
    height, width = maps[0].shape
    y, x = ((a + b) / 2 / scale for a, b in ((window.y0, window.y1), (window.x0, window.x1)))
    rows, columns = (abs(np.arange(n) + 0.5 - c) for n, c in ((height, y), (width, x)))
    distance = np.maximum(rows[:, None], columns).astype(np.int64)
    radius = max(LEAST_VIEW, math.ceil(max(_sides(window)) / scale))
    for map_ in maps:
        held = np.bincount(distance.ravel(), map_.ravel().astype(np.float64)).cumsum()
        radius = max(radius, int((held < share * held[-1]).sum()) + 1)
    return radius


def figure(
    image: Tensor,
    panels: Sequence[Panel],
    window: Sequence[int],
    scale: int,
    hr: Tensor | None = None,
) -> Figure:
    """The input with its window; of each network the map and its density, and the SR window.

    Args:
        image: LR (3,h,w) in [0,1].
        panels: as `explain` gives them.
        window: y, x, size or y0, x0, y1, x1 in SR pixels.
        scale: SR pixels per LR pixel.
        hr: ground truth (3,s*h,s*w) in [0,1], shown beside the SR windows; else the LR window is.
    """
    box, lr = as_box(window), pixels(image)
    height, width = lr.shape[:2]
    view, share = view_of([panel.map for panel in panels], box, scale)
    columns = len(panels) + 1
    drawn, axes = _grid(3, columns)
    _show_input(axes[0, 0], lr, box, view, scale)
    title = "LR input" if view == Box(0, 0, height, width) else "zoom"
    _show(axes[1, 0], lr[view.slices()], view.refine(scale), title)
    _mark(axes[1, 0], box)
    shown = around(box, height * scale, width * scale)
    if hr is None:
        covered = shown.coarsen(scale)
        _show(axes[2, 0], lr[covered.slices()], covered.refine(scale), "LR input")
        axes[2, 0].set(xlim=(shown.x0, shown.x1), ylim=(shown.y1, shown.y0))
    else:
        _show(axes[2, 0], pixels(hr[(slice(None), *shown.slices())]), shown, "ground truth")
    _mark(axes[2, 0], box)
    for column, panel in enumerate(panels, start=1):
        map_axis, density_axis, sr_axis = axes[:, column]
        _show_map(map_axis, panel.map, view, box, scale)
        map_axis.set_title(panel.name, fontsize="medium", parse_math=False)
        map_axis.set_xlabel(spread(panel.map, panel.diffusion_index))
        _show_density(density_axis, lr, panel.map, view, box, scale)
        _show(sr_axis, panel.sr, panel.shown)
        sr_axis.set(xlim=(shown.x0, shown.x1), ylim=(shown.y1, shown.y0))
        _mark(sr_axis, box)
        if panel.psnr is not None:
            sr_axis.set_xlabel(f"PSNR {panel.psnr:.2f} dB")
    for row, text in enumerate(("attribution", "density", "SR")):
        if columns > 1:
            axes[row, 1].set_ylabel(text)
    _colour_scale(drawn, axes)
    _explain(drawn, lr, box, scale, share, PANEL * columns)
    return drawn


def result_figure(result: "AttributionResult", index: int | tuple[int, ...] = 0) -> Figure:
    """Input with window, map and density of one entry of `result`."""
    index = pair_of(index, result.windows.shape[:-1])
    lr, box = pixels(result.images[index]), as_box(result.windows[index].tolist())
    map_, scale = result.map[index].cpu().numpy(), result.scale
    view, share = view_of([map_], box, scale)
    drawn, axes = _grid(1, 3)
    _show_input(axes[0, 0], lr, box, view, scale)
    _show_map(axes[0, 1], map_, view, box, scale)
    axes[0, 1].set_title("attribution", fontsize="medium")
    axes[0, 1].set_xlabel(spread(map_, float(result.diffusion_index[index])))
    _show_density(axes[0, 2], lr, map_, view, box, scale)
    axes[0, 2].set_title("density", fontsize="medium")
    _colour_scale(drawn, axes)
    _explain(drawn, lr, box, scale, share, PANEL * 3)
    return drawn


def pair_of(index: int | tuple[int, ...], shape: Sequence[int]) -> tuple[int, ...]:
    """The index tuple in results of leading `shape`, (B) or (B,N), for `index`.

    A number counts all pairs, those of the first image first. InvalidArgument if out of range.
    """
    count = math.prod(shape)
    if isinstance(index, tuple):
        fits = len(index) == len(shape)
        fits = fits and all(-n <= i < n for i, n in zip(index, shape, strict=True))
    else:
        fits = -count <= index < count
    if not fits:
        expected = f"one of {count} pairs, or its place in {tuple(shape)}"
        raise InvalidArgument("index", index, expected)
    if isinstance(index, tuple):
        return index
    return tuple(int(i) for i in np.unravel_index(index % count, tuple(shape)))


def _grid(rows: int, columns: int) -> tuple[Figure, NDArray[Any]]:
    """Axes (rows, columns) without ticks."""
    size = (PANEL * columns + 0.7, (PANEL + 0.2) * rows + 0.8)
    drawn = Figure(figsize=size, layout="constrained")
    axes = drawn.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], anchor="N")
    return drawn, axes


def _show_input(axis: Axes, lr: Pixels, window: Box, view: Box, scale: int) -> None:
    """The whole input, with the window and the part that the maps show."""
    height, width = lr.shape[:2]
    small = Image.fromarray(lr)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    _show(axis, np.asarray(small), Box(0, 0, height * scale, width * scale), "LR input")
    _mark(axis, window)
    if view != Box(0, 0, height, width):
        _mark(axis, view.refine(scale), ZOOM_COLOUR)
    axis.set_xlabel(f"{height} x {width} pixels", fontsize="small")


def _show_map(axis: Axes, map_: NDArray[Any], view: Box, window: Box, scale: int) -> None:
    _show(axis, heat(map_[view.slices()]), view.refine(scale))
    _mark(axis, window)


def _show_density(
    axis: Axes, lr: Pixels, map_: NDArray[Any], view: Box, window: Box, scale: int
) -> None:
    density = density_in(map_, view)
    if density is None:
        density = map_[view.slices()]
        axis.set_xlabel("the map: too narrow for a density", fontsize="small")
    # Above some size, enlarged pixels are not visible.
    enlarged = scale if max(density.shape) <= DENSE else 1
    _show(axis, density_over(lr[view.slices()], density, enlarged), view.refine(scale))
    _mark(axis, window)


def density_in(map_: NDArray[Any], view: Box) -> NDArray[np.float64] | None:
    """`kde_density` of a map in `view`; zeros for a map of zeros, None if it has no density.

    Pixels outside of the nonzero part of the map do not influence the density, so it is left out.
    """
    if not map_.any():
        return np.zeros(map_.shape)[view.slices()]
    rows, columns = np.flatnonzero(map_.any(1)), np.flatnonzero(map_.any(0))
    part = view.joined(Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1))
    try:
        density = kde_density(map_[part.slices()])
    except InvalidArgument:  # all mass on one pixel or line
        return None
    return density[view.moved(-part.y0, -part.x0).slices()]


def spread(map_: NDArray[np.float32], diffusion_index: float) -> str:
    """The diffusion index, such as "DI 1.25"; with a star if much of it is due to the offset.

    The offset matters in large images, see `offset_index`. A map of zeros has no index.
    """
    if not map_.any():
        return "nothing attributed"
    offset = float(offset_index(torch.from_numpy(map_)))
    return f"DI {diffusion_index:.2f}{STAR if offset > MOST_OFFSET * diffusion_index else ''}"


def _show(axis: Axes, image: Pixels, place: Box, title: str = "") -> None:
    """`image` at `place` in SR pixels."""
    extent = (place.x0, place.x1, place.y1, place.y0)
    axis.imshow(image, interpolation="nearest", extent=extent)
    if title:
        # Names such as "$x$" must not be parsed as formulas.
        axis.set_title(title, fontsize="medium", parse_math=False)


def _mark(axis: Axes, box: Box, colour: str = WINDOW_COLOUR) -> None:
    height, width = _sides(box)
    frame = Rectangle((box.x0, box.y0), width, height, fill=False, color=colour, linewidth=1.2)
    # A white rim separates it from the map's red.
    frame.set_path_effects([Stroke(linewidth=2.6, foreground="white"), Normal()])
    axis.add_patch(frame)


def _colour_scale(drawn: Figure, axes: NDArray[Any]) -> None:
    """Draw the colour scale of the maps, to the right of the first row."""
    upper = mpl.colormaps["seismic"](np.linspace(0.5, 1, 256))
    colours = ScalarMappable(Normalize(0, 1), ListedColormap(upper))
    share = 0.78 / len(axes)  # of the height: that of one row's images
    bar = drawn.colorbar(
        colours, ax=axes, ticks=[0, 0.5, 1], aspect=15, shrink=share, anchor=(0, 0.93), pad=0.02
    )
    bar.set_label("share of the maximum", fontsize="small")
    bar.ax.tick_params(labelsize="small")


def _explain(
    drawn: Figure, lr: Pixels, window: Box, scale: int, share: float, inches: float
) -> None:
    """Write the legend below the figure; `share` of each map is shown, 1 if there is no zoom."""
    height, width = lr.shape[:2]
    labels = [axis.get_xlabel() for axis in drawn.axes]
    rows, columns = _sides(window)
    said = [
        f"Red frame: the window, {rows} x {columns} SR pixels (x{scale}) at y {window.y0}, "
        f"x {window.x0}. Attribution: how much each LR pixel was used for it. Density: the "
        "attribution smoothed, over the input.",
        "DI, the diffusion index: 0 if one LR pixel has all of it, 100 if all "
        f"{height} x {width} have equal shares.",
    ]
    if share < 1:
        said.insert(1, f"Yellow frame: shown part, at least {100 * share:.0f} % of each map.")
    if any(label.endswith(STAR) for label in labels):
        said.append(STARRED)
    if any(label.startswith("PSNR") for label in labels):
        said.append("PSNR: of the window, RGB.")
    text = textwrap.fill(" ".join(said), round(LETTERS * inches))
    drawn.supxlabel(text, fontsize="x-small", ha="left", x=0.02)


def _sides(box: Box) -> tuple[int, int]:
    return box.y1 - box.y0, box.x1 - box.x0
