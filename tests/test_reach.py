"""LR pixels that a window may depend on: none outside has influence, those at the rim do."""

import pytest
import torch
from torch import nn

import fastbg
from fastbg.errors import InvalidArgument
from fastbg.geometry import Box
from fastbg.models.bicubic import Bicubic
from fastbg.models.edsr import EDSR
from fastbg.models.network import Network, pad_reflected, unreflected
from fastbg.models.rcan import RCAN
from fastbg.models.swinir import SwinIR


def small(name: str) -> Network:
    torch.manual_seed(1)
    if name == "edsr":
        net: Network = EDSR(features=8, blocks=1)
    elif name == "swinir":
        net = SwinIR(width=8, depths=(2,), heads=(2,), window=8, scale=2)
    else:
        net = Bicubic(3)
    net = net.double().eval()
    for parameter in net.parameters():  # so that no layer is without influence
        nn.init.normal_(parameter, std=0.3)
    return net


def touched(net: Network, window: Box, height: int, width: int) -> torch.Tensor:
    """Whether the window has a gradient to each LR pixel (h,w)."""
    x = torch.rand(1, 3, height, width, dtype=torch.float64, requires_grad=True)
    mixed = net.forward_window(x, window)
    weights = torch.rand_like(mixed)
    (gradient,) = torch.autograd.grad((mixed * weights).sum(), x)
    return gradient[0].abs().sum(0) > 0


@pytest.mark.parametrize("name", ["edsr", "swinir", "bicubic"])
@pytest.mark.parametrize("place", ["corner", "centre", "end"])
@pytest.mark.parametrize("size", [(33, 45), (40, 48)])
def test_nothing_outside_has_influence(name: str, place: str, size: tuple[int, int]) -> None:
    net, (height, width) = small(name), size
    y, x = {
        "corner": (0, 0),
        "centre": (height // 2 * net.scale, width // 2 * net.scale),
        "end": (height * net.scale - 2, width * net.scale - 3),
    }[place]
    window = Box(y, x, y + 2, x + 3)
    reach = net.reach(window, height, width)
    assert 0 <= reach.y0 < reach.y1 <= height
    assert 0 <= reach.x0 < reach.x1 <= width
    seen = touched(net, window, height, width)
    inside = torch.zeros_like(seen)
    inside[reach.y0 : reach.y1, reach.x0 : reach.x1] = True
    assert not (seen & ~inside).any()


@pytest.mark.parametrize("name", ["edsr", "swinir"])
def test_the_reach_is_tight(name: str) -> None:
    net = small(name)
    window = Box(20, 24, 22, 26)
    reach = net.reach(window, 40, 48)
    seen = touched(net, window, 40, 48).nonzero()
    low, high = seen.amin(0), seen.amax(0) + 1
    assert Box(*low.tolist(), *high.tolist()) == reach


def test_a_network_that_pools_reaches_everything() -> None:
    net = RCAN(features=8, groups=1, blocks=1)
    assert net.stages() is None
    assert net.reach((0, 0, 1, 1), 20, 30) == Box(0, 0, 20, 30)


def test_a_wrapped_module_tells_nothing_and_reaches_everything() -> None:
    net = fastbg.wrap(nn.Upsample(scale_factor=2), scale=2)
    assert net.reach((0, 0, 1, 1), 20, 30) == Box(0, 0, 20, 30)


def test_windows_outside_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="window"):
        small("edsr").reach((0, 0, 161, 4), 40, 48)
    with pytest.raises(InvalidArgument, match="window"):
        small("swinir").reach((0, 0, 4, 97), 40, 48)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("padded", [8, 16])
def test_reflected_pixels_are_those_they_mirror(size: int, padded: int) -> None:
    rows = pad_reflected(torch.arange(size).view(1, 1, size, 1), padded, 1).flatten()
    for start in range(padded):
        for end in range(start + 1, padded + 1):
            low, high = unreflected(start, end, size)
            mirrored = rows[start:end]
            assert low <= mirrored.min()
            assert mirrored.max() < high <= size
