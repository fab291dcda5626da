"""Tiles: the whole image's pixels where a network's reach is bounded, and said so where not."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import fastbg
from fastbg.errors import InvalidArgument
from fastbg.geometry import Box
from fastbg.models.bicubic import Bicubic
from fastbg.models.edsr import EDSR
from fastbg.models.network import Network
from fastbg.models.rcan import RCAN
from fastbg.models.swinir import SwinIR
from fastbg.models.tiles import forward_box, forward_tiles, is_exact, tiles

EXACT: dict[str, Callable[[], Network]] = {
    "bicubic": lambda: Bicubic(4),
    "edsr": lambda: EDSR(features=8, blocks=2),
    "swinir": lambda: SwinIR(width=8, depths=(2,), heads=(2,), window=4),
}
OTHER: dict[str, Callable[[], Network]] = {
    "rcan": lambda: RCAN(features=4, groups=1, blocks=1, squeezed=2),
    "wrapped": lambda: fastbg.wrap(nn.Upsample(scale_factor=4, mode="bilinear"), scale=4),
}


def assembled(net: Network, x: torch.Tensor, side: int, **options: int) -> torch.Tensor:
    """Of tiles, each of which must be there once."""
    height, width = (4 * n for n in x.shape[-2:])
    whole = torch.full((len(x), 3, height, width), float("nan"))
    for box, part in forward_tiles(net, x, side, **options):
        assert whole[(..., *box.slices())].isnan().all()
        whole[(..., *box.slices())] = part
    return whole


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(("height", "width", "side"), [(37, 53, 16), (37, 53, 13), (24, 7, 8)])
def test_tiles_are_the_whole_image(name: str, height: int, width: int, side: int) -> None:
    torch.manual_seed(0)
    net = EXACT[name]().eval().requires_grad_(False)
    assert is_exact(net)
    x = torch.rand(2, 3, height, width)
    torch.testing.assert_close(assembled(net, x, side), net(x), rtol=1e-5, atol=1e-5)
    box = Box(9, 3, 30, 22)
    wanted = net(x)[(..., *box.slices())]
    torch.testing.assert_close(forward_box(net, x, box), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OTHER)
def test_other_networks_get_an_overlap(name: str) -> None:
    torch.manual_seed(0)
    net = OTHER[name]().eval().requires_grad_(False)
    assert not is_exact(net)
    x = torch.rand(1, 3, 30, 40)
    torch.testing.assert_close(assembled(net, x, 16, overlap=40), net(x), rtol=1e-4, atol=1e-4)
    near = assembled(net, x, 16, overlap=2)
    assert near.isfinite().all()
    if name == "rcan":  # whose channel means are the tile's
        assert (near - net(x)).abs().max() > 1e-6
    else:  # bilinear: looks one pixel far
        torch.testing.assert_close(near, net(x), rtol=1e-4, atol=1e-4)


def test_tiles_cover_every_pixel_once() -> None:
    seen = torch.zeros(17, 23)
    for box in tiles(17, 23, 5):
        seen[box.slices()] += 1
        assert max(box.y1 - box.y0, box.x1 - box.x0) <= 5
    assert (seen == 1).all()
    assert list(tiles(3, 4, 99)) == [Box(0, 0, 3, 4)]
    with pytest.raises(InvalidArgument, match="tile: got 0; expected at least 1 pixel"):
        next(tiles(3, 4, 0))
