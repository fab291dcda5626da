"""The GPU kernels of the 3x3 convolution against float64: blocks, cut views, precisions."""

import importlib
import importlib.util
import threading
from types import ModuleType
from typing import Any

import pytest
import torch
from runnable_backend import runnable
from torch import Tensor

import fastbg
from fastbg.backends.torch_reference import conv as reference
from fastbg.errors import BackendUnavailable
from fastbg.testing import BackendUnderTest, moved

pytestmark = pytest.mark.usefixtures("poisoned_memory")

# Of the largest entry: three TF32 products, then one rounding of the result to its dtype, which for
# bfloat16 Triton's interpreter cuts.
ERROR = {torch.float32: 2e-6, torch.float16: 2**-11, torch.bfloat16: 2**-7}


@pytest.fixture(params=("triton", "cuda"))
def gpu(request: pytest.FixtureRequest) -> BackendUnderTest:
    if request.param == "triton" and importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    return runnable(request.param, "conv3x3")


@pytest.fixture
def device(gpu: BackendUnderTest) -> torch.device:
    return gpu.device


@pytest.fixture
def backend(gpu: BackendUnderTest) -> ModuleType:
    """The backend's own functions, which check nothing."""
    return importlib.import_module(f"fastbg.backends.{gpu.name}.conv")


