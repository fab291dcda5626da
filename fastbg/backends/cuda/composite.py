"""CUDA C++ backend of the composite family (csrc/cuda/composite.cu)."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fastbg.backends.cuda import launching_on, native
from fastbg.backends.tensor_view import view
from fastbg.errors import InvalidArgument
from fastbg.filters.bicubic import bicubic_taps
from fastbg.filters.constants import on_device

MAX_SCALE = 511  # at 512 not even a one-pixel tile fits in 48 KiB of shared memory


def output_dtype(source: Tensor) -> torch.dtype:
    return torch.float32 if source.dtype == torch.uint8 else source.dtype


def composite(a: Tensor, b: Tensor, pairs: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """b inside outer and outside inner, a elsewhere: (N,C,H,W)."""
    out = torch.empty((len(pairs), *a.shape[1:]), dtype=output_dtype(a), device=a.device)
    with launching_on(a.device) as stream:
        native().composite(*map(view, (a, b, pairs, inner, outer, out)), stream)
    return out


@lru_cache(maxsize=64)
def taps_on(size: int, scale: int, kernel: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Index (n_out,T) int32 and weight (n_out,T) float32 of one axis, on `device`."""
    taps = bicubic_taps(size, scale, kernel)
    index, weight = torch.from_numpy(taps.index), torch.from_numpy(taps.weight)
    return on_device(index, device), on_device(weight, device, torch.float32)


@lru_cache(maxsize=64)
def band_on(size: int, scale: int, kernel: str, device: torch.device) -> Tensor:
    """The same taps, (n_out,4*scale) float32: from pixel scale*i - floor(3*scale/2) on."""
    taps = bicubic_taps(size, scale, kernel)
    pixel = np.arange(len(taps.index))[:, None]
    band = np.zeros((len(pixel), 4 * scale))
    np.add.at(band, (pixel, taps.index - (scale * pixel - 3 * scale // 2)), taps.weight)
    return on_device(torch.from_numpy(band), device, torch.float32)


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
    if scale > MAX_SCALE:
        raise InvalidArgument("scale", scale, f"at most {MAX_SCALE} on the cuda backend")
    channels, height, width = a.shape[1:]
    size = channels, height // scale, width // scale
    out = torch.empty((len(pairs), *size), dtype=output_dtype(a), device=a.device)
    # Work per source pays off once there are as many pairs as sources.
    sources = len(a) + len(b)
    shared = sources if len(pairs) >= sources else 0
    half, small = (
        torch.empty(
            (shared, channels, height // scale, columns), dtype=torch.float32, device=a.device
        )
        for columns in (width, width // scale)
    )
    rows = taps_on(height, scale, kernel, a.device)
    columns = taps_on(width, scale, kernel, a.device)
    band = band_on(width, scale, kernel, a.device)
    with launching_on(a.device) as stream:
        native().composite_lr(
            *map(view, (a, b, pairs, inner, outer, *rows, *columns)),
            quantize,
            *map(view, (band, half, small, out)),
            stream,
        )
    return out


def mosaic(tiles: Tensor, cells: Tensor) -> Tensor:
    """Grid of transformed copies of each tile: (N,C,g*h,g*w)."""
    n, channels, height, width = tiles.shape
    g = cells.shape[-1]
    out = tiles.new_empty((n, channels, g * height, g * width))
    with launching_on(tiles.device) as stream:
        native().mosaic(*map(view, (tiles, cells, out)), stream)
    return out
