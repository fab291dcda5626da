"""`ring` and `inward` in naive code, as analysis scripts are written, and in good plain PyTorch.

Both get the LR images of N composites ready-made and return the window's PSNR (N) and the diffusion
index (N) of its attribution.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.baselines import experiments_good, experiments_naive, lam_torch

Images = experiments_naive.Images
Scores = dict[str, NDArray[np.float64]]


def naive(
    net: nn.Module, hr: Images, lr: Images, window: tuple[int, int, int], n_steps: int
) -> Scores:
    """Each composite is restored as a whole, then attributed one step at a time."""
    y, x, size = window
    scores, indices = [], []
    for truth, small in zip(hr, lr, strict=True):
        sr = experiments_naive.restored(net, small)[y : y + size, x : x + size]
        scores.append(experiments_naive.psnr(sr, truth[y : y + size, x : x + size]))
        image = torch.from_numpy(small.transpose(2, 0, 1).copy()).float()[None] / 255
        total = lam_torch.published(net, image, window, n_steps, range(n_steps))
        indices.append(diffusion_index(total))
    return {"psnr": np.array(scores), "di": np.array(indices)}


def good(
    net: nn.Module,
    hr: Tensor,
    lr: Tensor,
    window: tuple[int, int, int],
    n_steps: int,
    pixels: int,
    batch: int,
) -> Scores:
    """`pixels` LR pixels per forward pass, `batch` nodes per step of the attribution."""
    y, x, size = window
    with torch.inference_mode():
        few = lr.contiguous(memory_format=torch.channels_last)
        sr = torch.cat(
            [
                net(part)[..., y : y + size, x : x + size]
                for part in few.split(max(1, pixels // lr[0, 0].numel()))
            ]
        )
        scores = experiments_good.psnr(sr, hr[..., y : y + size, x : x + size])
    indices = [
        diffusion_index(lam_torch.good(net, image, window, n_steps, range(n_steps), batch))
        for image in lr.split(1)
    ]
    return {"psnr": scores.numpy(), "di": np.array(indices)}


def diffusion_index(attribution: Tensor) -> float:
    """Of a map |sum over channels| / max, as the public code computes it."""
    values = attribution.sum(0).abs().double().flatten()
    values = (values / values.max() + 1e-7).sort().values
    n = len(values)
    rank = torch.arange(1, n + 1, dtype=torch.float64)
    gini = float(((2 * rank - n - 1) * values).sum() / (n * values.sum()))
    return (1 - gini) * 100
