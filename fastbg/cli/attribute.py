"""The command `fastbg attribute`: the attribution figure of an image, as a file."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fastbg.attribution.explain import explain
from fastbg.attribution.page import page
from fastbg.attribution.picture import figure
from fastbg.cli.device import device_and_precision
from fastbg.cli.files import check_folder, open_image
from fastbg.data.degradation import crop_to_multiple, downsample
from fastbg.errors import InvalidArgument
from fastbg.filters.dtypes import as_float
from fastbg.models.options import load_choices, one_scale

FORMATS = (".png", ".pdf", ".svg")


def main(arguments: argparse.Namespace) -> None:
    """Write the figure, and the page if asked for; prints their paths."""
    with device_and_precision(arguments.device, arguments.precision) as device:
        draw(arguments, device)


def draw(arguments: argparse.Namespace, device: torch.device) -> None:
    """`main`, in the precision that was asked for."""
    out: Path = arguments.out
    if out.suffix.lower() not in FORMATS:
        raise InvalidArgument("--out", str(out), f"a file that ends with {', '.join(FORMATS)}")
    written = {"--out": out, "--html": arguments.html}
    given = {option: path for option, path in written.items() if path is not None}
    for option, path in given.items():
        check_folder(option, path)
    pixels = open_image("IMAGE", arguments.image)
    for option, path in given.items():
        if path.exists() and path.samefile(arguments.image):
            raise InvalidArgument(option, path, "another file than IMAGE")
    if arguments.method == "riemann_trapezoid" and arguments.steps < 2:
        raise InvalidArgument(
            "--steps", arguments.steps, "at least 2 for --method riemann_trapezoid"
        )
    say = partial(print, file=sys.stderr)  # what is printed otherwise are paths
    loaded = load_choices(arguments.model, device, say)
    models = {model.name: model for model in loaded}
    scale = one_scale(loaded)
    if arguments.hr:
        pixels = reduced(pixels, scale)
    check_window(arguments.window, *(scale * side for side in pixels.shape[:2]))
    image = as_float(torch.from_numpy(pixels).permute(2, 0, 1)).to(device)
    options = {
        "n_steps": arguments.steps,
        "method": arguments.method,
        "accuracy": arguments.accuracy,
    }
    panels = explain(image, models, arguments.window, **options)
    figure(image, panels, arguments.window, scale).savefig(out, dpi=200)
    print(out)
    if arguments.html is not None:
        y, x, size = arguments.window
        html = page(
            image,
            models,
            size,
            arguments.grid or 2 * size,
            title=Path(arguments.image).name,
            start=(y, x),
            **options,
        )
        arguments.html.write_text(html, encoding="utf-8")
        print(arguments.html)


def reduced(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """The LR image of an HR one."""
    if min(image.shape[:2]) < scale:
        height, width = image.shape[:2]
        expected = f"at least {scale}x{scale} pixels for --hr"
        raise InvalidArgument("IMAGE", f"{height}x{width} pixels", expected)
    return downsample(crop_to_multiple(image, scale), scale)


def check_window(window: Sequence[int], height: int, width: int) -> None:
    """Raises InvalidArgument for one that is not inside the SR image."""
    y, x, size = window
    if size < 1 or y < 0 or x < 0 or y + size > height or x + size > width:
        expected = f"Y X SIZE inside the SR image, which has {height}x{width} pixels"
        raise InvalidArgument("--window", f"{y} {x} {size}", expected)
