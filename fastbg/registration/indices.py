"""Checks the values of indices, boxes and codes, and moves them to the images' device as int32.

This happens while an operator runs, on every backend, so that a compiled graph raises the same
errors as an eager call. On GPUs reading the values would need a synchronisation: there, kernels
return a NaN image for an index out of range, and values that do not fit into int32 become such an
index.
"""

import enum

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from fastbg.errors import InvalidArgument
from fastbg.filters.constants import is_recorded, on_device


class Transform(enum.IntEnum):
    """How `mosaic` puts the tile into a cell (section 6.2); rotations are counter-clockwise.

    Example:
        >>> import fastbg
        >>> [kind.name for kind in fastbg.Transform][:3]
        ['IDENTITY', 'FLIP_HORIZONTAL', 'FLIP_VERTICAL']
    """

    IDENTITY = 0
    FLIP_HORIZONTAL = 1  # left and right swapped
    FLIP_VERTICAL = 2
    ROTATE_90 = 3
    ROTATE_180 = 4
    ROTATE_270 = 5
    ZOOM_2 = 6  # the centre, magnified by 2 (nearest neighbour)
    ZOOM_4 = 7  # by 4


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
    """Whether there are values that can be read without a synchronisation."""
    known = value.device.type == "cpu" and not isinstance(value, FakeTensor) and not is_recorded()
    return known and value.numel() > 0


def _as_int32(value: Tensor, device: torch.device) -> Tensor:
    if value.dtype != torch.int32:
        value = value.long().clamp(-1, 2**31 - 1).int()
    return on_device(value, device)
