"""Which box of each map is computed for changes of the input, many changes at a time.

Boxes are rows y0, x0, y1, x1 of int64 arrays. Layer i, counted from 1, computes a box on the grid
of map i - 1, which it reads; after its pixel shuffle that is a box of map i.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastbg.backends.stack_layers import Layer
from fastbg.geometry import Box

Boxes = NDArray[np.int64]

# Changes of boxes of other sizes may join a batch that has fewer images than this: the launches of
# a small batch take longer than what they compute.
FEWEST = 64
# A batch of so many images takes no change that computes more or less by this factor than its first
# one: all images of a batch compute boxes of the largest one's size.
UNEQUAL = 1.5


@dataclass(frozen=True)
class Part:
    """Some images of one change: `change` is its number, its images are start to stop."""

    change: int
    start: int
    stop: int


@dataclass(frozen=True)
class Batch:
    """Changes that are computed together.

    parts: whose images they are, in the order of the batch.
    corners: (layers + 1, N, 2) int64: row and column of the first pixel of each image's part of
        map 0 (its changed box) to the last map.
    sides: height and width of these parts of each map, the same for all images.
    """

    parts: list[Part]
    corners: NDArray[np.int64]
    sides: list[tuple[int, int]]


class StackBoxes:
    """The boxes of one stack of convolutions."""

    def __init__(self, rows: Sequence[Layer], channels: Sequence[int], bytes_each: int) -> None:
        """`channels` of maps 0 to the last, whose elements have `bytes_each`."""
        self.rows = list(rows)
        count = len(rows)
        # The last layer that reads a map: after it, the map's memory can be used again.
        self.last_use = [min(m + 1, count) for m in range(count + 1)]
        for i, row in enumerate(rows, 1):
            if row.residual >= 0:
                self.last_use[row.residual] = max(self.last_use[row.residual], i)
        self._pixel_bytes = np.array(channels, np.int64) * bytes_each
        # live[i - 1, m]: whether a part of map m is in memory while layer i runs.
        maps, steps = np.arange(count + 1), np.arange(1, count + 1)[:, None]
        self._live = (maps <= steps) & (np.array(self.last_use) >= steps)
        self._adds = np.array([row.residual >= 0 for row in rows])
        self._upscale = np.array([row.upscale for row in rows], np.int64)

    def seen(self, height: int, width: int) -> Box:
        """What the layers read of an input (height, width)."""
        # What later layers add of it lies inside of what the first one computes.
        return self.rows[0].box.grow(1, height, width)

    def whole(self, seen: Box) -> Batch:
        """The unchanged image as one in which all that the layers compute has changed."""
        boxes = [seen, *(row.box.refine(row.upscale) for row in self.rows)]
        corners = np.array([[(box.y0, box.x0)] for box in boxes], np.int64)
        return Batch([], corners, [_sides(np.array([box])) for box in boxes])

    def reached(self, boxes: Boxes) -> tuple[list[Boxes], NDArray[np.bool_]]:
        """For changed boxes (n,4) of map 0: what each layer must compute; whether it ends in all.

        What a layer must compute is what is both changed and in its box. Where that is empty for a
        layer, the change does not reach the result, and its other boxes mean nothing.
        """
        maps, computed = [boxes], list[Boxes]()
        alive = np.ones(len(boxes), np.bool_)
        for row in self.rows:
            top, end = maps[-1][:, :2] - 1, maps[-1][:, 2:] + 1
            if row.residual >= 0:
                added, r = maps[row.residual], row.upscale
                top = np.minimum(top, added[:, :2] // r)
                end = np.maximum(end, -(-added[:, 2:] // r))
            found = np.hstack([np.maximum(top, row.box[:2]), np.minimum(end, row.box[2:])])
            alive &= (found[:, :2] < found[:, 2:]).all(1)
            computed.append(found)
            maps.append(found * row.upscale)
        return computed, alive

    def batches(self, changes: Sequence[tuple[Box, int]], budget: int) -> Iterator[Batch]:
        """Batches of at most `budget` bytes of maps for changes (box, number of images).

        A batch's changed boxes have one size, and what it computes has similar sizes, as far as
        batches do not become small. Changes that do not reach the result are left out.
        """
        counts = [count for _, count in changes]
        boxes = np.array([box for box, _ in changes], np.int64).reshape(-1, 4)
        computed, alive = self.reached(boxes)
        own = boxes[:, 2:] - boxes[:, :2]
        sizes = np.stack([c[:, 2:] - c[:, :2] for c in computed], 1)  # (n, layers, 2)
        work = sizes.prod(2).sum(1)
        # Changes above and below the window, whose boxes are wide, are not mixed with those beside.
        order = np.lexsort((sizes[:, :, 1].sum(1), sizes[:, :, 0].sum(1), own[:, 1], own[:, 0]))
        parts: list[Part] = []
        images, size = 0, np.zeros((len(self.rows), 2), np.int64)
        for n in (int(n) for n in order if alive[n] and counts[n]):
            joined = np.maximum(size, sizes[n])
            if parts:
                first = parts[0].change
                unequal = not work[first] / UNEQUAL <= work[n] <= work[first] * UNEQUAL
                full = images >= self._most(own[n], joined, budget)
                if (own[n] != own[first]).any() or full or (images >= FEWEST and unequal):
                    yield self._batch(parts, boxes, computed)
                    parts, images, joined = [], 0, sizes[n]
            size, most, start = joined, self._most(own[n], joined, budget), 0
            while start < counts[n]:
                if images == most:
                    yield self._batch(parts, boxes, computed)
                    parts, images = [], 0
                stop = min(counts[n], start + most - images)
                parts.append(Part(n, start, stop))
                images, start = images + stop - start, stop
        if parts:
            yield self._batch(parts, boxes, computed)

    def _most(self, own: Boxes, sizes: Boxes, budget: int) -> int:
        """How many images whose layers compute boxes of the sizes (layers,2) fit into `budget`."""
        crops = (sizes + 2).prod(1) * self._pixel_bytes[:-1]
        made = (sizes * self._upscale[:, None]).prod(1)
        added = made * self._pixel_bytes[1:] * self._adds
        maps = np.append(own.prod(), made) * self._pixel_bytes
        return max(1, budget // int((self._live @ maps + crops + added).max()))

    def _batch(self, parts: list[Part], boxes: Boxes, computed: list[Boxes]) -> Batch:
        index = np.array([p.change for p in parts])
        counts = [p.stop - p.start for p in parts]
        own = boxes[index]
        corners, sides = [own[:, :2]], [_sides(own)]
        for row, all_boxes in zip(self.rows, computed, strict=True):
            found = all_boxes[index]
            height, width = _sides(found)
            # Moved into the layer's box where it is larger than what this image needs.
            last = np.array([row.y1 - height, row.x1 - width])
            corners.append(np.minimum(found[:, :2], last) * row.upscale)
            sides.append((height * row.upscale, width * row.upscale))
        return Batch(parts, np.stack(corners).repeat(counts, 1), sides)


def _sides(boxes: Boxes) -> tuple[int, int]:
    """The size of the largest of boxes along each axis."""
    height, width = (boxes[:, 2:] - boxes[:, :2]).max(0)
    return int(height), int(width)
