"""Whole experiments as analysis scripts are written: one image per step, whole forward passes.

They get their LR images ready-made, as such scripts read them from disk; fastbg makes its own
inside the time that is taken.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Images = list[NDArray[np.uint8]]  # (h,w,3) each


def table1(net: nn.Module, hr: Images, lr: Images, region: int, shave: int) -> NDArray[np.float64]:
    """PSNR (n,2) of the centre, from the full and from the partial input."""
    rows = []
    for truth, small in zip(hr, lr, strict=True):
        scale = truth.shape[0] // small.shape[0]
        low, high = (truth.shape[0] - region) // 2, (truth.shape[0] + region) // 2
        full = restored(net, small)[low:high, low:high]
        partial = restored(net, small[low // scale : high // scale, low // scale : high // scale])
        cut = slice(shave, region - shave)
        target = truth[low:high, low:high][cut, cut]
        rows.append([psnr(image[cut, cut], target) for image in (full, partial)])
    return np.array(rows)


def slicing(net: nn.Module, hr: Images, lr: Images, tile: int) -> NDArray[np.float64]:
    """PSNR (n,2) of each image, restored whole and slice by slice."""
    rows = []
    for truth, small in zip(hr, lr, strict=True):
        scale = truth.shape[0] // small.shape[0]
        sliced = np.empty_like(truth)
        for y in range(0, truth.shape[0], tile):
            for x in range(0, truth.shape[1], tile):
                part = small[y // scale : (y + tile) // scale, x // scale : (x + tile) // scale]
                sliced[y : y + tile, x : x + tile] = restored(net, part)
        rows.append([psnr(restored(net, small), truth), psnr(sliced, truth)])
    return np.array(rows)


def swap(net: nn.Module, truths: Images, lr: list[Images], side: int) -> NDArray[np.float64]:
    """PSNR (n,K) of the centre of each of `truths` in each of its K composites."""
    rows = []
    for truth, composites in zip(truths, lr, strict=True):
        low, high = (truth.shape[0] - side) // 2, (truth.shape[0] + side) // 2
        target = truth[low:high, low:high]
        rows.append(
            [psnr(restored(net, small)[low:high, low:high], target) for small in composites]
        )
    return np.array(rows)


@torch.no_grad()
def restored(net: nn.Module, lr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """SR image, 8 bit, of one LR image (h,w,3)."""
    x = torch.from_numpy(lr.transpose(2, 0, 1).copy()).float()[None] / 255
    y = net(x)[0].clamp(0, 1).numpy().transpose(1, 2, 0)
    return (y * 255).round().astype(np.uint8)


def psnr(sr: NDArray[np.uint8], hr: NDArray[np.uint8]) -> float:
    """In dB, over RGB."""
    error = ((sr.astype(np.float64) - hr.astype(np.float64)) ** 2).mean()
    return float(10 * np.log10(255**2 / error))
