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
from fastbg.errors import DataError, InvalidArgument
from fastbg.metrics import CHANNELS, psnr, ssim
from fastbg.models.bicubic import Bicubic
from fastbg.models.network import Network
from fastbg.models.options import HELP, METAVAR, load_choices
from fastbg.ops.resampling import KERNELS

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
    channel: str = "y",
    shave: int | None = None,
    kernel: str | None = None,
    lr: ImageSet | None = None,
) -> Iterator[Score]:
    """Score of every network on every image, image by image, as soon as it is known.

    Args:
        models: networks of one scale, on the device and in the dtype that they shall run in.
        images: HR images; rows and columns that the scale does not divide are cut off.
        channel: "y" (luma) or "rgb".
        shave: border, in SR pixels, that is not measured; None: as many as the scale.
        kernel: LR images are made with "matlab" or "pil" bicubic; None: the data set's own LR
            images where it has them, else "matlab".
        lr: LR images to use, named like the HR images, or with "x4" added.

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
    for item in images.items:
        low, high = image_pair(item, scale, kernel, lr)
        hr = to_tensor(high).double()
        for model in models:
            sr = run(model, low).double()
            quality = (f(sr, hr, shave=shave, channel=channel).item() for f in (psnr, ssim))
            yield Score(model.name, item.key, *quality)


def image_pair(
    item: ImageItem, scale: int, kernel: str | None = None, lr: ImageSet | None = None
) -> tuple[Image, Image]:
    """LR (h,w,3) and HR (s*h,s*w,3) of `item`; arguments and errors as for `evaluate`."""
    high = item.load()
    if lr is not None:
        low: Image | None = read_image(_counterpart(item, lr, scale))
    else:
        low = item.load_lr(scale) if kernel is None else None
    if low is None:
        high = crop_to_multiple(high, scale)
        return downsample(high, scale, kernel or "matlab"), high
    # A data set may have rounded an odd size either way: keep what both have.
    low = low[: high.shape[0] // scale, : high.shape[1] // scale]
    height, width = low.shape[0] * scale, low.shape[1] * scale
    if high.shape[0] - height >= scale or high.shape[1] - width >= scale:
        raise DataError(
            f"{item.path}: its LR image is {low.shape[0]}x{low.shape[1]}; expected 1/{scale} of"
            f" {high.shape[0]}x{high.shape[1]}"
        )
    return low, high[:height, :width]


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


def _counterpart(item: ImageItem, lr: ImageSet, scale: int) -> Path:
    stem = item.path.stem
    names = {stem, f"{stem}x{scale}", stem.removesuffix("_HR") + "_LR"}
    found = [other.path for other in lr.items if other.path.stem in names]
    if len(found) != 1:
        raise DataError(
            f"{item.path}: {len(found)} images of {lr.name} are named like it; expected one of"
            f" {sorted(names)}"
        )
    return found[0]


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
    parser.add_argument("--device", default="cpu", help="default: cpu")


def main(arguments: argparse.Namespace) -> None:
    """Score the networks and bicubic, and print the table."""
    models = load_choices(arguments.model, arguments.device)
    images = open_folder(arguments.data)
    lr = None if arguments.lr is None else open_folder(arguments.lr)
    console = Console(highlight=False)
    scores = []
    for score in evaluate(
        [Bicubic(models[0].scale), *models],
        images,
        channel=arguments.channel,
        shave=arguments.shave,
        kernel=arguments.kernel,
        lr=lr,
    ):
        line = f"{score.image}  {score.model}  {score.psnr:.2f} dB  {score.ssim:.4f}"
        console.print(line, markup=False, soft_wrap=True)
        scores.append(score)
    console.print(table(images.name, arguments.channel, scores))


def table(name: str, channel: str, scores: Sequence[Score]) -> Table:
    """The mean of each network."""
    result = Table("network", f"PSNR {channel}, dB", f"SSIM {channel}", title=name)
    for mean in mean_scores(scores):
        result.add_row(mean.model, f"{mean.psnr:.2f}", f"{mean.ssim:.4f}")
    return result
