"""Reads regions of images into one batch on the host; several threads can share the work."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastbg.data.images import ImageItem
from fastbg.data.sets import decoded
from fastbg.geometry import Box, cut

Region: TypeAlias = tuple[ImageItem, tuple[int, int, int, int]]  # an image, a box of its pixels
Cutter: TypeAlias = Callable[[ImageItem, tuple[int, int, int, int]], NDArray[np.uint8]]


class Reading(NamedTuple):
    """A batch of regions, and the tasks that read it.

    Attributes:
        key: identifies the regions; equal lists of regions have equal keys.
        pixels: (B,3,h,w) uint8 on the host, channels_last as in image files; complete when every
            task has run.
        tasks: one for each image, so that no image is decoded twice. They may run in any order and
            in any threads.
    """

    key: Hashable
    pixels: Tensor
    tasks: list[Callable[[], None]]

    def finish(self) -> Tensor:
        """Run all tasks in this thread, and return the pixels."""
        for task in self.tasks:
            task()
        return self.pixels


def region(image: ImageItem, box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """The pixels (h,w,3) of a region; the last few decoded images are cached."""
    return cut(decoded(image), box)


def reading(
    regions: Sequence[Region], pinned: bool, cutter: Cutter = region, source: str = "hr"
) -> Reading:
    """The `Reading` of `regions`, at least one and all of one size; nothing is read yet.

    `source`: the files, "hr" or "lr", whose pixels the boxes count.

    `pinned`: allocate pinned memory, from which a GPU copies asynchronously. PyTorch reuses the
    memory after the copy.
    """
    first = Box(*regions[0][1])
    shape = (len(regions), first.y1 - first.y0, first.x1 - first.x0, 3)
    pixels = torch.empty(shape, dtype=torch.uint8, device="cpu", pin_memory=pinned)
    rows = pixels.numpy()
    places: defaultdict[ImageItem, list[int]] = defaultdict(list)
    for i, (image, _) in enumerate(regions):
        places[image].append(i)

    def task(image: ImageItem, places: list[int]) -> Callable[[], None]:
        def read() -> None:
            for i in places:
                rows[i] = cutter(image, regions[i][1])

        return read

    tasks = [task(image, places[image]) for image in sorted(places, key=lambda each: each.key)]
    return Reading(batch_key(regions, source), pixels.permute(0, 3, 1, 2), tasks)


def batch_key(regions: Sequence[Region], source: str = "hr") -> Hashable:
    """The keys and boxes of the regions, which identify the batch within an image set."""
    return source, *((image.key, *box) for image, box in regions)
