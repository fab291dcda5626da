"""Stacks of convolutions on the kernels for GPUs, Triton's and CUDA's: values and gradients."""

import copy
import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from runnable_backend import runnable
from stack_cases import close, cut, image, in_double, trimmed
from torch import Tensor

import fastbg
from fastbg.errors import BackendUnavailable
from fastbg.geometry import Box
from fastbg.models.edsr import EDSR
from fastbg.models.network import Network
from fastbg.models.rcan import RCAN
from fastbg.ops.conv_stack import ChannelAttention, StackLayer, _checked, conv_stack
from fastbg.registration import conv_stack as registered
from fastbg.testing import BackendUnderTest

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(params=("triton", "cuda"))
def gpu(request: pytest.FixtureRequest) -> BackendUnderTest:
    if request.param == "triton" and importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    return runnable(request.param, "conv_stack")


@pytest.fixture
def device(gpu: BackendUnderTest) -> torch.device:
    return gpu.device


@pytest.fixture
def chosen(gpu: BackendUnderTest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Networks take the backend, which "auto" would not take on CPU tensors."""
    monkeypatch.setenv("FASTBG_BACKEND", gpu.name)
    return gpu.device


def conv(outputs: int, inputs: int, seed: int, **options: Any) -> StackLayer:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator) / (9 * inputs) ** 0.5
    return StackLayer(weight, torch.randn(outputs, generator=generator), **options)


def attention(channels: int, squeezed: int) -> ChannelAttention:
    generator = torch.Generator().manual_seed(channels)
    shapes = (squeezed, channels, 1, 1), (squeezed,), (channels, squeezed, 1, 1), (channels,)
    return ChannelAttention(*(torch.randn(shape, generator=generator) for shape in shapes))


STACKS: dict[str, list[StackLayer]] = {
    "one layer": [conv(5, 3, 0)],
    "a ReLU last": [conv(5, 3, 0), conv(4, 5, 1, relu=True)],
    "residuals of one map": [  # added three times, at boxes of three sizes where trimmed
        conv(3, 3, 0),
        conv(3, 3, 1, residual=1, residual_scale=0.5),
        conv(3, 3, 2, relu=True),
        conv(3, 3, 3, residual=1, residual_scale=-2.0),
        conv(3, 3, 4, residual=1),
        conv(3, 3, 5, residual=0),
    ],
    "a ReLU's map as a residual": [conv(3, 3, 0, relu=True), conv(3, 3, 1, residual=1)],
    "shuffles": [
        conv(12, 3, 0, upscale=2, relu=True),
        conv(3, 3, 1, residual=1),
        conv(9, 3, 2, upscale=3),
    ],
    "attention": [
        conv(5, 3, 0),
        conv(5, 5, 1, relu=True),
        conv(5, 5, 2, residual=1, residual_scale=0.5, attention=attention(5, 3)),
        conv(5, 5, 3, residual=1),
    ],
    "attention at both ends": [
        conv(3, 3, 0, residual=0, attention=attention(3, 1)),
        conv(4, 3, 1),
        conv(4, 4, 2, residual=2, attention=attention(4, 2)),
    ],
}
WINDOW = Box(1, 2, 3, 6)  # of 4 x 7 pixels, or of what they become


def on(device: torch.device, layers: list[StackLayer]) -> list[StackLayer]:
    def there(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    return [
        StackLayer(*(there(v) for v in layer))._replace(
            attention=layer.attention and ChannelAttention(*map(there, layer.attention))
        )
        for layer in layers
    ]


@pytest.mark.parametrize("window", [None, WINDOW], ids=["whole", "window"])
@pytest.mark.parametrize("name", STACKS)
def test_value_and_gradient_equal_float64(
    gpu: BackendUnderTest, device: torch.device, name: str, window: Box | None
) -> None:
    batch = 2 if name == "attention" else 1
    whole = torch.randn(batch, 5, 6, 9, generator=torch.Generator().manual_seed(1)).to(device)
    x = whole.contiguous(memory_format=torch.channels_last)[:, 1:4, 1:5, 2:9]  # a cut view
    layers = on(device, STACKS[name])
    if window is not None:
        layers = trimmed(x, layers, window, False)
    x, exact = x.requires_grad_(), x.detach().double().requires_grad_()
    y, expected = conv_stack(x, layers, backend=gpu.name), conv_stack(exact, in_double(layers))
    if window is not None:
        y, expected = cut(y, layers, window), cut(expected, layers, window)
    close(y.detach(), expected.detach(), 2e-6)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(device)
    got = torch.autograd.grad(y, x, grad)[0]
    close(got, torch.autograd.grad(expected, exact, grad.double())[0], 3e-6)


def test_what_was_not_kept_is_computed_again(gpu: BackendUnderTest, device: torch.device) -> None:
    layers = on(device, STACKS["attention"])
    x = image(1, 3, 4, 5).to(device).requires_grad_()
    y = conv_stack(x, layers, backend=gpu.name)
    grad = torch.ones_like(y)
    got = torch.autograd.grad(y, x, grad)[0]
    numbers, scales, parameters = call_of(x, layers)
    again = registered.conv_stack_gradient(
        grad, x.detach(), None, parameters, numbers, scales, gpu.name
    )
    assert torch.equal(got, again)


def call_of(x: Tensor, layers: list[StackLayer]) -> tuple[list[int], list[float], list[Tensor]]:
    """What `conv_stack` hands to the registered operator."""
    rows, parameters = _checked(x, layers)
    return [n for row in rows for n in row], [s.residual_scale for s in layers], parameters


def test_opcheck(gpu: BackendUnderTest, device: torch.device) -> None:
    layers = on(device, STACKS["attention at both ends"])
    x = image(1, 3, 2, 3).to(device).requires_grad_()
    numbers, scales, parameters = call_of(x, layers)
    checks = "test_schema", "test_faketensor", "test_autograd_registration"
    torch.library.opcheck(
        torch.ops.fastbg.conv_stack.default,
        (x, parameters, numbers, scales, True, gpu.name),
        test_utils=checks,
    )


@pytest.mark.parametrize("name", ["shuffles", "attention"])
def test_one_pixel(gpu: BackendUnderTest, device: torch.device, name: str) -> None:
    x = image(1, 3, 1, 1).to(device).requires_grad_()
    exact = x.detach().double().requires_grad_()
    layers = on(device, STACKS[name])
    y, expected = conv_stack(x, layers, backend=gpu.name), conv_stack(exact, in_double(layers))
    close(y.detach(), expected.detach(), 2e-6)
    got = torch.autograd.grad(y.sum(), x)[0]
    close(got, torch.autograd.grad(expected.sum(), exact)[0], 3e-6)


@pytest.mark.parametrize("name", ["shuffles", "attention"])
def test_no_image(gpu: BackendUnderTest, device: torch.device, name: str) -> None:
    x = torch.empty(0, 3, 4, 5, device=device, requires_grad=True)
    layers = on(device, STACKS[name])
    y = conv_stack(x, layers, backend=gpu.name)
    assert y.shape == conv_stack(x.detach().double(), in_double(layers)).shape
    assert torch.autograd.grad(y.sum(), x)[0].shape == x.shape


def small_rcan() -> RCAN:
    return RCAN(features=4, groups=1, blocks=1, squeezed=2, scale=1)


@pytest.mark.parametrize("make", [lambda: EDSR(features=4, blocks=1, scale=2), small_rcan])
def test_networks_equal_their_modules(chosen: torch.device, make: Callable[[], Network]) -> None:
    torch.manual_seed(0)
    net = make().eval().requires_grad_(False).to(chosen)
    exact = copy.deepcopy(net).double()
    exact.native = False
    x = image(1, 3, 5, 6).to(chosen).requires_grad_()
    wide = x.detach().double().requires_grad_()
    window = (1, 2, 4, 5)
    for got, expected in (
        (net(x), exact(wide)),
        (net.forward_window(x, window), exact.forward_window(wide, window)),
    ):
        close(got.detach(), expected.detach(), 2e-6)
        gradient = torch.autograd.grad(got.sum(), x)[0]
        wanted = torch.autograd.grad(expected.sum(), wide)[0]
        assert float((gradient - wanted).norm() / wanted.norm()) < 1e-5


def test_bf16_is_computed_by_the_kernels(gpu: BackendUnderTest, chosen: torch.device) -> None:
    """In it networks run under autocast, which is PyTorch's own business otherwise."""
    torch.manual_seed(0)
    net = EDSR(features=4, blocks=1, scale=1).eval().requires_grad_(False).to(chosen)
    x = image(1, 3, 4, 5).to(chosen)
    expected = net(x)
    with fastbg.use_precision("bf16"):
        got = net(x)
    assert got.dtype == torch.float32
    error = (got - expected).abs().max()
    assert 0 < float(error) < 0.02
    layers = on(chosen, STACKS["one layer"])
    with torch.autocast(chosen.type, torch.bfloat16), pytest.raises(BackendUnavailable):
        conv_stack(x, layers, backend=gpu.name)  # autocast that fastbg was not asked for
