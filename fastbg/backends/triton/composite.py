"""Composite family on Triton kernels: allocate, then launch on the tensors' device."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fastbg.filters.bicubic import bicubic_taps
from fastbg.filters.constants import on_device
from fastbg.kernels.composite import launch_composite, launch_mosaic
from fastbg.kernels.composite_lr import AxisTaps, launch_composite_lr


@lru_cache(maxsize=64)
def axis_taps(size: int, scale: int, kernel: str, device: torch.device) -> AxisTaps:
    """`bicubic_taps` on `device`; copied there once."""
    taps = bicubic_taps(size, scale, kernel)
    span = np.stack([taps.index.min(1), taps.index.max(1)], axis=1)
    tables = (
        on_device(torch.from_numpy(np.ascontiguousarray(table)), device)
        for table in (taps.index, taps.weight.astype(np.float32), span)
    )
    return AxisTaps(*tables)


def empty_images(source: Tensor, *shape: int) -> Tensor:
    dtype = torch.float32 if source.dtype == torch.uint8 else source.dtype
    return source.new_empty(shape, dtype=dtype)


def composite(a: Tensor, b: Tensor, pairs: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """b inside outer and outside inner, a elsewhere: (N,C,H,W)."""
    out = empty_images(a, pairs.shape[0], *a.shape[1:])
    with torch.cuda.device_of(a):
        launch_composite(a, b, pairs, inner, outer, out)
    return out


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
    _, channels, height, width = a.shape
    rows, columns = (axis_taps(size, scale, kernel, a.device) for size in (height, width))
    out = empty_images(a, pairs.shape[0], channels, height // scale, width // scale)
    with torch.cuda.device_of(a):
        launch_composite_lr(a, b, pairs, inner, outer, rows, columns, quantize, out)
    return out


def mosaic(tiles: Tensor, cells: Tensor) -> Tensor:
    """Grid of transformed copies of each tile: (N,C,g*h,g*w)."""
    n, channels, height, width = tiles.shape
    grid = cells.shape[-1]
    out = empty_images(tiles, n, channels, grid * height, grid * width)
    with torch.cuda.device_of(tiles):
        launch_mosaic(tiles, cells, out)
    return out
