"""Only what a window depends on is computed, and what comes out is the whole image's."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastbg
from fastbg.attribution.paths import Path
from fastbg.errors import InvalidArgument
from fastbg.geometry import Box
from fastbg.models.bicubic import Bicubic
from fastbg.models.edsr import EDSR
from fastbg.models.network import Network
from fastbg.models.rcan import RCAN
from fastbg.models.swinir import SwinIR

NETWORKS: dict[str, Callable[[], Network]] = {
    "bicubic": lambda: Bicubic(4),
    "edsr": lambda: EDSR(features=8, blocks=2, scale=4),
    "edsr x3": lambda: EDSR(features=8, blocks=1, scale=3),
    "swinir": lambda: SwinIR(width=8, depths=(2,), heads=(2,), window=4),
    "swinir classical": lambda: SwinIR(
        width=8, depths=(2,), heads=(2,), window=4, upsampler="pixelshuffle", features=8, scale=2
    ),
}
every_network = pytest.mark.parametrize("name", NETWORKS)
HEIGHT, WIDTH = 61, 75  # LR pixels; no multiples of an attention window


def built(name: str) -> Network:
    torch.manual_seed(0)
    return NETWORKS[name]().eval().requires_grad_(False)


@pytest.fixture
def image() -> Tensor:
    return torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


def windows(scale: int) -> list[Box]:
    """In the middle, at an odd place, in two corners."""
    height, width = scale * HEIGHT, scale * WIDTH
    return [
        Box(height // 2, width // 2, height // 2 + 8, width // 2 + 5),
        Box(7, width - 31, 24, width - 3),
        Box(0, 0, 9, 9),
        Box(height - 2, width - 3, height, width),
    ]


@every_network
def test_a_crop_gives_the_window_of_the_whole_image(name: str, image: Tensor) -> None:
    net = built(name)
    x = image.requires_grad_()
    sr = net(x)
    for window in windows(net.scale):
        crop = net.crop_for(window, HEIGHT, WIDTH)
        assert crop is not None
        rows, columns = crop.box.slices()
        part = image.detach()[..., rows, columns].requires_grad_()
        got = net.forward_window(part, crop.window)
        wanted = sr[(..., *window.slices())]
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
        weight = torch.rand(wanted.shape, generator=torch.Generator().manual_seed(2))
        (whole,) = torch.autograd.grad((wanted * weight).sum(), x, retain_graph=True)
        (ours,) = torch.autograd.grad((got * weight).sum(), part)
        torch.testing.assert_close(ours, whole[..., rows, columns], rtol=1e-4, atol=1e-5)
        assert whole.abs().sum().item() == pytest.approx(ours.abs().sum().item(), rel=1e-4)


@every_network
def test_a_crop_is_smaller_than_the_image(name: str) -> None:
    net = built(name)
    crop = net.crop_for(Box(400, 400, 416, 416), 600, 700)
    assert crop is not None
    height, width = crop.box.y1 - crop.box.y0, crop.box.x1 - crop.box.x0
    assert max(height, width) < 80
    assert crop.box.y0 % net.crop_multiple == crop.box.x0 % net.crop_multiple == 0


@pytest.mark.parametrize(
    "net",
    [
        RCAN(features=4, groups=1, blocks=1, squeezed=2),
        fastbg.wrap(nn.Upsample(scale_factor=4), scale=4),
    ],
    ids=["rcan", "wrapped"],
)
def test_no_crop_where_the_reach_has_no_bound_or_is_not_known(net: Network) -> None:
    assert net.crop_for(Box(40, 40, 56, 56), 100, 100) is None


class Untrimmed(nn.Module):
    """Offers `forward` only, so that the whole image is computed."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


