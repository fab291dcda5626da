"""Large images piece by piece, in bounded memory.

If a network's reach is bounded (`Network.crop_for`), each tile is computed from the crop that it
depends on, so that tiles equal the SR image of the whole image up to rounding. The tiles of other
networks are computed from a fixed overlap, and differ from it.
"""

from collections.abc import Iterator

from torch import Tensor

from fastbg.errors import InvalidArgument
from fastbg.geometry import Box
from fastbg.models.network import Network

OVERLAP = 32  # LR pixels around a tile where the reach is not known


def forward_box(net: Network, x: Tensor, window: Box) -> Tensor:
    """`net(x)` cut to `window` in SR pixels, computed from the part of `x` that it depends on."""
    crop = net.crop_for(window, *x.shape[-2:])
    if crop is None:
        return net.forward_window(x, window)
    rows, columns = crop.box.slices()
    return net.forward_window(x[..., rows, columns], crop.window)


def is_exact(net: Network) -> bool:
    """Whether tiles of `net` equal its SR image of the whole image."""
    return net.stages() is not None


def tiles(height: int, width: int, side: int) -> Iterator[Box]:
    """Tiles of at most `side` x `side` pixels that cover (height, width), row by row."""
    if side < 1:
        raise InvalidArgument("tile", side, "at least 1 pixel")
    for y in range(0, height, side):
        for x in range(0, width, side):
            yield Box(y, x, min(y + side, height), min(x + side, width))


def forward_tiles(
    net: Network, x: Tensor, side: int, overlap: int = OVERLAP
) -> Iterator[tuple[Box, Tensor]]:
    """The SR image of `x` (B,3,h,w) tile by tile: box in SR pixels, pixels (B,3,..,..).

    Args:
        net: any network; see `is_exact`.
        x: LR images in [0,1].
        side: of the tiles, LR pixels.
        overlap: LR pixels around each tile in the input, if the reach of `net` is not bounded.
    """
    height, width = x.shape[-2:]
    for box in tiles(height, width, side):
        window = box.refine(net.scale)
        if is_exact(net):
            yield window, forward_box(net, x, window)
            continue
        given = box.grow(overlap, height, width)
        rows, columns = given.slices()
        inner = box.moved(-given.y0, -given.x0).refine(net.scale)
        yield window, net(x[..., rows, columns])[(..., *inner.slices())]
