"""Derivatives of derivatives by torch.func: grad of grad, hessian, inside of autograd and vmap."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from test_transforms import CASES, NETWORKS
from torch import Tensor
from torch.func import grad, hessian, jacrev, vmap

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")

each_operator = pytest.mark.parametrize("name", CASES)


def squares(name: str) -> Callable[..., Tensor]:
    """Of the operator's result: a function with second derivatives."""
    return lambda *tensors: CASES[name].run(*tensors).square().sum()


def by_autograd(run: Callable[..., Tensor], inputs: list[Tensor], first: int, then: int) -> Tensor:
    """The derivative to `then` of the sine of that to `first`, by PyTorch's engine."""
    leaves = [x.clone() for x in inputs]
    for k in {first, then}:
        leaves[k].requires_grad_()
    (inner,) = torch.autograd.grad(run(*leaves), leaves[first], create_graph=True)
    return torch.autograd.grad(inner.sin().sum(), leaves[then], materialize_grads=True)[0]


@each_operator
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_grad_of_grad_is_right_for_every_two_arguments(name: str, dtype: torch.dtype) -> None:
    run, inputs = squares(name), CASES[name].inputs(dtype)
    expected, nested, mixed = [], [], []
    for first, then in product(range(len(inputs)), repeat=2):

        def inner(*tensors: Tensor, first: int = first) -> Tensor:
            return grad(run, first)(*tensors).sin().sum()

        expected.append(by_autograd(run, inputs, first, then))
        nested.append(grad(inner, then)(*inputs))
        leaves = [x.clone() for x in inputs]
        leaves[then].requires_grad_()
        value = inner(*leaves)
        mixed.append(torch.autograd.grad(value, leaves[then], materialize_grads=True)[0])
    assert any(x.any() for x in expected)
    for got in (nested, mixed):
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@each_operator
def test_hessians_by_reverse_and_by_forward_mode_are_right(name: str) -> None:
    run, inputs = squares(name), CASES[name].inputs(torch.float64)
    expected = torch.autograd.functional.hessian(lambda x: run(x, *inputs[1:]), inputs[0])
    for got in (jacrev(jacrev(run))(*inputs), hessian(run)(*inputs)):
        torch.testing.assert_close(got, expected)


@each_operator
def test_vmap_over_grad_of_grad_is_a_loop(name: str) -> None:
    run = squares(name)
    several = [CASES[name].inputs(torch.float64, seed) for seed in range(2)]
    stacked = [torch.stack(values) for values in zip(*several, strict=True)]
    got = vmap(grad(lambda *x: grad(run)(*x).sin().sum()))(*stacked)
    torch.testing.assert_close(got, torch.stack([by_autograd(run, x, 0, 0) for x in several]))


@pytest.mark.parametrize("name", NETWORKS)
def test_grad_of_grad_of_a_network_is_right(name: str) -> None:
    torch.manual_seed(0)
    net = NETWORKS[name]().eval().requires_grad_(False)
    x = torch.rand(1, 3, 8, 8)

    def curved(sr: Tensor) -> Tensor:
        return sr.square().square().sum()

    got = grad(lambda x: grad(lambda x: curved(net(x)))(x).square().sum())(x)
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(curved(net(leaf)), leaf, create_graph=True)
    (expected,) = torch.autograd.grad(first.square().sum(), leaf)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))
    exact, leaf = net.double(), x.double().requires_grad_()
    (first,) = torch.autograd.grad(curved(exact(leaf)), leaf, create_graph=True)
    (expected,) = torch.autograd.grad(first.square().sum(), leaf)
    assert expected.dtype == torch.float64
    torch.testing.assert_close(
        got.double(), expected, rtol=0, atol=1e-3 * float(expected.abs().max())
    )


def test_no_grad_around_a_transform_is_kept() -> None:
    x = torch.rand(1, 3, 6, 5, requires_grad=True)
    with torch.no_grad():
        assert not grad(squares("blur_path"))(x).requires_grad
    assert grad(squares("blur_path"))(x).requires_grad
