"""Composites with a bridged seam in CUDA C++ (csrc/cuda/seam.cu)."""

from functools import lru_cache

import torch
from torch import Tensor

from fastbg.backends.cuda import launching_on, native
from fastbg.backends.cuda.composite import MAX_SCALE, output_dtype, taps_on
from fastbg.backends.tensor_view import view
from fastbg.errors import InvalidArgument
from fastbg.filters.seam import decay_table


@lru_cache(maxsize=64)
def _decay(tau: float, size: int, device: torch.device) -> Tensor:
    return decay_table(tau, size).to(device)


def bridged_composite(
    a: Tensor, b: Tensor, pairs: Tensor, inner: Tensor, outer: Tensor, tau: float
) -> Tensor:
    """`composite` whose seam is bridged with decay length tau: (N,C,H,W)."""
    out = torch.empty((len(pairs), *a.shape[1:]), dtype=output_dtype(a), device=a.device)
    decay = _decay(tau, max(a.shape[2:]), a.device)
    with launching_on(a.device) as stream:
        native().bridged_composite(*map(view, (a, b, pairs, inner, outer, decay, out)), stream)
    return out


def bridged_composite_lr(
    a: Tensor,
    b: Tensor,
    pairs: Tensor,
    inner: Tensor,
    outer: Tensor,
    tau: float,
    scale: int,
    kernel: str,
    quantize: bool,
) -> Tensor:
    """Bicubic down-sampling of `bridged_composite`: (N,C,H/s,W/s)."""
    if scale > MAX_SCALE:
        raise InvalidArgument("scale", scale, f"at most {MAX_SCALE} on the cuda backend")
    channels, height, width = a.shape[1:]
    size = channels, height // scale, width // scale
    out = torch.empty((len(pairs), *size), dtype=output_dtype(a), device=a.device)
    rows = taps_on(height, scale, kernel, a.device)
    columns = taps_on(width, scale, kernel, a.device)
    decay = _decay(tau, max(height, width), a.device)
    with launching_on(a.device) as stream:
        native().bridged_composite_lr(
            *map(view, (a, b, pairs, inner, outer, decay, *rows, *columns)),
            quantize,
            view(out),
            stream,
        )
    return out
