"""SwinIR's blocks in the native kernel against its own modules, and when the modules do it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from runnable_backend import runnable
from torch import Tensor, nn
from torch.func import grad, jvp

import fastbg
from fastbg.backends.cpu import attention as kernel
from fastbg.models.swinir import Block, SwinIR
from fastbg.models.window import whole_map
from fastbg.ops.attention import Step
from fastbg.testing import BackendUnderTest

pytestmark = pytest.mark.usefixtures("poisoned_memory")

FORWARD, GRADIENT = 1e-5, 1e-4  # relative to the largest entry


@pytest.fixture
def native() -> BackendUnderTest:
    return runnable("cpu", "swin_layers")


def relative_error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got.detach() - expected.detach()).abs().max() / expected.detach().abs().max())


def block(width: int = 16, heads: int = 2, window: int = 8, shift: int = 0) -> Block:
    """A block whose every parameter matters."""
    torch.manual_seed(3)
    made = Block(width, heads, window, shift, 2.0)
    for p in made.parameters():
        nn.init.normal_(p, 0.1, 0.3)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize("sides", [(8, 8), (16, 24)])
def test_a_block_equals_its_module(
    native: BackendUnderTest, sides: tuple[int, int], shift: int
) -> None:
    fast = block(shift=shift)
    plain = copy.deepcopy(fast).double()
    x = torch.randn(2, 16, *sides)
    results = []
    for module, given in ((fast, x), (plain, x.double())):
        leaf = given.requires_grad_()
        patch = whole_map(leaf)
        y = module(patch, patch.box, *sides, {}).data
        results.append((y, torch.autograd.grad(y.square().sum(), leaf)[0]))
    for got, expected in zip(*results, strict=True):
        assert relative_error(got, expected) <= 3e-6


NETWORKS: dict[str, Callable[[], SwinIR]] = {
    "light": lambda: SwinIR(width=12, depths=(2, 3), heads=(2, 3)),
    "classical": lambda: SwinIR(
        width=20, depths=(6,), heads=(2,), upsampler="pixelshuffle", features=8
    ),
    "window_16": lambda: SwinIR(width=8, depths=(2,), heads=(2,), window=16),
    "window_4": lambda: SwinIR(width=8, depths=(2, 1), heads=(2, 1), window=4),
}


def network(name: str) -> Any:
    torch.manual_seed(0)
    net = NETWORKS[name]().eval().requires_grad_(False)
    for module in net.modules():
        if isinstance(module, Block):
            for p in module.parameters():
                p.mul_(3)
    return net


def in_torch(net: Any) -> Any:
    plain = copy.deepcopy(net)
    for module in plain.modules():
        if isinstance(module, Block):
            module.fused = False
    return plain


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, native: BackendUnderTest) -> list[int]:
    """The number of steps of each call of the kernel."""
    seen: list[int] = []
    run = kernel.swin_layers

    def counted(x: Tensor, parameters: Any, steps: Any, *rest: Any) -> Any:
        seen.append(len(steps) // len(Step._fields))
        return run(x, parameters, steps, *rest)

    monkeypatch.setattr(kernel, "swin_layers", counted)
    return seen


@pytest.mark.parametrize("size", [(24, 32), (21, 13), (3, 5)])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_equal_their_modules(name: str, size: tuple[int, int], calls: list[int]) -> None:
    """Whole and in windows; forward to 1e-5, gradients to 1e-4, as rounding adds up."""
    net = network(name)
    plain = in_torch(net)
    x = torch.rand(2, 3, *size, requires_grad=True)
    height, width = (4 * v for v in size)
    for window in [
        (0, 0, height, width),
        (0, 0, 5, 6),
        (height - 3, width // 2, height, width // 2 + 5),
        (height // 2, 0, height // 2 + 1, 4),
    ]:
        results = []
        for n in (net, plain):
            y = n.forward_window(x, window)
            gradient = torch.autograd.grad(y.square().sum(), x)[0]
            results.append((y, gradient))
        (value, gradient), (expected, expected_gradient) = results
        assert relative_error(value, expected) <= FORWARD
        assert relative_error(gradient, expected_gradient) <= GRADIENT
    depths = [2 * depth for depth in net.config["depths"]]
    # Windows of 4 are shifted by half a cell: only the layer without a shift is the kernel's.
    assert calls == ([2] * len(calls) if name == "window_4" else depths * 4)
    assert calls


def test_the_shipped_network_equals_its_modules(native: BackendUnderTest) -> None:
    net = fastbg.load_model("swinir")
    plain = in_torch(net)
    torch.manual_seed(0)
    x = torch.rand(1, 3, 32, 40, requires_grad=True)
    results = []
    for n in (net, plain):
        y = n(x)
        results.append((y, torch.autograd.grad(y.diff(dim=-2).square().sum(), x)[0]))
    (value, gradient), (expected, expected_gradient) = results
    assert relative_error(value, expected) <= FORWARD
    assert relative_error(gradient, expected_gradient) <= GRADIENT


def watched(net: Any) -> None:
    net.layers[0].blocks[0].norm1.register_forward_hook(lambda *_: None)


def replaced(net: Any) -> None:
    attention = net.layers[0].blocks[1].attn
    attention.qkv = nn.utils.parametrizations.weight_norm(attention.qkv)


# What PyTorch's modules must do: a change to the network, and how many native calls are left.
PLAIN: dict[str, tuple[Callable[[Any], object], list[int]]] = {
    "trained": (lambda net: net.requires_grad_(True), []),
    "one_parameter": (lambda net: net.layers[0].blocks[0].fc1.bias.requires_grad_(), [2, 6]),
    "double": (lambda net: net.double(), []),
    "hook": (watched, [2, 6]),
    "parametrized": (replaced, [2, 6]),
}


@pytest.mark.parametrize("case", PLAIN)
def test_what_the_modules_compute_themselves(case: str, calls: list[int]) -> None:
    change, left = PLAIN[case]
    net = network("light")
    expected = in_torch(net)(torch.ones(1, 3, 8, 8) / 3)
    change(net)
    y = net(torch.ones(1, 3, 8, 8, dtype=net.mean.dtype) / 3)
    assert calls == left
    assert relative_error(y.float(), expected) <= FORWARD


def test_training_gives_gradients_to_every_parameter(calls: list[int]) -> None:
    net = network("light").train().requires_grad_(True)
    net(torch.rand(1, 3, 8, 8)).sum().backward()
    assert calls == []
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # inside PyTorch's own jvp
def test_autocast_forward_mode_functional_and_tracing(calls: list[int]) -> None:
    """All by PyTorch's modules, with the same result; a graph has no break."""
    net = network("light")
    plain = in_torch(net)
    x = torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x).isfinite().all()
    compiled: Any = torch.compile(net, backend="aot_eager")
    torch.testing.assert_close(compiled(x), plain(x), rtol=0, atol=1e-5)
    features, tangent = torch.rand(2, 1, 12, 8, 8).unbind()

    def run(features: Tensor) -> Tensor:
        patch = whole_map(features)
        hops = [(patch.box, patch.box)] * 2
        after: Tensor = net.layers[0].transform(patch, hops, 8, 8, {}).data
        return after

    along = jvp(run, (features,), (tangent,))[1]
    gradient = grad(lambda x: run(x).square().sum())(features)
    assert calls == []
    leaf = features.requires_grad_()
    y = run(leaf)
    assert calls == [4]
    (expected,) = torch.autograd.grad(y.square().sum(), leaf)
    assert relative_error(gradient, expected) <= FORWARD
    direction = torch.randn_like(along)
    (back,) = torch.autograd.grad(run(leaf), leaf, direction)
    torch.testing.assert_close((along * direction).sum(), (back * tangent).sum(), rtol=1e-3, atol=0)


