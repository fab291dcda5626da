"""An interactive page: click on the SR image, and each network's map follows the window.

One HTML file without any other: images as data URLs, maps of a grid of windows as 8-bit PNG.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
from fastbg.precision import current

TEMPLATE = Path(__file__).parent / "page.html.j2"


def grid_windows(height: int, width: int, size: int, step: int) -> list[tuple[int, int, int]]:
    """Windows y, x, size every `step` SR pixels, the last of each row and column at the end."""

    def starts(length: int) -> list[int]:
        last = length - size
        return [*range(0, last, step), last]

    return [(y, x, size) for y in starts(height) for x in starts(width)]


def page(
    image: Tensor,
    models: Mapping[str, Network],
    size: int,
    step: int,
    title: str,
    start: Sequence[int] = (0, 0),
    **options: Any,
) -> str:
    """The page's HTML.

    Args:
        image: LR (3,h,w) in [0,1].
        models: by the name that the page shows; all of one scale.
        size: side of the windows in SR pixels.
        step: distance of neighbouring windows in SR pixels; a click takes the nearest one.
        title: heading, such as the image's name.
        start: y, x of the window that is shown first.
        options: of `LocalAttribution.attribute`.
    """
    height, width = image.shape[-2:]
    scale = next(iter(models.values())).scale
    windows = grid_windows(height * scale, width * scale, size, step)
    shown = []
    for name, model in models.items():
        result = LocalAttribution(model).attribute(image[None], windows, **options)
        with torch.no_grad():
            sr = pixels(model(image[None])[0])
        levels = (result.map * 255).round().to(torch.uint8).cpu().numpy()
        shown.append(
            {
                "name": name,
                "sr": _data_url(sr),
                # One tall picture of all maps: far smaller than one file each.
                "maps": _data_url(levels.reshape(-1, width)),
                "di": [round(float(v), 3) for v in result.diffusion_index],
            }
        )
    content = {
        "height": height,
        "width": width,
        "scale": scale,
        "windows": windows,
        "start": list(start),
        "models": shown,
        "colours": _colours(),
        "mark": WINDOW_COLOUR,
    }
    environment = Environment(autoescape=select_autoescape(default=True, default_for_string=True))
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    # "<" is escaped so that no name can end the script element.
    embedded = json.dumps(content).replace("<", "\\u003c")
    return template.render(title=title, precision=current(), content=embedded)


def _colours() -> list[list[int]]:
    table = mpl.colormaps["seismic"](0.5 + np.arange(256) / 510, bytes=True)[:, :3]
    colours: list[list[int]] = table.tolist()
    return colours


def _data_url(image: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
