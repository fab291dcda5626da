"""The mosaic and TTA as analysis scripts are written: one network call per copy, whole images.

LR photographs are given, see `experiments_naive`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bench.baselines.experiments_naive import Images, psnr, restored

Image = NDArray[np.uint8]
FLIPS = {1: 1, 2: 0}  # code of fastbg's Transform -> axis
TURNS = {0: 0, 3: 1, 4: 2, 5: 3}  # code -> quarter turns, counter-clockwise
ZOOMS = {6: 2, 7: 4}  # code -> factor


def mosaic(
    net: nn.Module,
    hr: Images,
    lr: Images,
    boxes: Sequence[Sequence[int]],
    cells: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> NDArray[np.float64]:
    """PSNR (n,4) of each region: in its own image, alone, in the mosaic, with TTA.

    `hr` are the regions (r,r,3), `lr` the photographs that they lie in, at `boxes` in SR pixels;
    `cells` (n,g,g) are the codes of the mosaics, `counts` (n,8) tells how often TTA takes each.
    """
    rows = []
    for truth, photograph, box, codes, often in zip(hr, lr, boxes, cells, counts, strict=True):
        size, grid = len(truth), len(codes)
        whole = restored(net, photograph)
        scale = len(whole) // len(photograph)
        y0, x0, y1, x1 = box
        tile = photograph[y0 // scale : y1 // scale, x0 // scale : x1 // scale]
        own = whole[y0:y1, x0:x1]
        assembled = np.concatenate(
            [np.concatenate([copy(tile, code) for code in row], axis=1) for row in codes]
        )
        middle = slice(grid // 2 * size, (grid // 2 + 1) * size)
        central = restored(net, assembled)[middle, middle]
        results = [own, restored(net, tile), central, augmented(net, tile, often)]
        rows.append([psnr(image, truth) for image in results])
    return np.array(rows)


@torch.no_grad()
def augmented(net: nn.Module, tile: Image, often: NDArray[np.int64]) -> Image:
    """The mean over restored copies, each turned back; rounded to 8 bit at the end."""
    copies = []
    for code in np.repeat(np.arange(len(often)), often):
        x = torch.from_numpy(copy(tile, code).transpose(2, 0, 1).copy()).float()[None] / 255
        sr = net(x)[0].numpy().transpose(1, 2, 0)
        copies.append(copy(sr, {3: 5, 5: 3}.get(code, code)))
    return (np.mean(copies, axis=0).clip(0, 1) * 255).round().astype(np.uint8)


def copy(tile: NDArray[Any], code: int) -> NDArray[Any]:
    """`tile` flipped, turned, or zoomed with its border cut off."""
    if code in FLIPS:
        return np.flip(tile, FLIPS[code])
    if code in TURNS:
        return np.rot90(tile, TURNS[code])
    factor = ZOOMS[code]
    border = len(tile) * (factor - 1) // 2
    large = tile.repeat(factor, 0).repeat(factor, 1)
    return large[border : border + len(tile), border : border + len(tile)]
