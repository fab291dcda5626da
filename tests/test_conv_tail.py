"""The end of a stack as one convolution: the kernel against its layers one by one, in float64."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from runnable_backend import runnable
from stack_cases import close, cut, image, in_double, trimmed

from fastbg.backends.cpu.conv_tail import compose, tail_start
from fastbg.geometry import Box
from fastbg.models.swinir import SwinIR
from fastbg.ops.conv_stack import StackLayer, conv_stack
from fastbg.ops.conv_stack import _checked as checked
from fastbg.testing import BackendUnderTest

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(autouse=True)
def kernel() -> BackendUnderTest:
    """Skips where the compiled module is missing."""
    return runnable("cpu", "conv_stack")


def tail(factors: tuple[int, ...], channels: tuple[int, ...], **changes: Any) -> list[StackLayer]:
    """Convolutions of these channels, input first, each with a shuffle."""
    torch.manual_seed(0)
    layers = []
    for factor, (inputs, outputs) in zip(factors, pairwise(channels), strict=True):
        weight = torch.randn(outputs * factor**2, inputs, 3, 3) / (9 * inputs) ** 0.5
        layers.append(
            StackLayer(weight, torch.randn(len(weight)), upscale=factor)._replace(**changes)
        )
    return layers


def starts(layers: list[StackLayer]) -> int:
    rows, parameters = checked(torch.zeros(1, layers[0].weight.shape[1], 9, 9), layers)
    return tail_start(rows, parameters[::2])


KINDS = [
    ((2, 1), (64, 64, 3)),
    ((3, 1), (20, 20, 3)),
    ((2, 2, 1), (64, 64, 64, 3)),
    ((2, 2), (16, 16, 1)),
    ((2, 3, 1), (80, 20, 16, 1)),
    ((2, 2, 2, 1), (16, 16, 16, 16, 3)),
]


@pytest.mark.parametrize(("factors", "channels"), KINDS)
@pytest.mark.parametrize("size", [(1, 6), (2, 2), (5, 1), (13, 10)])
def test_equals_its_layers(
    factors: tuple[int, ...], channels: tuple[int, ...], size: tuple[int, int]
) -> None:
    layers = tail(factors, channels)
    assert starts(layers) == 0
    x = image(2, channels[0], *size).sub_(0.5).requires_grad_()
    exact = x.detach().double().requires_grad_()
    got, expected = conv_stack(x, layers, backend="cpu"), conv_stack(exact, in_double(layers))
    close(got, expected.detach(), 5e-6)
    grad = image(*got.shape, seed=1).sub_(0.5)
    to_x = torch.autograd.grad(got, x, grad)[0]
    close(to_x, torch.autograd.grad(expected, exact, grad.double())[0], 1e-5)


@pytest.mark.parametrize("window", [(0, 0, 3, 5), (7, 9, 8, 10), (30, 2, 52, 40), (49, 37, 52, 40)])
def test_windows(window: tuple[int, int, int, int]) -> None:
    """With a layer in front, which computes only what the tail's own layers look at."""
    front = StackLayer(torch.randn(64, 3, 3, 3), None, relu=True)
    layers = [front, *tail((2, 2, 1), (64, 64, 64, 3))]
    x = image(1, 3, 13, 10).requires_grad_()
    exact = x.detach().double().requires_grad_()
    box = Box(*window)
    some = trimmed(x, layers, box, False)
    got = cut(conv_stack(x, some, backend="cpu"), some, box)
    whole = conv_stack(exact, in_double(layers))
    expected = whole[..., box.y0 : box.y1, box.x0 : box.x1]
    close(got, expected.detach(), 5e-6, float(whole.detach().abs().max()))
    grad = image(*got.shape, seed=1)
    to_x = torch.autograd.grad(got, x, grad)[0]
    wanted = torch.autograd.grad(expected, exact, grad.double())[0]
    assert float((to_x - wanted).norm() / wanted.norm()) < 1e-5


@pytest.mark.parametrize("size", [(3, 7), (8, 9), (12, 12)])
def test_windows_of_whole_cells_have_the_bits_of_the_whole_map(size: tuple[int, int]) -> None:
    """The tail computes cells of its own grid, which are larger than those of the result's."""
    layers, (height, width) = tail((2, 1), (16, 16, 3)), size
    assert starts(layers) == 0
    x = image(1, 16, height, width)
    whole = conv_stack(x, layers, backend="cpu")
    for y in range(0, 2 * height, 3):
        for column in range(0, 2 * width, 5):
            window = Box(y, column, min(y + 3, 2 * height), min(column + 1, 2 * width))
            some = trimmed(x, layers, window, True)
            part = cut(conv_stack(x, some, backend="cpu"), some, window)
            assert torch.equal(part, whole[..., window.y0 : window.y1, window.x0 : window.x1])


def test_what_is_no_tail() -> None:
    layers = tail((2, 2, 1), (64, 64, 64, 3))
    assert starts(layers[-1:]) == 1
    assert starts([*layers[:1], layers[1]._replace(relu=True), layers[2]]) == 3
    assert starts(layers) == 0
    assert starts(tail((1, 2, 1), (64, 64, 64, 3))) == 1
    assert starts(tail((1, 1), (64, 64, 3))) == 2
    assert starts(tail((2, 1), (64, 64, 64))) == 2  # more work than the layers one by one


def test_a_kernel_at_the_border_leaves_out_what_lies_beyond() -> None:
    layers = tail((2, 1), (1, 1, 1))
    weights, biases = [s.weight for s in layers], [s.bias for s in layers if s.bias is not None]
    inside, corner = (compose(weights, biases, (2, 1), zone).weight for zone in (15, 10))
    assert inside.shape == corner.shape == (4, 1, 5, 5)
    assert torch.equal(corner[..., :2, :], torch.zeros(4, 1, 2, 5, dtype=torch.float64))
    assert torch.equal(corner[3, 0, 2:, 2:], inside[3, 0, 2:, 2:])  # the far pixel of the block
    assert not torch.equal(corner[0, 0, 2:, 2:], inside[0, 0, 2:, 2:])


def test_weights_and_biases_changed_are_seen() -> None:
    layers, x = tail((2, 2, 1), (16, 16, 16, 3)), image(1, 16, 6, 6)
    for layer in layers:
        for parameter in (layer.weight, layer.bias):
            assert parameter is not None
            before = conv_stack(x, layers, backend="cpu")
            parameter.numpy().reshape(-1)[-3:] += 1.0
            after = conv_stack(x, layers, backend="cpu")
            assert not torch.equal(before, after)
            close(after, conv_stack(x.double(), in_double(layers)), 5e-6)


@pytest.mark.parametrize("window", [None, (20, 30, 37, 47), (80, 100, 84, 120)])
def test_the_end_of_classical_swinir(window: tuple[int, ...] | None) -> None:
    torch.manual_seed(0)
    net = SwinIR(12, (2,), (2,), upsampler="pixelshuffle", features=16).eval()
    net.requires_grad_(False)
    exact = copy.deepcopy(net).double()
    x = image(1, 3, 21, 30).requires_grad_()
    wide = x.detach().double().requires_grad_()
    results = []
    for model, leaf in ((net, x), (exact, wide)):
        y = model(leaf) if window is None else model.forward_window(leaf, window)
        results.append((y.detach(), torch.autograd.grad(y.square().sum(), leaf)[0]))
    close(results[0][0], results[1][0], 3e-6)
    assert float((results[0][1] - results[1][1]).norm() / results[1][1].norm()) < 1e-5
