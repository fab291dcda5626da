"""Composites with a bridged seam in C++ (csrc/cpu/seam*.cpp)."""

import torch
from torch import Tensor

from fastbg.backends.cpu import native
from fastbg.backends.cpu.composite import composite_images, taps_of
from fastbg.backends.tensor_view import view
from fastbg.filters.seam import decay_table


def bridged_composite(
    a: Tensor, b: Tensor, pairs: Tensor, inner: Tensor, outer: Tensor, tau: float
) -> Tensor:
    """`composite` whose seam is bridged with decay length tau: (N,C,H,W)."""
    height, width = a.shape[2:]
    out = composite_images(a, len(pairs), height, width)
    decay = decay_table(tau, max(height, width))
    native().bridged_composite(
        *map(view, (a, b, pairs, inner, outer, decay, out)),
        torch.get_num_threads(),
    )
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
    """Bicubic down-sampling of `bridged_composite`, which is not stored: (N,C,H/s,W/s)."""
    height, width = a.shape[2:]
    out = composite_images(a, len(pairs), height // scale, width // scale)
    rows, columns = taps_of(height, scale, kernel), taps_of(width, scale, kernel)
    decay = decay_table(tau, max(height, width))
    native().bridged_composite_lr(
        *map(view, (a, b, pairs, inner, outer, decay, *rows, *columns)),
        quantize,
        view(out),
        torch.get_num_threads(),
    )
    return out
