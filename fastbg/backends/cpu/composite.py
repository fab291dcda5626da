"""Composite family in C++ (csrc/cpu/composite*.cpp, mosaic.cpp)."""

from functools import lru_cache

import torch
from torch import Tensor

from fastbg.backends.cpu import native
from fastbg.backends.tensor_view import view
from fastbg.filters.bicubic import bicubic_taps


def composite(a: Tensor, b: Tensor, pairs: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """b inside outer and outside inner, a elsewhere: (N,C,H,W)."""
    out = composite_images(a, len(pairs), *a.shape[2:])
    native().composite(
        *map(view, (a, b, pairs, inner, outer, out)),
        torch.get_num_threads(),
    )
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
    """Bicubic down-sampling of `composite`, which is not stored: (N,C,H/s,W/s)."""
    height, width = a.shape[2:]
    out = composite_images(a, len(pairs), height // scale, width // scale)
    rows, columns = taps_of(height, scale, kernel), taps_of(width, scale, kernel)
    native().composite_lr(
        *map(view, (a, b, pairs, inner, outer, *rows, *columns)),
        quantize,
        view(out),
        torch.get_num_threads(),
    )
    return out


def mosaic(tiles: Tensor, cells: Tensor) -> Tensor:
    """Grid of transformed copies of each tile: (N,C,g*h,g*w)."""
    n, channels, height, width = tiles.shape
    g = cells.shape[-1]
    out = tiles.new_empty((n, channels, g * height, g * width))
    native().mosaic(view(tiles), view(cells), view(out), torch.get_num_threads())
    return out


def composite_images(source: Tensor, n: int, height: int, width: int) -> Tensor:
    dtype = torch.float32 if source.dtype == torch.uint8 else source.dtype
    return torch.empty((n, source.shape[1], height, width), dtype=dtype, device="cpu")


@lru_cache(maxsize=64)
def taps_of(size: int, scale: int, kernel: str) -> tuple[Tensor, Tensor]:
    taps = bicubic_taps(size, scale, kernel)
    return torch.from_numpy(taps.index).contiguous(), torch.from_numpy(
        taps.weight
    ).float().contiguous()
