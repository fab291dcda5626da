"""Stacks of convolutions for changes of one image, in batches, on maps that are tensors.

A layer's input is assembled from the images' own parts of the map, where they have one, and from
the map of the unchanged image around them; then one convolution computes all images. Offsets of the
images are made once for a batch on the host; nothing in the loop waits for the device.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastbg.backends.change_boxes import Batch, StackBoxes
from fastbg.backends.stack_layers import parted, split
from fastbg.geometry import Box, Patch
from fastbg.precision import current, use_precision
from fastbg.upload import uploaded

# Bytes of maps of a batch. On CPUs they stay in the cache.
BUDGETS = {"cpu": 8 << 20}
BUDGET = 1 << 30


class Own(NamedTuple):
    """The parts of a map that N images have for themselves.

    data: (N,C,h,w), channels_last. corners: (N,2) int32, row and column of their first pixels.
    """

    data: Tensor
    corners: Tensor


class Wanted(NamedTuple):
    """Parts (height, width) of a map to assemble for N images, whose first pixels are `corners`.

    A pixel is the image's own where it has one, otherwise that of `kept`, which is a part of the
    unchanged image's map (1,C,h,w), channels_last, with all other pixels that are wanted; the
    pixels around the map are 0.
    """

    own: Own
    kept: Patch
    corners: Tensor
    height: int
    width: int


class BatchedStack(ABC):
    """The maps of one image, and the last map for changes of it.

    Backends assemble parts of maps and convolve them.

    Attributes:
        result: (1,Co,h,w), the last layer's box of the unchanged image.
    """

    def __init__(
        self,
        x: Tensor,
        parameters: Sequence[Tensor],
        layers: Sequence[int],
        scales: Sequence[float],
    ) -> None:
        """`x` (1,C,H,W); other arguments as for `conv_stack`."""
        self.rows, self.scales = split(layers), scales
        self.weights, self.biases, _ = parted(parameters, len(self.rows))
        self._precision = current()
        channels = [
            x.shape[1],
            *(len(b) // r.upscale**2 for b, r in zip(self.biases, self.rows, strict=True)),
        ]
        self._boxes = StackBoxes(self.rows, channels, x.element_size())
        self._budget = BUDGETS.get(x.device.type, BUDGET)
        seen = self._boxes.seen(*x.shape[-2:])
        kept = Patch(x, Box(0, 0, *x.shape[-2:])).cut(seen)
        self._kept = [_bordered(kept)]
        with use_precision(self._precision):
            for data, row in zip(
                self._maps(kept.data, self._boxes.whole(seen)), self.rows, strict=True
            ):
                self._kept.append(_bordered(Patch(data, row.box.refine(row.upscale))))
        self._unchanged = data.contiguous()
        self.result = self._unchanged.clone()  # callers may write to it

    @abstractmethod
    def assembled(self, first: Wanted, second: Wanted | None) -> tuple[Tensor, Tensor | None]:
        """Both parts (N,C,h,w), channels_last, in one launch where there are launches."""

    @abstractmethod
    def convolved(self, i: int, before: Tensor, residual: Tensor | None) -> Tensor:
        """Layer i, counted from 0, on (N,C,h+2,w+2): (N,Co,r*h,r*w), channels_last."""

    def run(
        self, changes: Sequence[tuple[Sequence[int], Tensor]], negligible: float
    ) -> list[Tensor]:
        """Results (K,Co,h,w) for each (box, its new pixels in K images (K,C,height,width)).

        Nothing is dropped, whatever is `negligible`: how much that is would depend on values, for
        which the host would have to wait.
        """
        found: list[list[Tensor]] = [[] for _ in changes]
        asked = [(Box(*box), len(pixels)) for box, pixels in changes]
        # An autocast of the caller would round one map in two: the kept ones are as they were made.
        plain = torch.autocast(self._unchanged.device.type, enabled=False)
        with use_precision(self._precision), plain:
            for batch in self._boxes.batches(asked, self._budget):
                pixels = [changes[p.change][1][p.start : p.stop] for p in batch.parts]
                result = self._changed(batch, torch.cat(pixels))
                counts = [p.stop - p.start for p in batch.parts]
                for part, own in zip(batch.parts, result.split(counts), strict=True):
                    found[part.change].append(own)
        results = []
        for parts, (_, count) in zip(found, asked, strict=True):
            if len(parts) > 1:
                results.append(torch.cat(parts))
            else:
                results.append(parts[0] if parts else self._unchanged.repeat(count, 1, 1, 1))
        return results

    @property
    def nbytes(self) -> int:
        """Memory of the kept maps."""
        return sum(kept.data.nbytes for kept in self._kept)

    def _changed(self, batch: Batch, pixels: Tensor) -> Tensor:
        """Results (N,Co,h,w) of the images whose `pixels` (N,C,h,w) differ."""
        for data in self._maps(pixels, batch):
            made = data
        box = self.rows[-1].box.refine(self.rows[-1].upscale)
        corners = np.broadcast_to([box.y0, box.x0], (len(pixels), 2))
        table = uploaded(np.stack([batch.corners[-1], corners]), torch.int32, pixels.device)
        own, (height, width) = Own(made, table[0]), self._unchanged.shape[-2:]
        whole = Wanted(own, self._kept[-1], table[1], height, width)
        return self.assembled(whole, None)[0]

    def _maps(self, data: Tensor, batch: Batch) -> Iterator[Tensor]:
        """The images' parts of the maps 1 to the last, from those of map 0."""
        made, count = batch.corners, len(self.rows)
        factors = np.array([row.upscale for row in self.rows])[:, None, None]
        table = uploaded(np.concatenate([made, made[1:] // factors - 1]), torch.int32, data.device)
        maps = {0: Own(_in_order(data), table[0])}
        for i, row in enumerate(self.rows):
            height, width = batch.sides[i + 1]
            down, across = height // row.upscale, width // row.upscale
            before = Wanted(maps[i], self._kept[i], table[count + 1 + i], down + 2, across + 2)
            residual = None
            if row.residual >= 0:
                added = maps[row.residual], self._kept[row.residual]
                residual = Wanted(*added, table[i + 1], height, width)
            data = self.convolved(i, *self.assembled(before, residual))
            del before, residual
            maps[i + 1] = Own(data, table[i + 1])
            for m in [m for m in maps if self._boxes.last_use[m] <= i + 1 and m <= i]:
                del maps[m]  # so that later maps can use their memory
            yield data


def _bordered(patch: Patch) -> Patch:
    """The patch, channels_last, with a border of zeros, a pixel wide."""
    _, channels, height, width = patch.data.shape
    data = patch.data.new_zeros((1, height + 2, width + 2, channels)).permute(0, 3, 1, 2)
    data[..., 1:-1, 1:-1] = patch.data
    y0, x0, y1, x1 = patch.box
    return Patch(data, Box(y0 - 1, x0 - 1, y1 + 1, x1 + 1))


def _in_order(maps: Tensor) -> Tensor:
    """`maps` (B,C,h,w) with the channels of a pixel one after the other."""
    return maps.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
