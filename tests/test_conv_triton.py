"""Triton kernels of the 3x3 convolution against float64: blocks, cut views, precisions."""

import importlib.util
import threading
from typing import Any

import pytest
import torch
from runnable_backend import runnable
from torch import Tensor

import fastbg
from fastbg.backends.torch_reference import conv as reference
from fastbg.errors import BackendUnavailable, InvalidArgument

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from fastbg.backends.triton import conv as backend
from fastbg.kernels.conv import Ending, Filter, Placed, plan_conv3x3, plan_pack
from fastbg.testing import moved

pytestmark = pytest.mark.usefixtures("poisoned_memory")

# Of the largest entry: three TF32 products, then one rounding of the result to its dtype, which for
# bfloat16 the interpreter cuts.
ERROR = {torch.float32: 2e-6, torch.float16: 2**-11, torch.bfloat16: 2**-7}


@pytest.fixture(scope="module")
def device() -> torch.device:
    return runnable("triton", "conv3x3").device


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


# Blocks are 128 pixels of one image, 16 to 64 channels written and 16 or 32 read.
SHAPES = [
    ((1, 1), (1, 1, 1), 1),  # one pixel
    ((3, 64), (1, 8, 16), 1),  # one block exactly
    ((17, 65), (1, 3, 43), 1),  # one pixel, one channel more than a block
    ((16, 15), (2, 1, 127), 1),  # one pixel, one channel less
    ((33, 3), (1, 40, 1), 1),  # one column
    ((5, 12), (2, 3, 4), 2),
    ((3, 18), (1, 4, 5), 3),
    ((4, 4), (0, 5, 5), 1),  # no image
]
CASES = [(*shape, torch.float32) for shape in SHAPES]
CASES += [(*SHAPES[i], dtype) for i in (4, 5) for dtype in (torch.float16, torch.bfloat16)]


@pytest.mark.parametrize(("channels", "size", "upscale", "dtype"), CASES, ids=str)
def test_equals_float64(
    device: torch.device,
    channels: tuple[int, int],
    size: tuple[int, int, int],
    upscale: int,
    dtype: torch.dtype,
) -> None:
    for end in ("nothing", "relu", "residual"):
        arguments = case(device, channels, size, dtype=dtype, upscale=upscale, end=end)
        got = fastbg.conv3x3(**arguments, backend="triton")
        assert got.dtype == dtype
        assert got.is_contiguous(memory_format=torch.channels_last)
        close(got, reference.conv3x3(**in_double(arguments)))


