"""PSNR and SSIM of 8-bit images, computed in strips to save memory."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastbg.measures.quality import SSIM_SIZE, grey_levels, ssim

Image = NDArray[np.uint8]
PIXELS = 1 << 20  # of a strip, approximately


def psnr_and_ssim(
    sr: Image, hr: Image, shave: int = 0, channel: str = "rgb"
) -> tuple[float, float]:
    """`fastbg.psnr` (dB) and `fastbg.ssim` of two images (H,W,3) uint8, up to rounding.

    Without the border of `shave` pixels, at least 11 x 11 pixels must remain.
    """
    height, width = sr.shape[:2]
    inside = slice(shave, height - shave), slice(shave, width - shave)
    sr, hr = sr[inside], hr[inside]
    height, width = sr.shape[:2]
    rows = max(1, PIXELS // width)
    error = similarity = 0.0
    values = 0
    for y in range(0, height, rows):
        ours, truth = (grey_levels(to_tensor(each[y : y + rows]), channel) for each in (sr, hr))
        error += float((ours - truth).square().sum())
        values += ours.numel()
    last = height - SSIM_SIZE + 1  # rows of windows that lie inside
    for y in range(0, last, rows):
        stop = min(y + rows, last)
        ours, truth = (to_tensor(each[y : stop + SSIM_SIZE - 1]) for each in (sr, hr))
        similarity += (stop - y) * float(ssim(ours, truth, channel=channel))
    mean = error / values
    return 10 * math.log10(255**2 / mean) if mean else math.inf, similarity / last


def to_tensor(image: Image) -> Tensor:
    """(1,3,h,w) float64 in [0,1] of 8-bit pixels (h,w,3)."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].double() / 255
