"""PSNR and SSIM of networks on a benchmark folder, in the field's conventions."""

import argparse
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fastbg.data.degradation import crop_to_multiple, downsample
from fastbg.data.images import ImageItem, ImageSet, open_folder, read_image
from fastbg.data.pairs import counterparts
from fastbg.data.readable import open_readable
from fastbg.data.sets import check_lr_size
from fastbg.errors import InvalidArgument
from fastbg.filters.bicubic import KERNELS
from fastbg.measures.quality import CHANNELS, psnr, ssim
from fastbg.models.bicubic import Bicubic
from fastbg.models.network import Network
from fastbg.models.options import HELP, METAVAR, load_choices

Image = NDArray[np.uint8]


class Score(NamedTuple):
    """What a network made of one image."""

    model: str
    image: str
    psnr: float  # dB
    ssim: float


def evaluate(
    models: Sequence[Network],
    images: ImageSet,
    *,
    channel: str = "rgb",
    shave: int | None = None,
    kernel: str | None = None,
    lr: ImageSet | None = None,
    lr_name: str | None = None,
) -> Iterator[Score]:
    """Score of every network on every image, image by image, as soon as it is known.

    Args:
        models: networks of one scale, on the device and in the dtype to run them in.
        images: HR images; rows and columns that the scale does not divide are cut off.
        channel: "rgb", as in the experiments, or "y" (luma), as the benchmarks are published and
            as the command does by default.
        shave: border, in SR pixels, that is not measured; None: as many as the scale.
        kernel: LR images are made with "matlab" or "pil" bicubic; None: the data set's own LR
            images where it has them, else "matlab".
        lr: LR images to use, named like the HR images or as the field's data sets name them
            ("babyx4", "baby_LR4", "baby_bicLRx4").
        lr_name: other names, as a template: "{}_small{scale}" for "baby_small4.png".

    Raises InvalidArgument for networks of several scales, or `lr` and `kernel` together; DataError
    for images that cannot be read, or have no LR image of their size.
    """
    scales = {model.scale for model in models}
    if len(scales) != 1:
        raise InvalidArgument("models", f"scales {sorted(scales)}", "networks of one scale")
    if lr is not None and kernel is not None:
        raise InvalidArgument("kernel", repr(kernel), "none beside given LR images")
    scale = scales.pop()
    shave = scale if shave is None else shave
    images.refuse_low()
    own = None if lr is None else counterparts(images, lr, scale, lr_name)
    for item in images.items:
        low, high = image_pair(item, scale, kernel, None if own is None else own[item.key])
        hr = to_tensor(high).double()
        for model in models:
            sr = run(model, low).double()
            quality = (f(sr, hr, shave=shave, channel=channel).item() for f in (psnr, ssim))
            yield Score(model.name, item.key, *quality)


