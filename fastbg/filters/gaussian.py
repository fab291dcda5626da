"""Taps of the Gaussian kernels along LAM's path, one axis of the separable kernel.

The kernel of the public LAM code is ``exp(-(x^2 + y^2) / (2 (sigma + 1e-5)^2))`` on an odd square,
normalised to sum 1: the outer product of two copies of the taps below.
"""

import torch
from torch import Tensor

SIGMA_OFFSET = 1e-5  # of the public code; keeps sigma = 0 (the identity) free of 0 / 0


def gaussian_taps(sigmas: Tensor, kernel_size: int) -> Tensor:
    """Normalised taps (..., kernel_size) in float64 for each of `sigmas` (...)."""
    radius = kernel_size // 2
    x = torch.arange(-radius, radius + 1, dtype=torch.float64, device=sigmas.device)
    width = sigmas.to(torch.float64)[..., None] + SIGMA_OFFSET
    taps = torch.exp(-0.5 * (x / width).square())
    return taps / taps.sum(-1, keepdim=True)


def difference_taps(sigmas: Tensor, kernel_size: int) -> tuple[Tensor, Tensor]:
    """Taps (change, level) with ``K_to - K_from = change x level + level x change``.

    `sigmas` (K,2) holds from and to. A difference of two outer products ``u u' - v v'`` is that
    sum for ``change = u - v`` and ``level = (u + v) / 2``; subtracting the taps in float64 instead
    of two blurred images leaves no cancellation in the images' precision.
    """
    start, end = gaussian_taps(sigmas, kernel_size).unbind(-2)
    return end - start, (start + end) / 2
