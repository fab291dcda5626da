"""Reading regions of images into one batch on the host, in parts that threads can share."""

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

Region: TypeAlias = tuple[ImageItem, tuple[int, int, int, int]]  # an image, a box of HR pixels
Cutter: TypeAlias = Callable[[ImageItem, tuple[int, int, int, int]], NDArray[np.uint8]]


class Reading(NamedTuple):
    """A batch of regions that is being read.

    Attributes:
        key: of these regions, the same for the same ones.
        pixels: (B,3,h,w) uint8 on the host, in the memory order of an image file; complete once
            every task has run.
        tasks: one for each image, so that none is decoded twice; in any order, in any threads.
    """

    key: Hashable
    pixels: Tensor
    tasks: list[Callable[[], None]]

    def finish(self) -> Tensor:
        """Run the tasks here; the pixels."""
        for task in self.tasks:
            task()
        return self.pixels


def region(image: ImageItem, box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """The pixels (h,w,3) of a region; the last few images stay decoded."""
    return cut(decoded(image), box)


def reading(regions: Sequence[Region], pinned: bool, cutter: Cutter = region) -> Reading:
    """Begin to read `regions`, at least one, of one size.

    `pinned`: into memory that a GPU copies from while the host goes on. PyTorch lends it again
    once that copy is done.
    """
    first = Box(*regions[0][1])
    shape = (len(regions), first.y1 - first.y0, first.x1 - first.x0, 3)
    pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
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
    return Reading(key_of(regions), pixels.permute(0, 3, 1, 2), tasks)


def key_of(regions: Sequence[Region]) -> Hashable:
    """What tells a batch of regions from others of a data set."""
    return tuple((image.key, *box) for image, box in regions)
