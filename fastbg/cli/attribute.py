"""The command `fastbg attribute`: the attribution figure of an image, as a file."""

import argparse
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fastbg.attribution.explain import explain
from fastbg.attribution.page import page
from fastbg.attribution.picture import figure
from fastbg.data.degradation import crop_to_multiple, downsample
from fastbg.data.images import read_image
from fastbg.errors import InvalidArgument
from fastbg.models.options import load_choices

FORMATS = (".png", ".pdf", ".svg")


def main(arguments: argparse.Namespace) -> None:
    """Write the figure, and the page if asked for; prints their paths."""
    out: Path = arguments.out
    if out.suffix.lower() not in FORMATS:
        raise InvalidArgument("--out", str(out), f"a file that ends with {', '.join(FORMATS)}")
    for option, path in (("--out", out), ("--html", arguments.html)):
        if path is not None and not path.parent.is_dir():
            raise InvalidArgument(option, str(path), "a file in a folder that exists")
    if arguments.grid is not None and arguments.grid < 1:
        raise InvalidArgument("--grid", arguments.grid, "at least 1 SR pixel")
    say = partial(print, file=sys.stderr)  # what is printed otherwise are paths
    loaded = load_choices(arguments.model, arguments.device, say)
    models = {model.name: model for model in loaded}
    scales = sorted({model.scale for model in models.values()})
    if len(scales) > 1:
        raise InvalidArgument("--model", f"networks of scales {scales}", "one scale for all")

    image = _read(arguments.image, scales[0] if arguments.hr else None).to(arguments.device)
    options = {
        "n_steps": arguments.steps,
        "method": arguments.method,
        "accuracy": arguments.accuracy,
    }
    panels = explain(image, models, arguments.window, **options)
    figure(image, panels, arguments.window, scales[0]).savefig(out, dpi=200)
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


def _read(path: str, scale: int | None) -> Tensor:
    """LR image (3,h,w) in [0,1]; reduced by `scale` if one is given."""
    image = read_image(path)
    if scale is not None:
        image = downsample(crop_to_multiple(image, scale), scale)
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255