@every_network
@pytest.mark.parametrize(
    "path",
    [fastbg.GaussianBlurPath(), fastbg.LinearPath(0.5), fastbg.GaussianLinearPath()],
    ids=repr,
)
def test_attribution_of_a_crop_is_that_of_the_whole_image(
    name: str, path: fastbg.LinearPath, image: Tensor
) -> None:
    net = built(name)
    boxes = [list(box) for box in windows(net.scale)]
    asked: dict[str, object] = {"n_steps": 3, "return_convergence_delta": True}
    ours = fastbg.LocalAttribution(net, path)
    whole = fastbg.LocalAttribution(Untrimmed(net), path)
    for box in boxes:
        got, wanted = ours.attribute(image, box, **asked), whole.attribute(image, box, **asked)
        size = wanted.attribution.abs().max()
        torch.testing.assert_close(
            got.attribution / size, wanted.attribution / size, rtol=0, atol=2e-5
        )
        torch.testing.assert_close(got.diffusion_index, wanted.diffusion_index, rtol=1e-3, atol=0)
        assert got.convergence_delta is not None
    together = ours.attribute(image, boxes, n_steps=3)
    alone = torch.cat([ours.attribute(image, box, n_steps=3).attribution for box in boxes])
    torch.testing.assert_close(together.attribution, alone, rtol=1e-4, atol=1e-6)


class MeanStart(fastbg.LinearPath):
    """From the mean colour of the whole image."""

    def start(self, images: Tensor) -> Tensor:
        return images.mean((2, 3), keepdim=True).expand_as(images)


class Mirrored(fastbg.GaussianBlurPath):
    """Each node mirrored, as an example of a path that looks far away."""

    def nodes(self, images: Tensor, positions: np.ndarray) -> Tensor:
        return super().nodes(images, positions).flip(-1)


class Even(fastbg.GaussianLinearPath):
    start = MeanStart.start


@pytest.mark.parametrize("path", [MeanStart, Mirrored, Even])
def test_a_path_of_ones_own_is_given_the_whole_image(path: type[Path], image: Tensor) -> None:
    class Whole(path):
        def __init__(self) -> None:
            super().__init__()
            self.radius = None

    net = EDSR(features=8, blocks=1, scale=2).eval()
    found, expected = (
        fastbg.LocalAttribution(net, p()).attribute(image, (8, 8, 8), 2).attribution
        for p in (path, Whole)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_path_of_ones_own_may_tell_how_far_it_looks() -> None:
    class Near(fastbg.LinearPath):
        radius = 3

    assert Near().radius == 3
    assert fastbg.LinearPath().radius == 0
    assert fastbg.GaussianBlurPath(kernel_size=7).radius == 3
    assert fastbg.GaussianLinearPath(kernel_size=9).radius == 4


def test_the_network_sees_what_the_window_needs_only(image: Tensor) -> None:
    net = built("edsr")
    seen = []
    plain = net.forward_window

    def watched(x: Tensor, window: Box) -> Tensor:
        seen.append(tuple(x.shape[-2:]))
        return plain(x, window)

    net.forward_window = watched  # type: ignore[method-assign]
    fastbg.LocalAttribution(net).attribute(image, (120, 140, 8), 2)
    # The window and one SR pixel more depend on LR pixels 22 to 39; the blur looks 4 far.
    assert set(seen) == {(18 + 2 * 4,) * 2}
    seen.clear()
    start = torch.rand(3, HEIGHT, WIDTH)
    fastbg.LocalAttribution(net, fastbg.LinearPath(start)).attribute(image, (120, 140, 8), 2)
    assert set(seen) == {(HEIGHT, WIDTH)}


def test_windows_may_be_rectangles(image: Tensor) -> None:
    net = built("edsr")
    lam = fastbg.LocalAttribution(net)
    square = lam.attribute(image, (40, 60, 16), 3)
    box = lam.attribute(image, (40, 60, 56, 76), 3)
    assert torch.equal(square.attribution, box.attribution)
    assert box.windows.tolist() == [[40, 60, 56, 76]]
    assert square.boxes.tolist() == box.boxes.tolist() == [[40, 60, 56, 76]]
    two = lam.attribute(image, [(40, 60, 56, 76), (0, 8, 8, 48)], 3)
    assert two.attribution.shape == (2, 3, HEIGHT, WIDTH)
    whole = fastbg.LocalAttribution(Untrimmed(net)).attribute(image, (0, 8, 8, 48), 3)
    torch.testing.assert_close(two.attribution[1:], whole.attribution, rtol=1e-3, atol=1e-5)
    with pytest.raises(InvalidArgument, match=r"windows: got \(0, 8, 8, 8\); expected \(y0, x0"):
        lam.attribute(image, (0, 8, 8, 8), 3)
    with pytest.raises(InvalidArgument, match=r"windows: got \(0, 280, 8, 308\); expected"):
        lam.attribute(image, (0, 280, 8, 308), 3)
