"""Stacks of convolutions: the kernel against float64, on whole maps and on boxes."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from runnable_backend import runnable
from stack_cases import close, cut, image, in_double, largest, stacks, trimmed
from torch import Tensor

from fastbg.backends.cpu import native
from fastbg.errors import BackendUnavailable, InvalidArgument
from fastbg.geometry import Box
from fastbg.ops.conv_stack import ChannelAttention, StackLayer, conv_stack, why_plain
from fastbg.ops.conv_stack import _checked as checked
from fastbg.registration import conv_stack as registered
from fastbg.testing import BackendUnderTest

pytestmark = pytest.mark.usefixtures("poisoned_memory")

each_example_is_pure = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def kernel() -> BackendUnderTest:
    """Skips where the compiled module is missing."""
    return runnable("cpu", "conv_stack")


@each_example_is_pure
@given(case=stacks())
def test_equals_float64(case: tuple[Tensor, list[StackLayer], Box, bool]) -> None:
    x, layers, window, equal = case
    whole = conv_stack(x.double(), in_double(layers))
    got = conv_stack(x, layers, backend="cpu")
    scale = largest(x, layers)
    close(got, whole, 3e-6, scale)  # at most 1.9e-6 in 1,500 draws for each instruction set
    some = trimmed(x, layers, window, equal)
    part = cut(conv_stack(x, some, backend="cpu"), some, window)
    of_whole = (..., slice(window.y0, window.y1), slice(window.x0, window.x1))
    close(part, whole[of_whole], 3e-6, scale)
    reference = cut(conv_stack(x.double(), in_double(some)), some, window)
    torch.testing.assert_close(reference, whole[of_whole])
    if equal:
        assert torch.equal(part, got[of_whole])


@each_example_is_pure
@given(case=stacks())
def test_gradient_equals_float64(case: tuple[Tensor, list[StackLayer], Box, bool]) -> None:
    """Without ReLUs, whose kinks move with rounding."""
    x, layers, window, equal = case
    layers = trimmed(x, [s._replace(relu=False) for s in layers], window, equal)
    x.requires_grad_()
    exact = x.detach().double().requires_grad_()
    y, expected = conv_stack(x, layers, backend="cpu"), conv_stack(exact, in_double(layers))
    grad = torch.from_numpy(np.random.default_rng(0).standard_normal(y.shape, np.float32))
    got = torch.autograd.grad(y, x, grad)[0]
    # F(4x4, 3x3) in float32 loses some 1e-6 a layer of values that cancel.
    close(got, torch.autograd.grad(expected, exact, grad.double())[0], 5e-5)


@each_example_is_pure
@given(case=stacks())
def test_gates_are_those_of_the_forward_pass(
    case: tuple[Tensor, list[StackLayer], Box, bool],
) -> None:
    """A bias far from zero keeps each channel on one side of its ReLU, so that no kink is near."""
    x, layers, window, equal = case
    sides = [torch.where(torch.arange(len(s.weight)) % 3 > 0, 50.0, -50.0) for s in layers]
    layers = [s._replace(bias=side) if s.relu else s for s, side in zip(layers, sides, strict=True)]
    layers = trimmed(x, layers, window, equal)
    x.requires_grad_()
    exact = x.detach().double().requires_grad_()
    y, expected = conv_stack(x, layers, backend="cpu"), conv_stack(exact, in_double(layers))
    grad = torch.ones(y.shape)
    got = torch.autograd.grad(y, x, grad)[0]
    wanted = torch.autograd.grad(expected, exact, grad.double())[0]
    close(got, wanted, 5e-5)  # a gate that were wrong would show by far more
    rows, parameters = checked(x, layers)
    numbers = [number for row in rows for number in row]
    scales = [s.residual_scale for s in layers]
    again = registered.conv_stack_gradient(
        grad, x.detach(), None, parameters, numbers, scales, "cpu"
    )
    assert torch.equal(again, got)  # what was not kept is computed again


def weighing(**changes: Any) -> ChannelAttention:
    shapes = (2, 3, 1, 1), (2,), (3, 2, 1, 1), (3,)
    return ChannelAttention(*(torch.rand(shape) for shape in shapes))._replace(**changes)


def layer(**changes: Any) -> StackLayer:
    torch.manual_seed(0)
    return StackLayer(torch.rand(3, 3, 3, 3), torch.rand(3))._replace(**changes)


@pytest.mark.parametrize(
    "layers",
    [
        [],
        [layer(weight=torch.rand(3, 4, 3, 3))],
        [layer(bias=torch.rand(4))],
        [layer(weight=torch.rand(3, 3, 3, 3).double())],
        [layer(upscale=2)],
        [layer(upscale=0)],
        [layer(residual=1)],
        [layer(residual=-1)],
        [layer(residual=0, relu=True)],
        [layer(box=(0, 0, 9, 8))],
        [layer(box=(2, 2, 2, 4))],
        [layer(box=(2, 2, 6, 6)), layer(box=(2, 2, 5, 5))],
        [layer(box=(2, 2, 6, 6)), layer(box=(3, 3, 5, 5)), layer(box=(4, 4, 5, 5), residual=2)],
        [layer(attention=weighing())],
        [layer(attention=weighing(), residual=0, relu=True)],
        [layer(attention=weighing(squeeze=torch.rand(2, 4, 1, 1)), residual=0)],
        [layer(attention=weighing(excite_bias=torch.rand(4)), residual=0)],
        [layer(attention=weighing(excite=torch.rand(3, 2, 1, 1).double()), residual=0)],
        [layer(box=(1, 1, 7, 7)), layer(attention=weighing(), residual=0, box=(3, 3, 5, 5))],
    ],
    ids=range(19),
)
def test_bad_layers_are_refused(layers: list[StackLayer]) -> None:
    with pytest.raises(InvalidArgument):
        conv_stack(image(1, 3, 8, 8), layers)


def test_a_named_backend_runs_or_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    x = image(1, 3, 8, 8)
    with pytest.raises(BackendUnavailable, match="float64"):
        conv_stack(x.double(), in_double([layer()]), backend="cpu")
    weight = layer().weight.requires_grad_()
    assert why_plain(x, [weight]) is not None
    with pytest.raises(BackendUnavailable, match="freeze"):
        conv_stack(x, [layer(weight=weight)], backend="cpu")
    monkeypatch.setenv("FASTBG_EMULATE", "0")  # the emulation takes tensors on the CPU
    with pytest.raises(BackendUnavailable, match="the tensors are on cpu"):
        conv_stack(x, [layer()], backend="cuda")


def test_the_module_refuses_what_does_not_fit() -> None:
    """Addresses from elsewhere must never be followed beyond what a plan covers."""
    x = (0, 0, (1, 3, 8, 8), (192, 64, 8, 1))
    good = ((0, 0, 8, 8), False, 1, -1, 1.0, 3, 0, 0, None)
    for bad in (
        ((0, 0, 9, 8), *good[1:]),
        ((4, 4, 4, 8), *good[1:]),
        (*good[:2], 0, *good[3:]),
        (*good[:3], 1, *good[4:]),
        (*good[:5], 0, *good[6:]),
        (*good[:8], (1, 0, 0, 0, 0, 0)),
        (*good[:3], 0, *good[4:8], (0, 0, 0, 0, 0, 0)),
    ):
        with pytest.raises(ValueError, match=r"box|layer|residual|shaped"):
            native().conv_stack(x, (bad,), None, None, x, 1)
    with pytest.raises(ValueError, match="kept"):
        native().conv_stack(x, (good,), None, (0, 3, (5,), (1,)), x, 1)
    with pytest.raises(ValueError, match="shaped"):
        native().conv_stack(x, (good,), None, None, (0, 0, (1, 3, 8, 7), (1, 1, 1, 1)), 1)
    with pytest.raises(ValueError, match="at least one layer"):
        native().conv_stack(x, (), None, None, x, 1)
    kernels = (0,) * 16
    for tail, about in (
        (((0, 0, 17, 16), 2, 3, 0, kernels, 0), "tail"),
        (((0, 0, 8, 8), 0, 3, 0, kernels, 0), "tail"),
        (((0, 0, 8, 8), 2, 0, 0, kernels, 0), "tail"),
        (((0, 0, 8, 8), 2, 3, 0, kernels[1:], 0), "zone"),
        (((0, 0, 8, 7), 2, 3, 0, kernels, 0), "shaped"),
    ):
        with pytest.raises(ValueError, match=about):
            native().conv_stack(x, (), tail, None, x, 1)
