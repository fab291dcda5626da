"""Section 3.1 and Fig. 2: an image restored whole against restored in slices."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastbg.data.manifests import by_photograph, in_turn
from fastbg.errors import DataError, InvalidArgument
from fastbg.experiments.experiment import Experiment, Measured, Picture, Work, decibels
from fastbg.experiments.groups import image_sets
from fastbg.experiments.options import Options, option
from fastbg.experiments.study import Item, Study, as_image, restore
from fastbg.filters.dtypes import as_float
from fastbg.measures.groups import means_by
from fastbg.measures.quality import grey_levels, psnr
from fastbg.models.network import Network
from fastbg.printable import printable

SHOWN = 2  # cases in the gallery
STRONG = 64  # grey levels of change that are drawn as white


@dataclass(frozen=True)
class SlicingOptions(Options):
    """Sizes in HR pixels."""

    tile: int = option(
        64, "side of a slice, HR pixels; images are cropped to a multiple of it", low=1
    )
    count: int = option(40, "largest number of images, photographs and textures in turn", low=1)
    domain: Literal["lr", "hr"] = option(
        "lr",
        "image that is cut into slices",
        lr="the network's input",
        hr="the HR image; its slices are down-sampled one by one",
    )
    gap: float = option(1.0, "dB; C2: single images differ by more", low=0)


class Slicing(Experiment):
    """PSNR of an image restored whole and in slices, and errors by distance to the seams."""

    name = "slicing"
    title = "Does it matter whether an image is restored whole or in slices?"
    paper = "Section 3.1, Fig. 2"
    question = (
        "When memory is short, images are cut into slices, restored one by one and reassembled. "
        "By how much do the scores differ, and where do the two results differ?"
    )
    method = (
        "Each image is restored once as a whole and once in slices without overlap. Both are "
        "compared with the ground truth, and errors are averaged by the distance to the nearest "
        "seam, where a slice's pixels lack their neighbours."
    )
    options_type: ClassVar[type[Options]] = SlicingOptions
    cost: ClassVar[float] = 3.5
    chunk: ClassVar[int] = 1  # images differ in size
    curves = ("mse_whole", "mse_sliced", "difference")
    shown = ("hr", "whole", "sliced", "change")

    def plan(self, study: Study) -> list[Item]:
        """Whole images, cropped to a multiple of the slices."""
        o, scale = self.options, study.scale
        o.check(self.name)
        o.check_pairing(self.name)
        if o.tile < 2 * scale or o.tile % (2 * scale):
            raise InvalidArgument("slicing.tile", o.tile, f"a positive multiple of {2 * scale}")
        items = []
        # Shuffled by a digest of their keys, so that the first few images have several classes.
        sets = [
            by_photograph(images, sorted(images.items, key=lambda i: zlib.crc32(i.key.encode())))
            for images in image_sets(study.images).values()
        ]
        for image in islice(in_turn(sets), o.count):
            height, width = image.size()
            rows, columns = height // o.tile, width // o.tile
            if rows * columns < 2:
                raise DataError(
                    f"{printable(image.path)} ({height}x{width}) is smaller than two slices of "
                    f"{o.tile}x{o.tile}; choose a smaller slicing.tile"
                )
            box = (0, 0, rows * o.tile, columns * o.tile)
            items.append(Item(image.key, study.images.source(image.key), box, image=image.key))
        return items

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """PSNR (dB), whole and sliced; errors and difference by the distance to the seam."""
        hr = study.ground_truth(items)
        return self.compare(hr, *self.restored(net, items, hr, study))

    def restored(
        self, net: Network, items: Sequence[Item], hr: Tensor, study: Study
    ) -> tuple[Tensor, Tensor]:
        """SR of `hr` (B,3,H,W) uint8, whole and sliced."""
        o, tile = self.options, self.options.tile // study.scale
        lr = study.inputs(items, hr, o.lr, o.kernel)
        whole = restore(net, lr)
        hr_domain = o.domain == "hr"
        tiles = study.degrade(cut(hr, o.tile), o.kernel) if hr_domain else cut(lr, tile)
        rows, columns = lr.shape[-2] // tile, lr.shape[-1] // tile
        return whole, join(restore(net, tiles), rows, columns)

    def compare(self, hr: Tensor, whole: Tensor, sliced: Tensor) -> dict[str, Tensor]:
        """The columns of one image; nothing leaves the device."""
        o = self.options
        truth = as_float(hr)
        levels = [grey_levels(x, o.channel) for x in (truth, whole, sliced)]
        ring = seam_distance(hr.shape[-2], hr.shape[-1], o.tile, hr.device)

        def by_distance(error: Tensor) -> Tensor:
            return means_by(error.mean(1), ring, o.tile // 2)

        return {
            "psnr_whole": psnr(whole, truth, channel=o.channel),
            "psnr_sliced": psnr(sliced, truth, channel=o.channel),
            "mse_whole": by_distance((levels[1] - levels[0]).square()),
            "mse_sliced": by_distance((levels[2] - levels[0]).square()),
            "difference": by_distance((levels[2] - levels[1]).abs()),
        }

    def work(self, items: Sequence[Item], study: Study) -> Work:
        """Each image whole, and its slices."""
        pixels = sum((y1 - y0) * (x1 - x0) for y0, x0, y1, x1 in (item.box for item in items))
        slices = pixels // self.options.tile**2
        return Work(forwards=len(items) + slices)

    def exhibit(self, net: Network, item: Item, study: Study) -> dict[str, Picture]:
        """The slices that differ most: ground truth, both results, the difference."""
        hr = study.ground_truth([item])
        whole, sliced = self.restored(net, [item], hr, study)
        change = (grey_levels(sliced) - grey_levels(whole)).abs().amax(1, keepdim=True) / STRONG
        y0, x0, y1, x1 = self.busiest(whole, sliced)
        images = (hr, whole, sliced, change.expand_as(hr))
        return {
            name: as_image(image[0, :, y0:y1, x0:x1])
            for name, image in zip(self.shown, images, strict=True)
        }

    def busiest(self, whole: Tensor, sliced: Tensor) -> tuple[int, int, int, int]:
        """The box of 2 x 2 slices (fewer in small images) where the results differ most."""
        tile = self.options.tile
        change = (sliced - whole).abs().mean(1)
        height, width = (min(2 * tile, n) for n in change.shape[-2:])
        pooled = torch.nn.functional.avg_pool2d(change, (height, width), stride=tile)[0]
        row, column = divmod(int(pooled.argmax()), pooled.shape[1])
        return row * tile, column * tile, row * tile + height, column * tile + width

    def cases(self, measured: Measured) -> list[int]:
        """The images whose PSNR differs most."""
        return [int(i) for i in np.argsort(-np.abs(gain(measured)), kind="stable")[:SHOWN]]


def gain(result: Measured) -> NDArray[np.float64]:
    """PSNR in slices minus PSNR whole, dB (n)."""
    return decibels(result, "psnr_sliced") - decibels(result, "psnr_whole")


def cut(image: Tensor, tile: int) -> Tensor:
    """Slices (R*S,C,tile,tile) of `image` (1,C,R*tile,S*tile), row by row."""
    _, channels, height, width = image.shape
    tiles = image.reshape(channels, height // tile, tile, width // tile, tile)
    return tiles.permute(1, 3, 0, 2, 4).reshape(-1, channels, tile, tile)


def join(tiles: Tensor, rows: int, columns: int) -> Tensor:
    """The image (1,C,rows*h,columns*w) of its slices (rows*columns,C,h,w)."""
    _, channels, height, width = tiles.shape
    grid = tiles.reshape(rows, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    return grid.reshape(1, channels, rows * height, columns * width)


def seam_distance(height: int, width: int, tile: int, device: torch.device) -> Tensor:
    """Pixels between each pixel and the nearest seam: (height, width); 0 if adjacent."""

    def along(size: int) -> Tensor:
        position = torch.arange(size, device=device)
        after = position % tile  # to the seam before
        before = tile - 1 - after
        far = torch.full_like(position, size)
        # The image's own border is not a seam.
        after = torch.where(position < tile, far, after)
        before = torch.where(position >= size - tile, far, before)
        return torch.minimum(after, before)

    return torch.minimum(along(height)[:, None], along(width)[None, :])
