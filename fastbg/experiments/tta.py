"""Test-time augmentation (TTA): restore transformed copies of an image, undo, average."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fastbg.experiments.study import restore
from fastbg.models.network import Network
from fastbg.ops.composite import Transform, mosaic

# Transforms that can be undone, each with its inverse.
INVERSE = {
    Transform.IDENTITY: Transform.IDENTITY,
    Transform.FLIP_HORIZONTAL: Transform.FLIP_HORIZONTAL,
    Transform.FLIP_VERTICAL: Transform.FLIP_VERTICAL,
    Transform.ROTATE_90: Transform.ROTATE_270,
    Transform.ROTATE_180: Transform.ROTATE_180,
    Transform.ROTATE_270: Transform.ROTATE_90,
}
# Nearest-neighbour zooms. Unlike in a mosaic, the whole zoomed image is kept; the result is
# averaged down again.
ZOOMS = {Transform.ZOOM_2: 2, Transform.ZOOM_4: 4}


def family(zooms: bool) -> dict[Transform, int]:
    """Transforms of TTA, and the factor by which each multiplies the number of pixels."""
    plain = dict.fromkeys(INVERSE, 1)
    return plain | {code: factor**2 for code, factor in ZOOMS.items()} if zooms else plain


def restored_copies(
    net: Network, tiles: Tensor, zooms: bool, backend: str = "auto"
) -> dict[Transform, Tensor]:
    """SR of square `tiles` (B,3,h,h) under each transform, transformed back: (B,3,s*h,s*h).

    A transform that TTA draws several times is restored once, and weighted by `average`.
    """
    copies = {
        code: transformed(restore(net, transformed(tiles, code, backend)), inverse, backend)
        for code, inverse in INVERSE.items()
    }
    for code, factor in ZOOMS.items() if zooms else ():
        zoomed = tiles.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        copies[code] = avg_pool2d(restore(net, zoomed), factor)
    return copies


def average(copies: dict[Transform, Tensor], counts: Tensor) -> Tensor:
    """Mean of `copies`, each weighted by how often its transform was drawn, `counts` (B,8)."""
    share = (counts / counts.sum(1, keepdim=True))[..., None, None, None]
    weighted = [share[:, code].to(sr) * sr for code, sr in copies.items()]
    return torch.stack(weighted).sum(0)


def transformed(images: Tensor, code: Transform, backend: str = "auto") -> Tensor:
    """`images` (B,C,h,h) flipped or turned: a mosaic of one cell."""
    cells = torch.full((len(images), 1, 1), int(code), device=images.device)
    return mosaic(images, cells, backend=backend)
