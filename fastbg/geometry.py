"""Boxes of pixels, and cutting them out of images and feature maps."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Box(NamedTuple):
    """Half-open pixel box ``y0 <= y < y1, x0 <= x < x1``."""

    y0: int
    x0: int
    y1: int
    x1: int

    def grow(self, radius: int, height: int, width: int) -> "Box":
        """Box with `radius` more pixels on each side, cut to a (height, width) map."""
        return Box(
            max(self.y0 - radius, 0),
            max(self.x0 - radius, 0),
            min(self.y1 + radius, height),
            min(self.x1 + radius, width),
        )

    def around(self, side: int, height: int, width: int) -> "Box":
        """`side` x `side` pixels around the box, or what holds it, moved into (height, width)."""

        def axis(start: int, stop: int, length: int) -> tuple[int, int]:
            size = min(max(side, stop - start), length)
            first = min(max((start + stop - size) // 2, 0), length - size)
            return first, first + size

        y0, y1 = axis(self.y0, self.y1, height)
        x0, x1 = axis(self.x0, self.x1, width)
        return Box(y0, x0, y1, x1)

    def align(self, window: int, shift: int, height: int, width: int) -> "Box":
        """Smallest box made of whole windows, which start at `shift` + multiples of `window`.

        Windows that leave the (height, width) map are cut there.
        """

        def down(v: int) -> int:
            return max((v - shift) // window * window + shift, 0)

        def up(v: int, size: int) -> int:
            return min(-((shift - v) // window) * window + shift, size)

        return Box(down(self.y0), down(self.x0), up(self.y1, height), up(self.x1, width))

    def coarsen(self, factor: int) -> "Box":
        """Smallest box that covers this one on a map `factor` times coarser."""
        f = factor
        return Box(self.y0 // f, self.x0 // f, -(-self.y1 // f), -(-self.x1 // f))

    def text(self) -> str:
        """Rows and columns as text, such as "96:112, 40:80"."""
        return f"{self.y0}:{self.y1}, {self.x0}:{self.x1}"

    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index a map with."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def moved(self, dy: int, dx: int) -> "Box":
        """The box `dy` rows further down and `dx` columns to the right."""
        return Box(self.y0 + dy, self.x0 + dx, self.y1 + dy, self.x1 + dx)

    def joined(self, other: "Box") -> "Box":
        """Smallest box that holds both."""
        return Box(
            min(self.y0, other.y0),
            min(self.x0, other.x0),
            max(self.y1, other.y1),
            max(self.x1, other.x1),
        )

    def common(self, other: "Box") -> "Box | None":
        """The pixels of both boxes, None if there are none."""
        y0, x0 = max(self.y0, other.y0), max(self.x0, other.x0)
        y1, x1 = min(self.y1, other.y1), min(self.x1, other.x1)
        return Box(y0, x0, y1, x1) if y0 < y1 and x0 < x1 else None

    def refine(self, factor: int) -> "Box":
        """The same region on a map `factor` times finer."""
        return Box(*(factor * v for v in self))


class Patch(NamedTuple):
    """The part `box` of a feature map: data (B,C,y1-y0,x1-x0)."""

    data: Tensor
    box: Box

    def cut(self, box: Box) -> "Patch":
        """The smaller patch `box`, as a view."""
        rows = slice(box.y0 - self.box.y0, box.y1 - self.box.y0)
        columns = slice(box.x0 - self.box.x0, box.x1 - self.box.x0)
        return Patch(self.data[..., rows, columns], box)

    def run(self, layer: Callable[[Tensor], Tensor], factor: int = 1) -> "Patch":
        """`layer` applied to the patch; its output is `factor` times as large."""
        return Patch(layer(self.data), self.box.refine(factor))


def centre(size: int, height: int, width: int) -> Box:
    """The central box of `size` x `size` pixels of a (height, width) image."""
    y0, x0 = (height - size) // 2, (width - size) // 2
    return Box(y0, x0, y0 + size, x0 + size)


def cut(image: NDArray[np.uint8], box: Sequence[int]) -> NDArray[np.uint8]:
    """The box y0, x0, y1, x1 of an image (h,w,3), as a view; it must lie inside."""
    y0, x0, y1, x1 = box
    if not (0 <= y0 <= y1 <= image.shape[0] and 0 <= x0 <= x1 <= image.shape[1]):
        raise IndexError(f"box {tuple(box)} leaves an image of {image.shape[0]}x{image.shape[1]}")
    return image[y0:y1, x0:x1]