# How a parameter may be written to; most leave its version, its address or both as they were.
WRITES: dict[str, Callable[[Tensor], object]] = {
    "in_place": lambda w: w.detach().mul_(2),
    "through_data": lambda w: w.data.mul_(-1),
    "other_memory": lambda w: setattr(w, "data", 2 * w.data),
    "numpy": lambda w: w.detach().numpy().__imul__(2),
    "last_element": lambda w: w.data.view(-1)[-1:].fill_(5),
    "not_a_number": lambda w: w.data.view(-1)[:1].fill_(torch.nan),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("parameter", [name for name, _ in block().named_parameters()])
def test_a_written_parameter_is_used_in_the_next_call(
    native: BackendUnderTest, parameter: str, write: str
) -> None:
    fast = block()
    x = torch.randn(1, 16, 8, 8)
    patch = whole_map(x)
    for _ in range(3):
        y = fast(patch, patch.box, 8, 8, {}).data
        expected = in_torch(fast)(patch, patch.box, 8, 8, {}).data
        assert torch.equal(y.isnan(), expected.isnan())
        if not expected.isnan().any():
            assert relative_error(y, expected) <= FORWARD
        WRITES[write](dict(fast.named_parameters())[parameter])


def test_the_variable_leads_to_pytorchs_modules(
    calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTBG_BACKEND", "torch")
    assert network("light")(torch.rand(1, 3, 8, 8)).isfinite().all()
    assert calls == []
