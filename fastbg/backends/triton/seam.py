"""Composites with a bridged seam on Triton kernels."""

from functools import lru_cache

import torch
from torch import Tensor

from fastbg.backends.triton.composite import axis_taps, empty_images
from fastbg.filters.seam import decay_table
from fastbg.kernels.seam import plan_bridged_composite, plan_bridged_composite_lr


@lru_cache(maxsize=64)
def _decay(tau: float, size: int, device: torch.device) -> Tensor:
    return decay_table(tau, size).to(device, non_blocking=True)


def bridged_composite(
    a: Tensor, b: Tensor, pairs: Tensor, inner: Tensor, outer: Tensor, tau: float
) -> Tensor:
    """`composite` whose seam is bridged with decay length tau: (N,C,H,W)."""
    out = empty_images(a, pairs.shape[0], *a.shape[1:])
    decay = _decay(tau, max(a.shape[2:]), a.device)
    with torch.cuda.device_of(a):
        plan_bridged_composite(a, b, pairs, inner, outer, decay, out).run()
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
    _, channels, height, width = a.shape
    rows, columns = (axis_taps(size, scale, kernel, a.device) for size in (height, width))
    out = empty_images(a, pairs.shape[0], channels, height // scale, width // scale)
    decay = _decay(tau, max(height, width), a.device)
    with torch.cuda.device_of(a):
        plan_bridged_composite_lr(
            a, b, pairs, inner, outer, decay, rows, columns, quantize, out
        ).run()
    return out