@pytest.mark.parametrize(("channels", "size", "upscale", "dtype"), CASES, ids=str)
def test_input_gradient_equals_float64(
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
    got = backend.conv3x3_input_gradient(grad, weight, gate, upscale)
    doubles = grad.double(), weight.double(), gate.double()
    close(got, reference.conv3x3_input_gradient(*doubles, upscale))


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
def test_any_strides_without_a_copy(device: torch.device, layout: str) -> None:
    """Of the input, the weight and the residual; what lies around a cut view is not seen."""
    whole = torch.randn(2, 5, 9, 16).to(device)
    x = views(whole)[layout]
    arguments = case(device, (3, 3), (1, 6, 7)) | {"x": x, "residual": x}
    arguments["weight"] = moved(torch.randn(3, 3, 3, 3).permute(1, 0, 3, 2), device)
    expected = reference.conv3x3(**in_double(arguments))
    close(fastbg.conv3x3(**arguments, backend="triton"), expected)


def test_offsets_beyond_32_bits(device: torch.device) -> None:
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


def test_a_box_is_computed_where_it_lies(device: torch.device) -> None:
    """Input, residual and result at places of their own; zero outside of the first two."""
    x, residual = torch.randn(1, 3, 6, 7).to(device), torch.randn(1, 4, 3, 3).to(device)
    weight = torch.randn(4, 3, 3, 3).to(device)
    out = torch.empty(1, 4, 8, 10).to(device)[..., 2:7, 3:8]  # rows 3 to 8, columns -1 to 4 of x
    packed = backend.pack([Filter(weight, 1, False)])[0]
    ending = Ending(scale=0.5, residual=Placed(residual, -1, 1))
    backend.run(Placed(x, 3, -1), packed, ending, out)
    padded = torch.nn.functional.pad(x.double(), (2, 2, 2, 4))
    expected = 0.5 * torch.conv2d(padded, weight.double())[..., 4:9, 0:5]
    expected[..., 1:4, 0:2] += residual[..., 1:3].double()  # columns 1 and 2 lie in the result
    close(out, expected)


def test_infinities_and_nan_spread_as_in_pytorch(device: torch.device) -> None:
    x, weight = torch.randn(1, 3, 9, 9).to(device), torch.randn(4, 3, 3, 3).to(device)
    x[0, 0, 1, 1], x[0, 1, 5, 2], x[0, 2, 4, 7] = float("nan"), float("inf"), -float("inf")
    for relu in (False, True):
        got = backend.conv3x3(x, weight, None, None, 1.0, relu, 1)
        expected = reference.conv3x3(x, weight, None, None, 1.0, relu, 1)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_masked_lanes_are_not_read(device: torch.device) -> None:
    """Values beside a cut view are NaN, those of its padding channels too."""
    x = torch.full((2, 8, 9, 9), float("nan")).to(device)
    x[1, 2:5, 3:6, 3:6] = 1.0
    weight = torch.ones(1, 3, 3, 3).to(device)
    got = backend.conv3x3(x[1:, 2:5, 3:6, 3:6], weight, None, None, 1.0, False, 1)
    expected = torch.tensor([[12.0, 18, 12], [18, 27, 18], [12, 18, 12]])
    assert torch.equal(got[0, 0].cpu(), expected)


@pytest.mark.parametrize(
    ("precision", "products", "dtype"),
    [("ieee", "tf32x3", "float32"), ("tf32", "tf32", "float32"), ("bf16", "tf32", "bfloat16")],
)
def test_the_precision_decides_the_products(precision: str, products: str, dtype: str) -> None:
    weight = torch.empty((4, 3, 3, 3), device="meta")
    packed = plan_pack([Filter(weight, 1, False)], precision).packed[0]
    assert str(packed.memory.dtype) == f"torch.{dtype}"
    x = weight.new_empty(1, 3, 8, 8)
    launch = plan_conv3x3(Placed(x), packed, Ending(), weight.new_empty(1, 4, 8, 8))
    assert launch.constants["PRECISION"] == products
    half = plan_pack([Filter(weight.half(), 1, False)], precision).packed[0]
    assert (half.precision, half.memory.dtype) == ("tf32", torch.float16)


def test_the_rests_of_weights_hold_what_tf32_cannot(device: torch.device) -> None:
    weight = torch.randn(16, 16, 3, 3).to(device)
    packed = backend.pack([Filter(weight, 1, False)])[0]
    most, rest = packed.memory[: packed.rests], packed.memory[packed.rests :]
    for part in (most, rest):
        assert (part.view(torch.int32) & 0x1FFF == 0).all()
    whole = weight.permute(2, 3, 0, 1).flatten().double()
    assert float(((most.double() + rest.double() - whole) / whole).abs().max()) < 2**-22


def test_backward_has_the_precision_of_forward(device: torch.device) -> None:
    """On GPUs it runs in a thread of PyTorch's, which knows nothing of `use_precision`."""
    arguments = case(device, (16, 16), (1, 4, 4), end="nothing")
    x = arguments["x"].requires_grad_()
    grads = []
    for precision in ("ieee", "bf16"):
        with fastbg.use_precision(precision):
            y = fastbg.conv3x3(**arguments, backend="triton")

        def run(y: Tensor = y) -> None:
            grads.append(torch.autograd.grad(y.sum(), x)[0])

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    error = (grads[0] - grads[1]).abs().max() / grads[0].abs().max()
    assert 1e-4 < float(error) < 2**-7  # bfloat16's rounding of weights, and of nothing else


def test_a_weight_written_to_is_used_in_the_next_call(device: torch.device) -> None:
    """Written in a way that changes neither its version nor its address."""
    arguments = case(device, end="nothing")
    first = fastbg.conv3x3(**arguments, backend="triton")
    arguments["weight"].data.mul_(2)
    torch.testing.assert_close(fastbg.conv3x3(**arguments, backend="triton"), 2 * first)


def test_opcheck_and_gradients(device: torch.device) -> None:
    arguments = case(device, (2, 4), (1, 2, 3), upscale=2)
    x, weight, bias, residual = (arguments[k] for k in ("x", "weight", "bias", "residual"))
    x, residual = x.requires_grad_(), residual.requires_grad_()
    conv, gradient = torch.ops.fastbg.conv3x3, torch.ops.fastbg.conv3x3_input_gradient
    torch.library.opcheck(conv.default, (x, weight, bias, residual, 0.5, False, 2, "triton"))
    torch.library.opcheck(conv.default, (x, weight, bias, None, 1.0, True, 2, "triton"))
    torch.library.opcheck(gradient.default, (residual, weight, residual.detach(), 2, "triton"))
    doubles = [t.detach().double().requires_grad_() for t in (x, residual)]
    results = []
    for given, name in (([x, residual], "triton"), (doubles, "torch")):
        own = (weight, bias) if name == "triton" else (weight.double(), bias.double())
        y = fastbg.conv3x3(
            given[0], *own, residual=given[1], residual_scale=0.5, upscale=2, backend=name
        )
        results.append(torch.autograd.grad(y.square().sum(), given, create_graph=True))
    for got, expected in zip(*results, strict=True):
        close(got, expected)
    again = [torch.autograd.grad(r[0].square().sum(), g)[0] for r, g in zip(
        results, (x, doubles[0]), strict=True)]  # fmt: skip
    close(*again)


def test_what_is_not_written_is_refused(device: torch.device) -> None:
    arguments = case(device, end="nothing")
    arguments["weight"].requires_grad_()
    y = fastbg.conv3x3(**arguments, backend="triton")
    with pytest.raises(BackendUnavailable, match="conv3x3_weight_gradient is not written for it"):
        y.sum().backward()
    huge = torch.empty(1, 1, 2**16, 2**15, device="meta")
    with pytest.raises(InvalidArgument, match="pixels an image on the triton backend"):
        backend.run(Placed(huge), None, Ending(), huge)  # type: ignore[arg-type]
