"""Indices, boxes and codes as operators take them: looked at, then int32 on the images' device.

Looked at while an operator runs, on every backend, so that a compiled graph refuses what an eager
call refuses. On GPUs that would mean waiting for the device: there a kernel answers an index out of
range with a NaN image, and what int32 cannot hold becomes an index that is out of range, too.
"""

import enum

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from fastbg.errors import InvalidArgument
from fastbg.filters.constants import on_device


class Transform(enum.IntEnum):
    """How `mosaic` fills a cell with the tile (section 6.2). Turns are counter-clockwise."""

    IDENTITY = 0
    FLIP_HORIZONTAL = 1  # left and right swapped
    FLIP_VERTICAL = 2
    ROTATE_90 = 3
    ROTATE_180 = 4
    ROTATE_270 = 5
    ZOOM_2 = 6  # nearest neighbour, then the centre
    ZOOM_4 = 7


def image_pairs(pairs: Tensor, first: int, second: int, device: torch.device) -> Tensor:
    """`pairs` (N,2): an index below `first` and one below `second`."""
    if _can_be_read(pairs):
        low, high = (v.tolist() for v in torch.aminmax(pairs.long(), dim=0))
        for column, (source, size) in enumerate((("a", first), ("b", second))):
            if low[column] < 0 or high[column] >= size:
                wrong = low[column] if low[column] < 0 else high[column]
                raise InvalidArgument(
                    f"pairs[:, {column}]", wrong, f"0 <= index < {size}, the images in {source}"
                )
    return _as_int32(pairs, device)


def boxes_inside(name: str, box: Tensor, height: int, width: int, device: torch.device) -> Tensor:
    """`box` (4) or (N,4), inside a height x width image."""
    if _can_be_read(box):
        rows = box.long().reshape(-1, 4)
        y0, x0, y1, x1 = rows.unbind(1)
        good = (y0 >= 0) & (y0 <= y1) & (y1 <= height) & (x0 >= 0) & (x0 <= x1) & (x1 <= width)
        if not bool(good.all()):
            raise InvalidArgument(
                name,
                rows[~good][0].tolist(),
                f"0 <= y0 <= y1 <= {height} and 0 <= x0 <= x1 <= {width}",
            )
    return _as_int32(box, device)


def cell_codes(cells: Tensor, height: int, width: int, device: torch.device) -> Tensor:
    """`cells` (N,g,g) of transform codes for tiles of height x width."""
    if _can_be_read(cells):
        codes = cells.long()
        low, high = (int(v) for v in torch.aminmax(codes))
        if low < 0 or high >= len(Transform):
            wrong = low if low < 0 else high
            raise InvalidArgument("cells", wrong, f"codes 0 to {len(Transform) - 1}")
        quarter_turn = (codes == Transform.ROTATE_90) | (codes == Transform.ROTATE_270)
        if height != width and bool(quarter_turn.any()):
            raise InvalidArgument("cells", "a quarter turn", f"none, as tiles are {height}x{width}")
    return _as_int32(cells, device)


def _can_be_read(value: Tensor) -> bool:
    """Whether there are values, and reading them does not wait for a device."""
    return value.device.type == "cpu" and not isinstance(value, FakeTensor) and value.numel() > 0


def _as_int32(value: Tensor, device: torch.device) -> Tensor:
    if value.dtype != torch.int32:
        value = value.long().clamp(-1, 2**31 - 1).int()
    return on_device(value, device)
