"""Reference of the composite family. N pairs, C channels, H x W pixels, scale s."""

import torch
from torch import Tensor

from fastbg.filters.bicubic import Taps, bicubic_taps
from fastbg.filters.dtypes import accumulation_dtype, as_float


def box_mask(boxes: Tensor, height: int, width: int) -> Tensor:
    """True inside each box: (height, width) for one box (4), (N, height, width) for (N, 4)."""
    y = torch.arange(height, device=boxes.device)[:, None]  # [H, 1]
    x = torch.arange(width, device=boxes.device)  # [W]
    y0, x0, y1, x1 = boxes[..., None, None].unbind(-3)
    return (y >= y0) & (y < y1) & (x >= x0) & (x < x1)


def taken_from_b(inner: Tensor, outer: Tensor, height: int, width: int) -> Tensor:
    """Mask (1 or N, 1, H, W) of the pixels inside outer and outside inner."""
    mask = box_mask(outer, height, width) & ~box_mask(inner, height, width)
    return mask[:, None] if mask.dim() == 3 else mask[None, None]


def composite(a: Tensor, b: Tensor, pairs: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """b inside outer and outside inner, a elsewhere: (N,C,H,W)."""
    first, second = pairs.long().unbind(1)
    mask = taken_from_b(inner, outer, *a.shape[-2:])
    return torch.where(mask, as_float(b)[second], as_float(a)[first])


def composite_lr(
    a: Tensor,
    b: Tensor,
    pairs: Tensor,
    inner: Tensor,
    outer: Tensor,
    scale: int,
    kernel: str,
    quantize: bool,
) -> Tensor:
    """Bicubic down-sampling of `composite`: (N,C,H/s,W/s)."""
    return down_sample(composite(a, b, pairs, inner, outer), scale, kernel, quantize)


def down_sample(image: Tensor, scale: int, kernel: str, quantize: bool) -> Tensor:
    """Bicubic, rows first: (N,C,H/s,W/s) in the dtype of `image`."""
    height, width = image.shape[-2:]
    small = image.to(accumulation_dtype(image.dtype))
    small = _apply_taps(small, bicubic_taps(height, scale, kernel), axis=2)  # [N,C,H/s,W]
    small = _apply_taps(small, bicubic_taps(width, scale, kernel), axis=3)  # [N,C,H/s,W/s]
    if quantize:
        small = (small.clamp(0, 1) * 255 + 0.5).floor() / 255
    return small.to(image.dtype)


def _apply_taps(image: Tensor, taps: Taps, axis: int) -> Tensor:
    """Weighted sum of the taps of one axis, in the dtype of `image`."""
    index = torch.as_tensor(taps.index, device=image.device)
    weight = torch.as_tensor(taps.weight, dtype=image.dtype, device=image.device)
    along = [1] * image.dim()
    along[axis] = -1
    terms = (
        image.index_select(axis, index[:, t]) * weight[:, t].reshape(along)
        for t in range(index.shape[1])
    )
    return sum(terms, start=image.new_zeros(()))


def mosaic(tiles: Tensor, cells: Tensor) -> Tensor:
    """Grid of transformed copies of each tile: (N,C,g*h,g*w)."""
    n, channels, height, width = tiles.shape
    g = cells.shape[-1]
    codes = cells.long().reshape(n, 1, g, 1, g, 1)
    y = torch.arange(height, device=tiles.device).reshape(1, 1, 1, -1, 1, 1)
    x = torch.arange(width, device=tiles.device)
    row, column = transformed_pixel(codes, y, x, height, width)  # [N,1,g,h,g,w]
    sample = torch.arange(n, device=tiles.device).reshape(-1, 1, 1, 1, 1, 1)
    channel = torch.arange(channels, device=tiles.device).reshape(1, -1, 1, 1, 1, 1)
    picked = tiles[sample, channel, row, column]  # [N,C,g,h,g,w]
    return picked.reshape(n, channels, g * height, g * width)


def transformed_pixel(
    codes: Tensor, y: Tensor, x: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Row and column of the tile that stand at (y, x) under each transform code."""
    y, x = torch.broadcast_tensors(y, x)
    up, left = height - 1 - y, width - 1 - x  # counted from the far end

    def zoomed(v: Tensor, size: int, factor: int) -> Tensor:
        return (v + size * (factor - 1) // 2) // factor

    rows = (y, y, up, x, up, left, zoomed(y, height, 2), zoomed(y, height, 4))
    columns = (x, left, x, up, left, y, zoomed(x, width, 2), zoomed(x, width, 4))
    # A quarter turn of a tile that is not square would leave it; ops.mosaic refuses those.
    row = torch.stack(rows).clamp(max=height - 1)
    column = torch.stack(columns).clamp(max=width - 1)
    shape = torch.broadcast_shapes(codes.shape, y.shape)
    index = codes.expand(shape)[None]
    return (
        row.expand(8, *shape).gather(0, index)[0],
        column.expand(8, *shape).gather(0, index)[0],
    )
