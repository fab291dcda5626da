"""The grid of blocks that a causal effect map replaces one by one."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbg.geometry import Box


class BlockGrid(NamedTuple):
    """Blocks of `side` x `side` pixels on an image of (height, width); those at the end are cut."""

    side: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return -(-self.height // self.side), -(-self.width // self.side)

    def box(self, row: int, column: int) -> Box:
        """The pixels of a block."""
        y, x = row * self.side, column * self.side
        return Box(y, x, min(y + self.side, self.height), min(x + self.side, self.width))

    def touching(self, box: Box) -> NDArray[np.bool_]:
        """Which blocks (rows, columns) share a pixel with `box`."""
        mask = np.zeros(self.shape, bool)
        if box.y0 < box.y1 and box.x0 < box.x1:
            y0, x0, y1, x1 = box.coarsen(self.side)
            mask[y0:y1, x0:x1] = True
        return mask

    def areas(self) -> NDArray[np.int64]:
        """How many pixels each block has: (rows, columns)."""
        down, across = (
            np.minimum(self.side, size - self.side * np.arange(count))
            for size, count in zip((self.height, self.width), self.shape, strict=True)
        )
        return np.outer(down, across)

    def on_pixels(self, values: NDArray[Any]) -> NDArray[Any]:
        """`values` (..., rows, columns) of the blocks, for each of their pixels (..., h, w)."""
        large: NDArray[Any] = values.repeat(self.side, -2).repeat(self.side, -1)
        return large[..., : self.height, : self.width]