def image_pair(
    item: ImageItem, scale: int, kernel: str | None = None, lr: Path | None = None
) -> tuple[Image, Image]:
    """LR (h,w,3) and HR (s*h,s*w,3) of `item`, the LR image made, its own, or the file `lr`.

    Raises DataError for a file that is unreadable or of another size than HR / `scale`.
    """
    high = item.load()
    low = None
    if lr is not None:
        low = read_image(lr)
        check_lr_size(lr, low.shape[:2], high.shape[:2], scale, item.path)
    elif kernel is None:
        low = item.load_lr(scale)
    if low is None:
        high = crop_to_multiple(high, scale)
        return downsample(high, scale, kernel or "matlab"), high
    # A data set may have rounded an odd size either way: keep what both have.
    low = low[: high.shape[0] // scale, : high.shape[1] // scale]
    return low, high[: low.shape[0] * scale, : low.shape[1] * scale]


def described(
    images: ImageSet,
    scale: int,
    *,
    kernel: str | None = None,
    lr: ImageSet | None = None,
) -> str:
    """One line: which images, and which LR images they are given with."""
    if lr is not None:
        source = f"LR x{scale} read from {lr.name}"
    elif kernel is None and images.items and images.items[0].lr_path(scale) is not None:
        source = f"LR x{scale} read from {images.lr_source}"
    else:
        source = f"LR x{scale} made by {kernel or 'matlab'} bicubic"
        source += f" (own LR images: {images.lr_source})" if images.lr_source else ""
    return f"{images.name}: {len(images)} HR images; {source}"


def run(model: Network, low: Image) -> Tensor:
    """SR image (1,3,s*h,s*w) on the CPU of an 8-bit LR image (h,w,3)."""
    with torch.inference_mode():
        x = to_tensor(low).to(model.mean)
        return model(x.contiguous(memory_format=torch.channels_last)).cpu()


def to_tensor(image: Image) -> Tensor:
    """(1,3,h,w) float32 in [0,1] of an 8-bit image (h,w,3)."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255


def mean_scores(scores: Sequence[Score]) -> list[Score]:
    """The mean over images of each network, in the order in which they come first."""
    order = {name: i for i, name in enumerate(dict.fromkeys(score.model for score in scores))}
    means = []
    for name, group in groupby(sorted(scores, key=lambda s: order[s.model]), lambda s: s.model):
        mine = list(group)
        psnrs, ssims = [s.psnr for s in mine], [s.ssim for s in mine]
        means.append(Score(name, f"mean of {len(mine)}", fmean(psnrs), fmean(ssims)))
    return means


# The command -------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `fastbg evaluate`."""
    parser.add_argument(
        "--model",
        nargs="+",
        action="extend",
        required=True,
        metavar=METAVAR,
        help=HELP,
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="HR images")
    parser.add_argument("--channel", choices=CHANNELS, default="y", help="default: y")
    parser.add_argument("--shave", type=int, help="border left out, SR pixels; default: the scale")
    parser.add_argument(
        "--kernel",
        choices=KERNELS,
        help="bicubic that makes the LR images; default: the data set's own, else matlab",
    )
    parser.add_argument("--lr", type=Path, metavar="DIR", help="LR images to use")
    add_image_arguments(parser)
    parser.add_argument("--device", default="cpu", help="default: cpu")


def main(arguments: argparse.Namespace) -> None:
    """Score the networks and bicubic, and print the table."""
    models = load_choices(arguments.model, arguments.device)
    scale = models[0].scale
    console = Console(highlight=False)
    own = scale if arguments.lr is None and arguments.kernel is None else None
    images = open_images(arguments, lr_scale=own)
    lr = None if arguments.lr is None else open_folder(arguments.lr)
    shave = scale if arguments.shave is None else arguments.shave
    line = described(images, scale, kernel=arguments.kernel, lr=lr)
    line += f"; channel {arguments.channel}, border of {shave} pixels left out"
    console.print(line, markup=False, soft_wrap=True)
    scores = []
    for score in evaluate(
        [Bicubic(models[0].scale), *models],
        images,
        channel=arguments.channel,
        shave=arguments.shave,
        kernel=arguments.kernel,
        lr=lr,
        lr_name=arguments.lr_name,
    ):
        line = f"{score.image}  {score.model}  {score.psnr:.2f} dB  {score.ssim:.4f}"
        console.print(line, markup=False, soft_wrap=True)
        scores.append(score)
    console.print(table(images.name, arguments.channel, scores))


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of every command that reads a folder of images."""
    parser.add_argument(
        "--lr-name",
        metavar="TEMPLATE",
        help="how LR files are named, where it is not found: the HR name as {}, such as "
        "'{}_bicLRx{scale}'",
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="go on without images that cannot be read"
    )


def open_images(arguments: argparse.Namespace, lr_scale: int | None = None) -> ImageSet:
    """The HR images of ``--data``, all of them readable; raises DataError."""
    return open_readable(
        arguments.data,
        lr_name=arguments.lr_name,
        skip_bad=arguments.skip_bad,
        lr_scale=lr_scale,
    )


def table(name: str, channel: str, scores: Sequence[Score]) -> Table:
    """The mean of each network."""
    result = Table("network", f"PSNR {channel}, dB", f"SSIM {channel}", title=name)
    for mean in mean_scores(scores):
        result.add_row(mean.model, f"{mean.psnr:.2f}", f"{mean.ssim:.4f}")
    return result
