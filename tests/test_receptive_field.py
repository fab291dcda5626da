"""Effective receptive fields: by hand on networks whose gradients are known."""

import pytest
import torch
from torch import Tensor, nn

import fastbg
from fastbg.errors import InvalidArgument
from fastbg.geometry import Box
from fastbg.models.edsr import EDSR
from fastbg.models.swinir import SwinIR


class Known(nn.Module):
    """Scale 1: one 5x5 convolution of each channel with known weights, some negative."""

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.kernel = nn.Parameter(kernel)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.kernel.expand(3, 1, 5, 5)
        return nn.functional.conv2d(x, weight, padding=2, groups=3)


def known() -> tuple[nn.Module, Tensor]:
    kernel = torch.zeros(5, 5)
    kernel[2, 2], kernel[1, 3], kernel[0, 0], kernel[4, 4] = 4.0, 2.0, 1.0, -8.0
    return fastbg.wrap(Known(kernel), scale=1), kernel


def test_the_field_of_a_convolution_is_its_positive_kernel() -> None:
    net, kernel = known()
    field = fastbg.receptive_field(net, torch.rand(3, 3, 11, 13))
    assert field.window == (5, 6, 6, 7)
    expected = torch.zeros(11, 13, dtype=torch.float64)
    expected[3:8, 4:9] = 3 * kernel.clamp(min=0)  # three channels
    torch.testing.assert_close(field.total, expected)
    torch.testing.assert_close(field.map, (expected / 12) ** 0.25)
    assert field.images == 3
    assert (field.side(4 / 7), field.side(6 / 7), field.side(1.0)) == (1, 3, 5)
    assert field.table([0.5])[0] == (0.5, 1, 1 / 143)


def test_a_window_s_field_is_its_own_and_cut_at_the_border() -> None:
    net, kernel = known()
    field = fastbg.receptive_field(net, torch.rand(1, 3, 11, 13), (0, 0, 2))
    expected = torch.zeros(15, 17, dtype=torch.float64)
    for y in range(2):
        for x in range(2):
            expected[y : y + 5, x : x + 5] += 3 * kernel
    torch.testing.assert_close(field.total, expected[2:-2, 2:-2].clamp(min=0))
    assert field.side(1.0) >= 4
    box = fastbg.receptive_field(net, torch.rand(1, 3, 11, 13), (0, 0, 2, 2))
    assert torch.equal(box.total, field.total)
    assert box.window == field.window == (0, 0, 2, 2)


def test_networks_tell_their_theoretical_field() -> None:
    net = EDSR(features=8, blocks=1).eval()
    field = fastbg.receptive_field(net, torch.rand(2, 3, 40, 40), (80, 80, 4))
    assert field.reach == net.reach((80, 80, 84, 84), 40, 40)
    y0, x0, y1, x1 = field.reach
    outside = field.total.clone()
    outside[y0:y1, x0:x1] = 0
    assert not outside.any()
    assert fastbg.receptive_field(known()[0], torch.rand(1, 3, 9, 9)).reach == Box(0, 0, 9, 9)


def test_the_average_is_over_images() -> None:
    net = EDSR(features=8, blocks=1).eval()
    images = torch.rand(2, 3, 16, 16)
    both = fastbg.receptive_field(net, images)
    each = [fastbg.receptive_field(net, image[None]) for image in images]
    torch.testing.assert_close(both.total, (each[0].total + each[1].total) / 2)


def test_it_draws_itself() -> None:
    figure = fastbg.receptive_field(known()[0], torch.rand(1, 3, 12, 12)).plot()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0].startswith("20% in 1 x 1")
    assert labels[-1] == "reach: the whole image, or unknown"
    net = EDSR(features=8, blocks=1).eval()
    figure = fastbg.receptive_field(net, torch.rand(1, 3, 12, 12)).plot()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[-1] == "reach: 12 x 12 by the layers"


