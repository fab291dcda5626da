"""Whole experiments in good plain PyTorch: batched, frozen, channels_last, inference mode.

Batches are as large as fastbg's own. LR images are given, see `experiments_naive`.
"""

import torch
from torch import Tensor, nn


@torch.inference_mode()
def table1(net: nn.Module, hr: Tensor, lr: Tensor, region: int, shave: int, batch: int) -> Tensor:
    """PSNR (n,2) of the centre of hr (n,3,H,W) uint8, from full and partial inputs lr (n,3,h,w)."""
    scale = hr.shape[-1] // lr.shape[-1]
    low, high = (hr.shape[-1] - region) // 2, (hr.shape[-1] + region) // 2
    inner = slice(low + shave, high - shave)
    small = slice(low // scale, high // scale)
    cut = slice(shave, region - shave)
    x = lr.contiguous(memory_format=torch.channels_last)
    full = torch.cat([net(part)[..., inner, inner] for part in x.split(batch)])
    few = batch * (lr.shape[-1] * scale // region) ** 2  # as many pixels at once
    partial = torch.cat([net(part)[..., cut, cut] for part in x[..., small, small].split(few)])
    truth = hr[..., inner, inner]
    return torch.stack([psnr(full, truth), psnr(partial, truth)], dim=1)


@torch.inference_mode()
def slicing(net: nn.Module, hr: list[Tensor], lr: list[Tensor], tile: int, pixels: int) -> Tensor:
    """PSNR (n,2) of each image (3,H,W) uint8, restored whole and in slices; lr (3,h,w) each."""
    rows = []
    for truth, small in zip(hr, lr, strict=True):
        side = tile * small.shape[-1] // truth.shape[-1]
        tiles = small.unfold(1, side, side).unfold(2, side, side)  # [3,R,S,side,side]
        rows_, columns = tiles.shape[1:3]
        x = tiles.permute(1, 2, 0, 3, 4).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        parts = torch.cat([net(part) for part in x.split(max(1, pixels // side**2))])
        grid = parts.unflatten(0, (rows_, columns)).permute(2, 0, 3, 1, 4)
        sliced = grid.reshape(1, *truth.shape)
        whole = net(small[None].contiguous(memory_format=torch.channels_last))
        rows.append(torch.cat([psnr(image, truth[None]) for image in (whole, sliced)]))
    return torch.stack(rows)


@torch.inference_mode()
def swap(net: nn.Module, hr: Tensor, lr: Tensor, side: int, batch: int) -> Tensor:
    """PSNR (n,K) of the centre of hr (n,3,H,W) uint8 in each of its composites lr (n,K,3,h,w)."""
    low, high = (hr.shape[-1] - side) // 2, (hr.shape[-1] + side) // 2
    inner = slice(low, high)
    rows = []
    for truth, composites in zip(hr[..., inner, inner], lr, strict=True):
        x = composites.contiguous(memory_format=torch.channels_last)
        sr = torch.cat([net(part)[..., inner, inner] for part in x.split(batch)])
        rows.append(psnr(sr, truth.expand_as(sr)))
    return torch.stack(rows)


def psnr(sr: Tensor, hr: Tensor) -> Tensor:
    """In dB, over RGB, of each image."""
    levels = (sr.clamp(0, 1) * 255).round()
    error = (levels - hr.float()).square().mean(dim=(1, 2, 3), dtype=torch.float64)
    return 10 * torch.log10(255**2 / error)
