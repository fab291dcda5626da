"""An interactive page: click on the SR image, and each network's map follows the window.

One HTML file without any other: images as data URLs, maps of a grid of windows as 8-bit PNG, cut
to where they are not 0.
"""

import base64
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from jinja2 import Environment, select_autoescape
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastbg.attribution.local import LocalAttribution
from fastbg.attribution.picture import WINDOW_COLOUR, pixels
from fastbg.models.network import Network
from fastbg.models.tiles import forward_tiles, is_exact
from fastbg.precision import current

TEMPLATE = Path(__file__).parent / "page.html.j2"


MOST_WINDOWS = 100  # of a page by default
TOGETHER = 16  # windows that share one pass over the whole image
SR_TILE = 256  # LR pixels a side


def default_step(height: int, width: int, size: int) -> int:
    """The smallest multiple of `size` with at most MOST_WINDOWS windows on (height, width)."""
    step = size
    while len(grid_windows(height, width, size, step)) > MOST_WINDOWS:
        step += size
    return step


def grid_windows(height: int, width: int, size: int, step: int) -> list[tuple[int, int, int]]:
    """Windows y, x, size every `step` SR pixels; the last of a row or column ends at the border."""

    def starts(length: int) -> list[int]:
        last = length - size
        return [*range(0, last, step), last]

    return [(y, x, size) for y in starts(height) for x in starts(width)]


class Map(NamedTuple):
    """An attribution map without the zeros around it."""

    y: int
    x: int
    levels: NDArray[np.uint8]

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> "Map":
        """The nonzero part of a map (h,w) in [0,1]."""
        levels = (values * 255).round().astype(np.uint8)
        rows, columns = np.flatnonzero(levels.any(1)), np.flatnonzero(levels.any(0))
        if not len(rows):
            return cls(0, 0, levels[:1, :1])
        y, x = int(rows[0]), int(columns[0])
        return cls(y, x, levels[y : int(rows[-1]) + 1, x : int(columns[-1]) + 1])


class Steps:
    """The windows of a page.

    Args:
        image: LR (3,h,w) in [0,1].
        models: by the name that the page shows; all of one scale.
        size: side of the windows in SR pixels.
        step: distance of neighbouring windows in SR pixels; None: so that there are at most
            MOST_WINDOWS. A click takes the nearest one.
        start: y, x of a window that is one of them wherever it lies, and shown first.
    """

    def __init__(
        self,
        image: Tensor,
        models: Mapping[str, Network],
        size: int,
        step: int | None = None,
        start: tuple[int, int] = (0, 0),
    ) -> None:
        self.image, self.models, self.size = image, models, size
        self.scale = next(iter(models.values())).scale
        height, width = (self.scale * side for side in image.shape[-2:])
        self.step = default_step(height, width, size) if step is None else step
        self.start = start
        self.windows = grid_windows(height, width, size, self.step)
        if (*start, size) not in self.windows:
            self.windows.append((*start, size))

    def maps(self, model: Network, **options: Any) -> Iterator[tuple[Map, float]]:
        """Each window's map and diffusion index; `options` are those of `attribute`."""
        lam, image = LocalAttribution(model), self.image[None]
        # A network that computes all of the image anyway does so once for several windows.
        together = 1 if model.stages() is not None else TOGETHER
        for first in range(0, len(self.windows), together):
            result = lam.attribute(image, self.windows[first : first + together], **options)
            indices = result.diffusion_index.tolist()
            yield from zip(map(Map.of, result.map.cpu().numpy()), indices, strict=True)

    def sr(self, model: Network) -> NDArray[np.uint8]:
        """The SR image (s*h,s*w,3), tile by tile where that is the same."""
        height, width = (self.scale * side for side in self.image.shape[-2:])
        whole = np.empty((height, width, 3), np.uint8)
        side = SR_TILE if is_exact(model) else max(self.image.shape[-2:])
        with torch.no_grad():
            for box, part in forward_tiles(model, self.image[None].to(model.mean.dtype), side):
                whole[box.slices()] = pixels(part[0])
        return whole


def page(
    steps: Steps,
    title: str,
    advance: Callable[[str, int], None] = lambda name, count: None,
    **options: Any,
) -> str:
    """The page's HTML.

    Args:
        steps: image, networks and windows.
        title: heading, such as the image's name.
        advance: called with a network's name and 0 when it begins, then 1 for each of its windows.
        options: of `LocalAttribution.attribute`.
    """
    shown = []
    for name, model in steps.models.items():
        maps, indices = [], []
        advance(name, 0)
        for found, index in steps.maps(model, **options):
            maps.append([found.y, found.x, _data_url(found.levels)])
            indices.append(round(index, 3))
            advance(name, 1)
        sr = _data_url(steps.sr(model))
        shown.append({"name": name, "sr": sr, "maps": maps, "di": indices})
    height, width = steps.image.shape[-2:]
    content = {
        "height": height,
        "width": width,
        "scale": steps.scale,
        "windows": steps.windows,
        "start": steps.windows.index((*steps.start, steps.size)),
        "models": shown,
        "colours": _colours(),
        "mark": WINDOW_COLOUR,
    }
    environment = Environment(autoescape=select_autoescape(default=True, default_for_string=True))
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    # "<" is escaped so that no name can end the script element.
    embedded = json.dumps(content).replace("<", "\\u003c")
    return template.render(
        title=title,
        count=len(steps.windows),
        height=height,
        width=width,
        precision=current(),
        content=embedded,
    )


def _colours() -> list[list[int]]:
    table = mpl.colormaps["seismic"](0.5 + np.arange(256) / 510, bytes=True)[:, :3]
    colours: list[list[int]] = table.tolist()
    return colours


def _data_url(image: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