@pytest.mark.parametrize("side", [8, 12, 40])
def test_the_theoretical_field_has_no_borders(side: int) -> None:
    """As far as a gradient gets in a large image, wherever the image given ends."""
    net = EDSR(features=8, blocks=1).eval()
    images = torch.rand(1, 3, side, side)
    field = fastbg.receptive_field(net, images)
    assert field.theoretical == reached(net) == (12, 12)
    y0, x0, y1, x1 = field.reach
    assert (y1 - y0, x1 - x0) == (min(side, 12),) * 2
    assert fastbg.receptive_field(known()[0], images[..., :9, :9]).theoretical is None


def test_the_theoretical_field_of_attention_lies_on_its_windows() -> None:
    """The same however large the image is, and another for a window elsewhere on the grid."""
    torch.manual_seed(0)
    net = SwinIR(width=8, depths=(2,), heads=(2,), window=4).eval()

    def sides(size: int, window: tuple[int, int, int]) -> tuple[int, int] | None:
        return fastbg.receptive_field(net, torch.rand(1, 3, size, size), window).theoretical

    assert sides(8, (2, 3, 2)) == sides(32, (2, 3, 2)) == sides(32, (66, 67, 2))
    assert sides(8, (2, 3, 2)) != sides(8, (2, 3, 20))


def reached(net: nn.Module) -> tuple[int, int]:
    """Sides of where the gradient of a large image's middle pixel is not 0.

    In float64: convolutions of float32 may be computed as transforms, which round everywhere.
    """
    x = torch.rand(1, 3, 60, 60, dtype=torch.float64, requires_grad=True)
    net.double()(x)[0, :, 120, 120].sum().backward()
    rows, columns = (x.grad.abs().sum((0, 1)).sum(axis).nonzero() for axis in (1, 0))
    return tuple(int(line.max() - line.min() + 1) for line in (rows, columns))


def test_bad_arguments_are_named() -> None:
    net, _ = known()
    with pytest.raises(InvalidArgument, match="images"):
        fastbg.receptive_field(net, torch.rand(0, 3, 8, 8))
    with pytest.raises(InvalidArgument, match="images"):
        fastbg.receptive_field(net, torch.rand(3, 8, 8))
    with pytest.raises(InvalidArgument, match="window"):
        fastbg.receptive_field(net, torch.rand(1, 3, 8, 8), (6, 6, 4))
    with pytest.raises(InvalidArgument, match="window"):
        fastbg.receptive_field(net, torch.rand(1, 3, 8, 8), [(0, 0, 2), (2, 2, 2)])
    with pytest.raises(InvalidArgument, match="share"):
        fastbg.receptive_field(net, torch.rand(1, 3, 8, 8)).side(0)


def test_window_gradient_is_autograd_s() -> None:
    net = EDSR(features=8, blocks=1).eval().requires_grad_(False)
    images = torch.rand(2, 3, 12, 12)
    windows = torch.tensor([[[4, 8, 6], [20, 20, 12]], [[0, 0, 5], [30, 1, 7]]])
    found = fastbg.window_gradient(net, images, windows, fastbg.PixelSum())
    assert found.shape == (2, 2, 3, 12, 12)
    for i in range(2):
        for j, (y, x, size) in enumerate(windows[i].tolist()):
            leaf = images[i : i + 1].clone().requires_grad_()
            net(leaf)[..., y : y + size, x : x + size].sum().backward()
            torch.testing.assert_close(found[i, j], leaf.grad[0], atol=1e-4, rtol=1e-4)
    single = fastbg.window_gradient(net, images, (4, 8, 6), fastbg.PixelSum())
    assert single.shape == (2, 3, 12, 12)
    torch.testing.assert_close(single[0], found[0, 0])
    assert fastbg.window_gradient(net, images[:0], (4, 8, 6)).shape == (0, 3, 12, 12)


def test_a_module_without_gradient_is_refused() -> None:
    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach()

    with pytest.raises(InvalidArgument, match="no gradient"):
        fastbg.window_gradient(fastbg.wrap(Cut(), scale=1), torch.rand(1, 3, 8, 8), (0, 0, 4))
