"""Small images and a network for the tests of causal effect maps."""

import torch
from torch import Tensor, nn

from fastbg.models.edsr import EDSR
from fastbg.models.network import Network

WINDOW = (20, 24, 16)  # of the small images below


def photographs(height: int = 21, width: int = 26, count: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, height, width, generator=generator)


def truth_of(lr: Tensor, scale: int = 2) -> Tensor:
    return lr.repeat_interleave(scale, -1).repeat_interleave(scale, -2)


def plain_psnr(model: nn.Module, lr: Tensor, truth: Tensor, window: tuple[int, int, int]) -> float:
    """As CEM.md's section 2 has it, by a whole pass."""
    y, x, size = window
    sr = model(lr)[0, :, y : y + size, x : x + size]
    levels = (255 * sr.clamp(0, 1)).round().double()
    true = (255 * truth[0, :, y : y + size, x : x + size]).round().double()
    return float(20 * torch.log10(255 / (levels - true).square().mean().sqrt()))


def small_edsr() -> Network:
    torch.manual_seed(0)
    return EDSR(features=8, blocks=1, scale=2).eval().requires_grad_(False)
