"""Section 6.2, Table 2, Figs 14 and 15: a region among copies of itself, against 25-fold TTA."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastbg.errors import InvalidArgument
from fastbg.experiments.experiment import Experiment, Measured, Picture, decibels
from fastbg.experiments.options import Options, option
from fastbg.experiments.reading import Reading
from fastbg.experiments.seams import HARD, Seam, SeamedOptions, column, pixels, select_seam
from fastbg.experiments.study import Item, Study, as_image, restore
from fastbg.experiments.tta import average, family, restored_copies
from fastbg.filters.dtypes import as_float
from fastbg.geometry import centre
from fastbg.measures.quality import psnr
from fastbg.models.network import Network
from fastbg.ops.composite import Transform, composite, mosaic
from fastbg.upload import uploaded

SHOWN = 2  # cases of either kind in the gallery
LARGEST = 400  # pixels a side of the photograph in the gallery


@dataclass(frozen=True)
class MosaicOptions(SeamedOptions):
    """Sizes in HR pixels, differences in dB."""

    count: int = option(57, "regions, one in each built-in photograph; the paper: 200", low=1)
    region: int = option(64, "side of a region, HR pixels", low=1)
    size: int = option(
        0, "side of the region's own image around it; 0: the whole photograph", low=0
    )
    shave: int = option(0, "border of the region that is not measured, HR pixels", low=0)
    grid: int = option(5, "copies along a side of the mosaic; TTA averages grid² results", low=1)
    layout: Literal["random", "mirrored"] = option(
        "random",
        "arrangement of the copies in the mosaic",
        before="random",
        random="drawn with the seed",
        mirrored="each copy is the mirror image of its neighbours, so that colours do not jump",
    )
    tta: Literal["turns", "zooms"] = option(
        "turns",
        "transforms of TTA",
        turns="identity, flips and turns",
        zooms="also nearest-neighbour zooms by 2 and 4",
    )
    harm: float = option(0.0, "dB; a loss of more than this counts as harm", low=0)
    most: float = option(0.1, "dB; C9: TTA gains at most this", low=0)


class Mosaic(Experiment):
    """PSNR of a region in its own image, alone, in a mosaic of its copies, and with TTA."""

    name = "mosaic"
    title = "Do copies of a region make a better background than its own?"
    paper = "Section 6.2, Table 2, Figs 14 and 15"
    question = (
        "If similar surroundings help, a region should gain from a background of its own flipped, "
        "turned and zoomed copies. Does it gain, does it ever lose, and what does test-time "
        "augmentation (TTA) gain at the same cost? Do the seams around the region decide this?"
    )
    method = (
        "The low-resolution (LR) region is restored four times: within its own image; alone; in "
        "the middle of a mosaic of its copies, drawn with the seed from identity, flips, quarter "
        "turns and nearest-neighbour zooms by 2 and 4; and by TTA, which restores as many flipped "
        "and turned copies one by one, undoes the transforms and averages. PSNR is that of the "
        "region. With a bridged seam, the copies beside the region are blended into its border."
    )
    options_type: ClassVar[type[Options]] = MosaicOptions
    cost: ClassVar[float] = 75.0
    shown = ("photograph", "mosaic_lr", "hr", "whole", "mosaic", "tta")

    def plan(self, study: Study) -> list[Item]:
        """Regions drawn by the seed, spread over the photographs."""
        o, scale = self.options, study.scale
        o.check(self.name)
        if o.region % scale:
            raise InvalidArgument("mosaic.region", o.region, f"a multiple of the scale {scale}")
        if o.size and (o.size < o.region or (o.size - o.region) % (2 * scale)):
            expected = f"0, or at least {o.region} with borders that the scale {scale} divides"
            raise InvalidArgument("mosaic.size", o.size, expected)
        if 2 * o.shave >= o.region:
            raise InvalidArgument("mosaic.shave", o.shave, f"0 to less than {o.region // 2}")
        if o.grid % 2 == 0:
            raise InvalidArgument(
                "mosaic.grid", o.grid, "an odd number: the region is in the middle"
            )
        border = (o.size - o.region) // 2 if o.size else 0
        items = []
        for item in study.sub_images(o.count, o.size or o.region):
            y0, x0, y1, x1 = item.box
            box = (y0 + border, x0 + border, y1 - border, x1 - border)
            items.append(replace(item, box=box))
        return items

    def surroundings(self, item: Item, study: Study) -> Item:
        """The image around the region `item`."""
        size, scale = self.options.size, study.scale
        if not size:
            height, width = study.images[item.image].size()
            box = (0, 0, height // scale * scale, width // scale * scale)
        else:
            border = (size - self.options.region) // 2
            y0, x0, y1, x1 = item.box
            box = (y0 - border, x0 - border, y1 + border, x1 + border)
        return replace(item, box=box)

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """PSNR (dB) of the region restored in each way, and the size of the image around it."""
        o = self.options
        around = [self.surroundings(item, study) for item in items]
        images = [
            study.inputs([whole], study.ground_truth([whole]), o.lr, o.kernel) for whole in around
        ]
        windows = [inside(item.box, whole.box) for item, whole in zip(items, around, strict=True)]
        columns = self.compare(
            study.ground_truth(items),
            self.restored(net, images, windows, *self.draws(items, study), study.backend),
        )
        sizes = [(y1 - y0, x1 - x0) for y0, x0, y1, x1 in (whole.box for whole in around)]
        height, width = uploaded(np.array(sizes), torch.int64, study.device).unbind(1)
        return {**columns, "height": height, "width": width}

    def readings(self, items: Sequence[Item], study: Study) -> list[Reading]:
        """The images around the regions, one by one as their sizes differ, and the regions."""
        found = study.readings(items, "made")  # of the regions themselves only the ground truth
        for item in items:
            found += study.readings([self.surroundings(item, study)], self.options.lr)
        return found

    def draws(self, items: Sequence[Item], study: Study) -> tuple[Tensor, Tensor]:
        """Transform codes of each mosaic (B,g,g), and TTA's count of each transform (B,8)."""
        grid = self.options.grid
        drawable = [*family(self.options.tta == "zooms")]
        cells, counts = [], []
        for item in items:
            # Depends only on the seed and the region, not on its position in a chunk.
            rng = np.random.default_rng((study.seed, zlib.crc32(item.key.encode())))
            drawn = rng.integers(len(Transform), size=(grid, grid))
            drawn[grid // 2, grid // 2] = Transform.IDENTITY
            cells.append(drawn if self.options.layout == "random" else mirrored(grid))
            used = rng.choice(drawable, size=grid**2)
            counts.append(np.bincount(used, minlength=len(Transform)))
        return (
            uploaded(np.stack(cells), torch.int64, study.device),
            uploaded(np.stack(counts), torch.int64, study.device),
        )

    def restored(
        self,
        net: Network,
        images: Sequence[Tensor],
        windows: Sequence[tuple[int, int, int, int]],
        cells: Tensor,
        counts: Tensor,
        backend: str,
    ) -> dict[str, Tensor]:
        """SR regions (B,3,r,r) from the image, from the region alone, from mosaics, and by TTA.

        `windows` are the regions in SR pixels of the LR `images` (1,3,h,w). Mosaics (one for each
        seam) and TTA are made from the regions' LR pixels.
        """
        o = self.options
        whole = [restore(net, image, window) for image, window in zip(images, windows, strict=True)]
        tiles = torch.cat([cut(i, w, net.scale) for i, w in zip(images, windows, strict=True)])
        middle = centre(o.region, o.grid * o.region, o.grid * o.region)
        copies = restored_copies(net, tiles, o.tta == "zooms", backend)
        return {
            "whole": torch.cat(whole),
            "alone": copies[Transform.IDENTITY],
            **{
                column("mosaic", seam): restore(
                    net, self.assembled(tiles, cells, seam, net.scale, backend), middle
                )
                for seam in self.seams
            },
            "tta": average(copies, counts),
        }

    def assembled(
        self, tiles: Tensor, cells: Tensor, seam: Seam, scale: int, backend: str
    ) -> Tensor:
        """Mosaics (B,3,g*h,g*w) of LR `tiles` (B,3,h,w), with `seam` around the central copy.

        Seams between the other copies stay hard, as they are farther away.
        """
        laid = mosaic(tiles, cells, backend=backend)
        if seam == HARD:
            return laid
        each = torch.arange(len(laid), device=laid.device)
        middle = centre(tiles.shape[-1], *laid.shape[-2:])
        return composite(
            laid,
            laid,
            torch.stack((each, each), dim=1),
            middle,
            seam=pixels(seam, scale),
            backend=backend,
        )

    @property
    def seams(self) -> tuple[Seam, ...]:
        """The seams for which mosaics are measured."""
        found: tuple[Seam, ...] = self.options.seams(self.name)
        return found

    def view(self, measured: Measured, seam: Seam) -> Measured:
        """The records of one seam, with the seam left out of the column names."""
        return select_seam(measured, seam, shared=lambda name: not name.endswith("_mosaic"))

    def compare(self, hr: Tensor, restored: dict[str, Tensor]) -> dict[str, Tensor]:
        """PSNR (B), dB, of each way against the regions `hr` (B,3,r,r) uint8; on the device.

        "inner" is the PSNR of the central square of half the side, where seams have little effect.
        """
        o, truth = self.options, as_float(hr)
        return {
            f"{part}_{way}": psnr(sr, truth, shave=shave, channel=o.channel)
            for part, shave in (("psnr", o.shave), ("inner", o.region // 4))
            for way, sr in restored.items()
        }

    def exhibit(self, net: Network, item: Item, study: Study) -> dict[str, Picture]:
        """The photograph, the mosaic, the ground truth and three results."""
        o, whole = self.options, self.surroundings(item, study)
        photograph = study.ground_truth([whole])
        image = study.inputs([whole], photograph, o.lr, o.kernel)
        window = inside(item.box, whole.box)
        cells, counts = self.draws([item], study)
        results = self.restored(net, [image], [window], cells, counts, study.backend)
        tiles = cut(image, window, net.scale)
        shown = {
            "mosaic_lr": self.assembled(tiles, cells, self.seams[0], net.scale, study.backend),
            "hr": study.ground_truth([item]),
            "whole": results["whole"],
            "mosaic": results[column("mosaic", self.seams[0])],
            "tta": results["tta"],
        }
        pictures = {name: as_image(image[0]) for name, image in shown.items()}
        small = Image.fromarray(as_image(photograph[0]))
        small.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        return {"photograph": np.asarray(small), **pictures}

    def cases(self, measured: Measured) -> list[int]:
        """Where the mosaic gains most over the region's own image, then where it loses most."""
        order = np.argsort(
            gain(self.view(measured, self.seams[0]), "mosaic", "whole"), kind="stable"
        )
        best, worst = order[::-1][:SHOWN], order[:SHOWN]
        return list(dict.fromkeys([*map(int, best), *map(int, worst)]))


def gain(result: Measured, way: str, other: str, part: str = "psnr") -> NDArray[np.float64]:
    """PSNR of one way minus PSNR of another, dB (n): `part` "psnr" (the region) or "inner"."""
    return decibels(result, f"{part}_{way}") - decibels(result, f"{part}_{other}")


def mirrored(grid: int) -> NDArray[np.int64]:
    """Codes (grid,grid) of a mosaic in which every copy mirrors its neighbours."""
    odd = np.abs(np.arange(grid) - grid // 2) % 2 == 1
    down, across = odd[:, None], odd[None, :]
    codes = np.where(across, Transform.FLIP_HORIZONTAL, Transform.IDENTITY)
    codes = np.where(down, Transform.FLIP_VERTICAL, codes)
    return np.where(down & across, Transform.ROTATE_180, codes).astype(np.int64)


def inside(
    box: tuple[int, int, int, int], outer: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    """`box`, relative to the upper left corner of `outer`."""
    top, left = outer[:2]
    y0, x0, y1, x1 = box
    return y0 - top, x0 - left, y1 - top, x1 - left


def cut(lr: Tensor, window: Sequence[int], scale: int) -> Tensor:
    """The LR pixels of the box `window` in SR pixels."""
    y0, x0, y1, x1 = (v // scale for v in window)
    return lr[..., y0:y1, x0:x1]