def case(
    device: torch.device,
    channels: tuple[int, int] = (3, 5),
    size: tuple[int, int, int] = (2, 7, 9),
    *,
    dtype: torch.dtype = torch.float32,
    upscale: int = 1,
    end: str = "residual",
) -> dict[str, Any]:
    """Arguments of `conv3x3`, by name."""
    generator = torch.Generator().manual_seed(sum(channels) + sum(size))
    (inputs, outputs), (batch, height, width) = channels, size

    def random(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator)).to(device, dtype)

    shuffled = (batch, outputs // upscale**2, upscale * height, upscale * width)
    return {
        "x": random(batch, inputs, height, width),
        "weight": random(outputs, inputs, 3, 3, scale=1 / (9 * inputs) ** 0.5),
        "bias": random(outputs) if end != "nothing" else None,
        "residual": random(*shuffled) if end == "residual" else None,
        "residual_scale": 0.3,
        "relu": end == "relu",
        "upscale": upscale,
    }


def in_double(arguments: dict[str, Any]) -> dict[str, Any]:
    return {k: v.double() if isinstance(v, Tensor) else v for k, v in arguments.items()}


def close(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    expected = expected.detach()
    limit = ERROR[got.dtype] * float(expected.abs().max()) if got.numel() else 0.0
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=limit)


# Blocks are 128 pixels of one image, in Triton of its rows one after another, in CUDA 8 x 16; 16 to
# 64 channels written and 16 or 32 read.
SHAPES = [
    ((1, 1), (1, 1, 1), 1),  # one pixel
    ((3, 64), (1, 8, 16), 1),  # one block exactly
    ((17, 65), (1, 3, 43), 1),  # one pixel, one channel more than a block
    ((16, 15), (2, 1, 127), 1),  # one pixel, one channel less
    ((33, 3), (1, 40, 1), 1),  # one column
    ((5, 12), (2, 3, 4), 2),
    ((3, 18), (1, 4, 5), 3),
    ((24, 72), (1, 9, 17), 1),  # one row, one column more than a block
    ((4, 4), (0, 5, 5), 1),  # no image
]
CASES = [(*shape, torch.float32) for shape in SHAPES]
CASES += [(*SHAPES[i], dtype) for i in (4, 5, 7) for dtype in (torch.float16, torch.bfloat16)]


@pytest.mark.parametrize(("channels", "size", "upscale", "dtype"), CASES, ids=str)
def test_equals_float64(
    gpu: BackendUnderTest,
    channels: tuple[int, int],
    size: tuple[int, int, int],
    upscale: int,
    dtype: torch.dtype,
) -> None:
    for end in ("nothing", "relu", "residual"):
        arguments = case(gpu.device, channels, size, dtype=dtype, upscale=upscale, end=end)
        if end != "nothing":
            arguments["x"] = arguments["x"].contiguous(memory_format=torch.channels_last)
        got = fastbg.conv3x3(**arguments, backend=gpu.name)
        assert got.dtype == dtype
        assert got.is_contiguous(memory_format=torch.channels_last)
        close(got, reference.conv3x3(**in_double(arguments)))


@pytest.mark.parametrize(("channels", "size", "upscale", "dtype"), CASES, ids=str)
def test_input_gradient_equals_float64(
    backend: ModuleType,
    device: torch.device,
    channels: tuple[int, int],
    size: tuple[int, int, int],
    upscale: int,
    dtype: torch.dtype,
) -> None:
    """With the gate of a ReLU, whose kink is given, as it moves with rounding."""
    arguments = case(device, channels, size, dtype=dtype, upscale=upscale)
    grad, weight = arguments["residual"], arguments["weight"]
    gate = torch.randn_like(grad).relu()
    doubles = grad.double(), weight.double(), gate.double()
    expected = reference.conv3x3_input_gradient(*doubles, upscale)
    last = torch.channels_last
    for given in (grad, grad.contiguous(memory_format=last)):
        close(backend.conv3x3_input_gradient(given, weight, gate, upscale), expected)


def views(whole: Tensor) -> dict[str, Tensor]:
    """(1,3,6,7) out of `whole` (2,5,9,16) in other layouts, all with the same values."""
    part = whole[1:, 1:4, 2:8, 3:10]
    last = whole.contiguous(memory_format=torch.channels_last)
    wide = torch.full((1, 3, 12, 21), float("nan"), device=whole.device)
    wide[..., ::2, ::3] = part
    return {
        "cut": part,
        "cut channels_last": last[1:, 1:4, 2:8, 3:10],
        "steps": wide[..., ::2, ::3],
        "turned": part.transpose(2, 3).contiguous().transpose(2, 3),
    }


@pytest.mark.parametrize("layout", ["cut", "cut channels_last", "steps", "turned"])
def test_any_strides_without_a_copy(gpu: BackendUnderTest, layout: str) -> None:
    """Of the input, the weight and the residual; what lies around a cut view is not seen."""
    whole = torch.randn(2, 5, 9, 16).to(gpu.device)
    x = views(whole)[layout]
    arguments = case(gpu.device, (3, 3), (1, 6, 7)) | {"x": x, "residual": x}
    arguments["weight"] = moved(torch.randn(3, 3, 3, 3).permute(1, 0, 3, 2), gpu.device)
    expected = reference.conv3x3(**in_double(arguments))
    close(fastbg.conv3x3(**arguments, backend=gpu.name), expected)


def test_offsets_beyond_32_bits(backend: ModuleType, device: torch.device) -> None:
    """Views whose elements lie 2^31 and more apart, in memory that is reserved, not used."""
    far = 2**31 + 16
    flat = torch.empty(0, dtype=torch.float16, device=device)
    flat.set_(torch.UntypedStorage(2 * (far + 64), device=device))
    flat[:64], flat[far:] = torch.arange(64), torch.arange(64, 128)
    weight = torch.randn(2, 2, 3, 3).half().to(device)
    for strides in ((64, far, 8, 1), (64, 32, far, 1), (64, 32, 1, far), (far, 32, 8, 1)):
        height, width = (2, 8) if strides[2] == far else (4, 2) if strides[3] == far else (4, 8)
        batch = 2 if strides[0] == far else 1
        x = flat.as_strided((batch, 2, height, width), strides)
        got = backend.conv3x3(x, weight, None, x, 0.5, False, 1)
        expected = reference.conv3x3(x.double(), weight.double(), None, x.double(), 0.5, False, 1)
        close(got, expected)


def test_infinities_and_nan_spread_as_in_pytorch(backend: ModuleType, device: torch.device) -> None:
    x, weight = torch.randn(1, 3, 9, 9).to(device), torch.randn(4, 3, 3, 3).to(device)
    x[0, 0, 1, 1], x[0, 1, 5, 2], x[0, 2, 4, 7] = float("nan"), float("inf"), -float("inf")
    for relu in (False, True):
        got = backend.conv3x3(x, weight, None, None, 1.0, relu, 1)
        expected = reference.conv3x3(x, weight, None, None, 1.0, relu, 1)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("size", [1.0, 2.0**11, 2.0**-14])
def test_an_infinity_times_an_exact_weight_is_infinite(
    backend: ModuleType, device: torch.device, size: float
) -> None:
    """Weights that TF32 holds have no low part: infinity times that would be NaN."""
    x, weight = torch.ones(1, 2, 9, 9).to(device), torch.full((3, 2, 3, 3), size).to(device)
    x[0, 0, 1, 1], x[0, 1, 5, 6] = float("inf"), -float("inf")
    weight[1], weight[2, :, 0] = -size, 0.0  # 0 times infinity is NaN
    got = backend.conv3x3(x, weight, None, None, 1.0, False, 1)
    expected = reference.conv3x3(x, weight, None, None, 1.0, False, 1)
    assert 0 < int((~expected.isfinite()).sum()) < expected.numel() / 2
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


def test_masked_lanes_are_not_read(backend: ModuleType, device: torch.device) -> None:
    """Values beside a cut view are NaN, those of its padding channels too."""
    x = torch.full((2, 8, 9, 9), float("nan")).to(device)
    x[1, 2:5, 3:6, 3:6] = 1.0
    weight = torch.ones(1, 3, 3, 3).to(device)
    got = backend.conv3x3(x[1:, 2:5, 3:6, 3:6], weight, None, None, 1.0, False, 1)
    expected = torch.tensor([[12.0, 18, 12], [18, 27, 18], [12, 18, 12]])
    assert torch.equal(got[0, 0].cpu(), expected)


def test_backward_has_the_precision_of_forward(gpu: BackendUnderTest) -> None:
    """On GPUs it runs in a thread of PyTorch's, which knows nothing of `use_precision`."""
    arguments = case(gpu.device, (16, 16), (1, 4, 4), end="nothing")
    x = arguments["x"].requires_grad_()
    grads = []
    for precision in ("ieee", "bf16"):
        with fastbg.use_precision(precision):
            y = fastbg.conv3x3(**arguments, backend=gpu.name)

        def run(y: Tensor = y) -> None:
            grads.append(torch.autograd.grad(y.sum(), x)[0])

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    error = (grads[0] - grads[1]).abs().max() / grads[0].abs().max()
    # In Triton bfloat16's rounding of weights, and of nothing else; in CUDA TF32's.
    least, most = (1e-4, 2**-7) if gpu.name == "triton" else (1e-5, 2**-10)
    assert least < float(error) < most


def test_a_weight_written_to_is_used_in_the_next_call(gpu: BackendUnderTest) -> None:
    """Written in a way that changes neither its version nor its address."""
    arguments = case(gpu.device, end="nothing")
    first = fastbg.conv3x3(**arguments, backend=gpu.name)
    arguments["weight"].data.mul_(2)
    torch.testing.assert_close(fastbg.conv3x3(**arguments, backend=gpu.name), 2 * first)


def test_opcheck_and_gradients(gpu: BackendUnderTest) -> None:
    arguments = case(gpu.device, (2, 4), (1, 2, 3), upscale=2)
    x, weight, bias, residual = (arguments[k] for k in ("x", "weight", "bias", "residual"))
    x, residual = x.requires_grad_(), residual.requires_grad_()
    conv, gradient = torch.ops.fastbg.conv3x3, torch.ops.fastbg.conv3x3_input_gradient
    torch.library.opcheck(conv.default, (x, weight, bias, residual, 0.5, False, 2, gpu.name))
    torch.library.opcheck(conv.default, (x, weight, bias, None, 1.0, True, 2, gpu.name))
    torch.library.opcheck(gradient.default, (residual, weight, residual.detach(), 2, gpu.name))
    doubles = [t.detach().double().requires_grad_() for t in (x, residual)]
    results = []
    for given, name in (([x, residual], gpu.name), (doubles, "torch")):
        own = (weight, bias) if name == gpu.name else (weight.double(), bias.double())
        y = fastbg.conv3x3(
            given[0], *own, residual=given[1], residual_scale=0.5, upscale=2, backend=name
        )
        results.append(torch.autograd.grad(y.square().sum(), given, create_graph=True))
    for got, expected in zip(*results, strict=True):
        close(got, expected)
    again = [torch.autograd.grad(r[0].square().sum(), g)[0] for r, g in zip(
        results, (x, doubles[0]), strict=True)]  # fmt: skip
    close(*again)


def test_what_is_not_written_is_refused(gpu: BackendUnderTest) -> None:
    arguments = case(gpu.device, end="nothing")
    arguments["weight"].requires_grad_()
    y = fastbg.conv3x3(**arguments, backend=gpu.name)
    with pytest.raises(BackendUnavailable, match="conv3x3_weight_gradient is not written for it"):
        y.sum().backward()
