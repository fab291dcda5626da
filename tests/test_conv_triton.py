"""What only the Triton kernels of the 3x3 convolution do: boxes at places of their own, packing."""

import importlib.util

import pytest
import torch
from runnable_backend import runnable

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from fastbg.backends.triton import conv as backend
from fastbg.errors import InvalidArgument
from fastbg.kernels.conv import Filter, plan_conv3x3, plan_pack
from fastbg.kernels.conv_ending import Ending, Placed

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(scope="module")
def device() -> torch.device:
    return runnable("triton", "conv3x3").device


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
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-5)


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


def test_more_pixels_than_32_bits_count_are_refused() -> None:
    huge = torch.empty(1, 1, 2**16, 2**15, device="meta")
    with pytest.raises(InvalidArgument, match="pixels an image on the triton backend"):
        backend.run(Placed(huge), None, Ending(), huge)  # type: ignore[arg-type]
