"""The mosaic and TTA in good plain PyTorch: copies of all regions in batches, whole images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from bench.baselines.experiments_good import psnr

FLIPS = {1: 3, 2: 2}  # code of fastbg's Transform -> axis
TURNS = {0: 0, 3: 1, 4: 2, 5: 3}  # code -> quarter turns, counter-clockwise
ZOOMS = {6: 2, 7: 4}  # code -> factor


@torch.inference_mode()
def mosaic(
    net: nn.Module,
    hr: Tensor,
    lr: list[Tensor],
    boxes: Sequence[Sequence[int]],
    cells: Tensor,
    counts: Tensor,
    pixels: int,
) -> Tensor:
    """PSNR (n,4) of each region hr (n,3,r,r) uint8; lr (3,h,w) each. See `mosaic_naive`."""
    size, grid = hr.shape[-1], cells.shape[-1]

    def restored(images: Tensor) -> Tensor:
        batch = max(1, pixels // (images.shape[-1] * images.shape[-2]))
        images = images.contiguous(memory_format=torch.channels_last)
        return torch.cat([net(part) for part in images.split(batch)])

    own, tiles = [], []
    for photograph, (y0, x0, y1, x1) in zip(lr, boxes, strict=True):
        sr = restored(photograph[None])
        scale = sr.shape[-1] // photograph.shape[-1]
        own.append(sr[..., y0:y1, x0:x1])
        tiles.append(photograph[:, y0 // scale : y1 // scale, x0 // scale : x1 // scale])
    tile = torch.stack(tiles)
    every = torch.stack([copy(tile, code) for code in range(8)], dim=1)  # [n,8,3,h,h]
    picked = every[torch.arange(len(tile))[:, None, None], cells]  # [n,g,g,3,h,h]
    assembled = picked.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    middle = slice(grid // 2 * size, (grid // 2 + 1) * size)
    central = torch.cat([restored(image[None])[..., middle, middle] for image in assembled])
    augmented = []
    for i, often in enumerate(counts.tolist()):
        codes = [code for code, count in enumerate(often) for _ in range(count)]
        copies = restored(every[i, codes])
        back = [
            copy(sr, {3: 5, 5: 3}.get(c, c)) for sr, c in zip(copies[:, None], codes, strict=True)
        ]
        augmented.append(torch.cat(back).mean(0))
    results = (torch.cat(own), restored(tile), central, torch.stack(augmented))
    return torch.stack([psnr(image, hr) for image in results], dim=1)


def copy(tiles: Tensor, code: int) -> Tensor:
    """`tiles` (n,3,h,h) flipped, turned, or zoomed with their border cut off."""
    if code in FLIPS:
        return tiles.flip(FLIPS[code])
    if code in TURNS:
        return tiles.rot90(TURNS[code], (2, 3))
    factor, side = ZOOMS[code], tiles.shape[-1]
    border = side * (factor - 1) // 2
    large = interpolate(tiles, scale_factor=factor, mode="nearest")
    return large[..., border : border + side, border : border + side]
