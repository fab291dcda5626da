"""The environment of experiments: images, device, and restoration in batches."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastbg.data.images import ImageSet
from fastbg.data.manifests import MIN_STD, SubImage, sub_images
from fastbg.data.sets import ImageItem, decoded_lr
from fastbg.errors import DataError
from fastbg.experiments.reading import Cutter, Reading, Region, batch_key, reading, region
from fastbg.filters.dtypes import as_uint8
from fastbg.geometry import Box, cut
from fastbg.models.network import Network, images_per_call
from fastbg.ops.composite import composite_lr
from fastbg.precision import current, use_precision
from fastbg.upload import uploaded

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Item:
    """One thing to measure: a region of an image, with a key that no other item has.

    Attributes:
        key: the item's name in the run folder.
        source: name of the photograph; items of one photograph form one cluster in intervals.
        box: y0, x0, y1, x1 in HR pixels.
        partners: items that it is combined with, such as the backgrounds of a foreground.
        image: key of the image that contains the box; "" means that it equals `source`.
        set: name of the set that it was drawn from, if the experiment has several.
        number: its index within that set, from 0.
    """

    key: str
    source: str
    box: tuple[int, int, int, int]
    partners: tuple["Item", ...] = ()
    image: str = ""
    set: str = ""
    number: int = 0

    def __post_init__(self) -> None:
        if not self.image:
            object.__setattr__(self, "image", self.source)


@dataclass(frozen=True)
class Study:
    """The images of a run, and the device that it runs on."""

    images: ImageSet
    scale: int = 4
    seed: int = 0
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    backend: str = "auto"  # of fastbg's operators
    folder: Path | None = None  # of the run, where an experiment may export files
    precision: str = field(default_factory=current)  # of float32 passes: ieee, tf32 or bf16
    ready: Mapping[Hashable, Tensor] = field(default_factory=dict)  # batches read ahead, by key

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Context for measurements in any process and thread: `precision`, without autograd."""
        with torch.inference_mode(), use_precision(self.precision):
            yield

    def sub_images(self, count: int, size: int) -> list[Item]:
        """`count` squares of `size` HR pixels a side on the LR grid, drawn with the seed."""
        drawn = sub_images(self.images, count, size, self.seed, multiple=self.scale)
        return [as_item(self.images, sub) for sub in drawn]

    def ground_truth(self, items: Sequence[Item]) -> Tensor:
        """HR regions of `items`, all of one size: (B,3,h,w) uint8 on the device."""
        return self.upload(self.ready_or_read(items))

    def regions(self, items: Sequence[Item]) -> list[Region]:
        """Image and box of each of `items`."""
        return [(self.images[item.image], item.box) for item in items]

    def readings(self, items: Sequence[Item], lr: str, cutter: Cutter = region) -> list[Reading]:
        """What `ground_truth` and `inputs` read of `items`, all of one size; `lr` as there."""
        pinned = self.device.type == "cuda"
        found = [reading(self.regions(items), pinned, cutter)]
        if lr == "paired":
            found.append(reading(self._lr_regions(items), pinned, self._paired, "lr"))
        return found

    def ready_or_read(self, items: Sequence[Item], cutter: Cutter = region) -> Tensor:
        """HR regions (B,3,h,w) uint8 on the host: those read ahead, otherwise read now."""
        return self._ready_or_read(self.regions(items), cutter, "hr")

    def _ready_or_read(self, regions: Sequence[Region], cutter: Cutter, source: str) -> Tensor:
        found = self.ready.get(batch_key(regions, source)) if self.ready else None
        if found is None:
            found = reading(regions, self.device.type == "cuda", cutter, source).finish()
        return found

    def upload(self, host: Tensor) -> Tensor:
        """`host` on the device; from pinned memory, as in a `Reading`, the copy is asynchronous."""
        return host.to(self.device, non_blocking=True)

    def index(self, rows: Sequence[int]) -> Tensor:
        """Row indices (n) int64 on the device, copied asynchronously."""
        return uploaded(rows, torch.int64, self.device)

    def inputs(self, items: Sequence[Item], hr: Tensor, lr: str, kernel: str) -> Tensor:
        """LR images (B,3,h/s,w/s) in [0,1] of `items`.

        `lr`: "made" down-samples `hr` (B,3,h,w) uint8 with `kernel`, "paired" reads the data set's
        own LR files. Raises DataError if an image has no LR file at this scale.
        """
        if lr == "made":
            return self.degrade(hr, kernel)
        pixels = self._ready_or_read(self._lr_regions(items), self._paired, "lr")
        return self.upload(pixels).to(self.dtype) / 255

    def _lr_regions(self, items: Sequence[Item]) -> list[Region]:
        """Image, and box in the pixels of its LR file, of each of `items`."""
        return [(image, Box(*(v // self.scale for v in box))) for image, box in self.regions(items)]

    def _paired(self, image: ImageItem, box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """The pixels (h,w,3) of a region of the LR file of `image`."""
        lr = decoded_lr(image, self.scale)
        if lr is None:
            raise DataError(
                f"image set {self.images.name}: has no LR image of {image.key} at scale "
                f"{self.scale}; expected one, as the option lr is 'paired'"
            )
        return cut(lr, box)

    def degrade(self, hr: Tensor, kernel: str) -> Tensor:
        """LR images (B,3,h/s,w/s) in [0,1] of `hr` (B,3,h,w) uint8, rounded to grey levels."""
        height, width = hr.shape[-2:]
        own = torch.arange(len(hr), device=hr.device).repeat(2, 1).T  # each image in itself
        return composite_lr(
            hr,
            hr,
            own,
            (0, 0, height, width),
            scale=self.scale,
            kernel=kernel,
            quantize=True,
            backend=self.backend,
        ).to(self.dtype)


def as_item(images: ImageSet, sub: SubImage) -> Item:
    """The sub-image `sub` of `images` as an item."""
    box = (sub.y, sub.x, sub.y + sub.size, sub.x + sub.size)
    return Item(sub.key, images.source(sub.item), box, image=sub.item)


def detailed(hr: Tensor, window: Box) -> list[bool]:
    """Whether each of the images `hr` (B,3,h,w) uint8 has detail in `window` (HR pixels)."""
    y0, x0, y1, x1 = window
    grey = hr[..., y0:y1, x0:x1].float().mean(1).flatten(1)
    found: list[bool] = (grey.std(1, correction=0) >= MIN_STD).tolist()
    return found


@torch.inference_mode()
def restore(net: Network, lr: Tensor, window: Sequence[int] | None = None) -> Tensor:
    """SR images (B,3,s*h,s*w) of `lr` (B,3,h,w), or only the box `window` (SR pixels) of each.

    Runs in batches. A window is computed by `forward_window`, which leaves out the pixels that it
    does not depend on.
    """
    batch = images_per_call(lr, net.scale, window)
    parts = lr.contiguous(memory_format=torch.channels_last).split(batch)
    return torch.cat([net(x) if window is None else net.forward_window(x, window) for x in parts])


def as_image(sr: Tensor) -> NDArray[np.uint8]:
    """`sr` (3,h,w), uint8 or in [0,1], as 8-bit pixels (h,w,3); clipped and rounded."""
    return np.ascontiguousarray(as_uint8(sr).permute(1, 2, 0).cpu().numpy())


def as_pixels(sr: Tensor) -> Tensor:
    """As `as_image`, for images (B,3,h,w): (B,h,w,3), on their device, which is not waited for."""
    return as_uint8(sr).permute(0, 2, 3, 1).contiguous()
