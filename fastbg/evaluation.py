"""PSNR and SSIM of networks on a benchmark folder, as papers report them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastbg import users_line
from fastbg.data.degradation import crop_to_multiple, downsample
from fastbg.data.images import ImageItem, ImageSet, read_image
from fastbg.data.pairs import counterparts
from fastbg.data.sets import check_lr_size
from fastbg.errors import DataError, FastbgError, InvalidArgument
from fastbg.geometry import Box, cut
from fastbg.measures.iqa import Measure, iqa_measures
from fastbg.measures.quality import SR_BEYOND, SSIM_SIZE, grey_levels
from fastbg.measures.strips import psnr_and_ssim
from fastbg.models.network import Network
from fastbg.models.tiles import forward_tiles
from fastbg.ops.checks import check_finite, check_no_other_range
from fastbg.printable import printable

Image = NDArray[np.uint8]


class Score(NamedTuple):
    """The scores of a network on one image."""

    model: str
    image: str
    psnr: float  # dB
    ssim: float
    others: Mapping[str, float] = MappingProxyType({})  # measures of pyiqa, by name


def evaluate(
    models: Sequence[Network],
    images: ImageSet,
    *,
    channel: str = "rgb",
    shave: int | None = None,
    kernel: str | None = None,
    lr: ImageSet | None = None,
    lr_name: str | None = None,
    tile: int | None = None,
    measures: Sequence[str] = (),
    save: Callable[[str, str, Image], None] | None = None,
    left_out: Callable[[str, FastbgError], None] | None = None,
) -> Iterator[Score]:
    """Yield the score of every network on every image, one image after the other.

    Args:
        models: networks of one scale, on the device and in the dtype to run them in.
        images: HR images; rows and columns that the scale does not divide are cut off.
        channel: "rgb", as in the experiments, or "y" (luma), as in published benchmarks and the
            default of `fastbg evaluate`.
        shave: width of the border that is left out, in SR pixels; None: the scale.
        kernel: "matlab" or "pil" bicubic, which makes the LR images; None: the data set's own LR
            images if it has any, else "matlab"; warns if it has some that do not fit.
        lr: LR images to use, with the names of the HR images or those of common data sets
            ("babyx4", "baby_LR4", "baby_bicLRx4").
        lr_name: a template for other names: "{}_small{scale}" for "baby_small4.png".
        tile: compute large images in tiles of tile x tile LR pixels, to save memory. The result is
            the same up to rounding for networks with a bounded receptive field
            (`fastbg.models.tiles.is_exact`). For others it differs: each tile gets 32 LR pixels
            around it.
        measures: further measures by pyiqa's names (`fastbg[iqa]`), on RGB without the border.
        save: called with network, image and the SR image (H,W,3) uint8.
        left_out: called with an image that cannot be read or scored and the error; evaluation
            continues. None: the error is raised.

    Raises InvalidArgument for networks of several scales or of one name, `lr` and `kernel`
    together, or images that are no image set; DataError for images that cannot be read, or have no
    LR image of their size.
    """
    for name, given in (("images", images), ("lr", lr)):
        if not (isinstance(given, ImageSet) or (name == "lr" and given is None)):
            raise InvalidArgument(name, type(given).__name__, "an image set, as open_images gives")
    if isinstance(models, Network):
        raise InvalidArgument("models", f"the network {models.name}", "a list of networks: [net]")
    scales = {model.scale for model in models}
    if len(scales) != 1:
        raise InvalidArgument("models", f"scales {sorted(scales)}", "networks of one scale")
    names = [model.name for model in models]
    if len(set(names)) != len(names):
        raise InvalidArgument("models", f"names {names}", "a name for each: set model.name")
    if lr is not None and kernel is not None:
        raise InvalidArgument("kernel", repr(kernel), "none together with lr")
    if tile is not None and tile < 1:
        raise InvalidArgument("tile", tile, "at least 1 LR pixel")
    scale = scales.pop()
    shave = scale if shave is None else shave
    others = iqa_measures(measures, models[0].mean.device)
    images.refuse_low()
    if kernel is None and lr is None and images.lr_source and not has_low(images, scale):
        users_line.warn(described(images, scale))
    own = None if lr is None else counterparts(images, lr, scale, lr_name)
    for item in images.items:
        try:
            low, high = image_pair(item, scale, kernel, None if own is None else own[item.key])
            check_size(item.path, high, shave)
        except DataError as error:
            if left_out is None:
                raise
            left_out(item.key, error)
            continue
        for model in models:
            sr = run(model, low, tile)
            if save is not None:
                save(model.name, item.key, sr)
            quality = psnr_and_ssim(sr, high, shave, channel)
            more = measured(others, sr, high, shave)
            yield Score(model.name, item.key, *quality, more)


def measured(others: Mapping[str, Measure], sr: Image, hr: Image, shave: int) -> dict[str, float]:
    """The measures `others`, without the border."""
    box = Box(0, 0, *hr.shape[:2]).grow(-shave, *hr.shape[:2])
    return {
        name: f(*(to_tensor(cut(each, box)) for each in (sr, hr))) for name, f in others.items()
    }


def check_size(path: Path, high: Image, shave: int) -> None:
    """Raises DataError for an image that is too small to be scored."""
    height, width = high.shape[:2]
    least = SSIM_SIZE + 2 * shave
    if min(height, width) < least:
        raise DataError(
            f"{printable(path)}: {height}x{width} pixels that can be compared; expected at least "
            f"{least}x{least} for SSIM with a border (--shave) of {shave} left out"
        )


def image_pair(
    item: ImageItem, scale: int, kernel: str | None = None, lr: Path | None = None
) -> tuple[Image, Image]:
    """LR (h,w,3) and HR (s*h,s*w,3) pixels of `item`; LR made by `kernel`, its own, or from `lr`.

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
    # Data sets round odd sizes up or down: keep the common part.
    low = low[: high.shape[0] // scale, : high.shape[1] // scale]
    return low, high[: low.shape[0] * scale, : low.shape[1] * scale]


def described(
    images: ImageSet,
    scale: int,
    *,
    kernel: str | None = None,
    lr: ImageSet | None = None,
) -> str:
    """One line of text about the HR images and the source of the LR images."""
    if lr is not None:
        source = f"LR x{scale} read from {lr.name}"
    elif kernel is None and has_low(images, scale):
        source = f"LR x{scale} read from {images.lr_source}"
    else:
        source = f"LR x{scale} made by {kernel or 'matlab'} bicubic"
        source += f" (own LR images: {images.lr_source})" if images.lr_source else ""
    return f"{images.name}: {len(images)} HR images; {source}"


def has_low(images: ImageSet, scale: int) -> bool:
    """Whether the set has LR images of its own at `scale`."""
    return bool(images.items) and images.items[0].lr_path(scale) is not None


def run(model: Network, low: Image, tile: int | None = None) -> Image:
    """SR image (s*h,s*w,3) of an 8-bit LR image (h,w,3), clipped and rounded to 8 bit.

    With `tile` in tiles of so many LR pixels a side, see `fastbg.models.tiles`. Raises
    InvalidArgument for an output that is no image: NaN, or of another range.
    """
    height, width = low.shape[:2]
    sr = np.empty((height * model.scale, width * model.scale, 3), np.uint8)
    with torch.inference_mode():
        x = to_tensor(low).to(model.mean)
        if tile is None or tile >= max(height, width):
            whole = Box(0, 0, *sr.shape[:2])
            parts = iter([(whole, model(x.contiguous(memory_format=torch.channels_last)))])
        else:
            parts = forward_tiles(model, x, tile)
        for box, part in parts:
            part = part.cpu()
            check_finite(f"model {model.name}", part, "an SR image")
            check_no_other_range(f"model {model.name}", part, SR_BEYOND)
            levels = grey_levels(part)[0].byte()
            sr[box.slices()] = levels.permute(1, 2, 0).numpy()
    return sr


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
        others = {key: fmean(s.others[key] for s in mine) for key in mine[0].others}
        means.append(Score(name, f"mean of {len(mine)}", fmean(psnrs), fmean(ssims), others))
    return means
