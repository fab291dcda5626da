"""What only the CUDA kernels of the 3x3 convolution do: asynchronous copies, layouts, long sums."""

import emulation_build
import pytest
import torch
from emulation_campaign_conv import LAYOUTS, in_layout
from emulation_selftest import Selftest
from torch import Tensor

import fastbg
from fastbg.backends.cuda import conv as emulated
from fastbg.backends.cuda import native
from fastbg.backends.tensor_view import view
from fastbg.errors import InvalidArgument

REASON = emulation_build.missing()
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.usefixtures("poisoned_memory", "module"),
]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize(("kernel", "last"), [("first_copies", 0.0), ("all_copies", 4.0)])
def test_copies_arrive_when_their_thread_waits(
    selftest: Selftest, kernel: str, last: float
) -> None:
    source, out = torch.tensor([1.0, 2, 3, 4]).repeat(32), torch.full((5, 32), torch.nan)
    selftest.run(kernel, 1, 32, 32 * 16, source.data_ptr(), out.data_ptr())
    expected = torch.tensor([0.0, 1, 2, 3, last])  # before it waits, after
    assert torch.equal(out, expected[:, None].expand(5, 32))


def test_narrow_copies(selftest: Selftest) -> None:
    source, out = torch.tensor([1.0, 2, 3, 4]).repeat(32), torch.full((4, 32), torch.nan)
    selftest.run("narrow_copies", 1, 32, 32 * 16, source.data_ptr(), out.data_ptr())
    assert torch.equal(out, torch.tensor([1.0, 0, 4, 0])[:, None].expand(4, 32))


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("copies_without_waiting", "a thread exits without having waited for its copies"),
        ("misaligned_copy", "not aligned to its width"),
    ],
)
def test_wrong_copies_fail(selftest: Selftest, kernel: str, message: str) -> None:
    source, out = torch.ones(128), torch.zeros(160)
    with pytest.raises(RuntimeError, match=rf"{message}: thread \(0,0,0\) in copy_async"):
        selftest.run(kernel, 1, 32, 32 * 16, source.data_ptr(), out.data_ptr())


def convolved(x: Tensor, weight: Tensor, precision: str = "ieee") -> Tensor:
    with fastbg.use_precision(precision):
        return emulated.conv3x3(x, weight, None, x, 0.5, False, 1)


@pytest.mark.parametrize("sanitizer", ["memory", "races"])
def test_conv_is_clean_under_sanitizers(sanitizer: str) -> None:
    reason = emulation_build.sanitizer_missing(sanitizer)
    if reason is not None:
        pytest.skip(reason)
    done = emulation_build.run_sanitized(sanitizer, "emulation_campaign_conv.py")
    assert "cases agree with the reference" in done.stdout, done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_do_not_change_a_bit(dtype: torch.dtype, precision: str) -> None:
    """Channels copied 16 bytes at a time or one by one: one order of sums."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 24, 10, 19, generator=generator).to(dtype)
    weight = torch.randn(24, 24, 3, 3, generator=generator).to(dtype)
    expected = convolved(x, weight, precision)
    for layout in LAYOUTS[1:]:
        assert torch.equal(convolved(in_layout(x, layout), weight, precision), expected), layout


def test_the_order_of_threads_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x = in_layout(torch.randn(1, 40, 5, 17), "channels_last")
    weight = torch.randn(40, 40, 3, 3)
    expected = convolved(x, weight)
    for seed in range(1, 21):
        monkeypatch.setenv("FASTBG_EMULATION_SEED", str(seed))
        assert torch.equal(convolved(x, weight), expected), seed


@pytest.mark.parametrize("kind", ["randn", "rand"])
def test_long_sums_do_not_drift(kind: str) -> None:
    """Tensor cores cut off; 180 channels added by them alone had an error of 6e-6."""
    torch.manual_seed(0)
    x, weight = getattr(torch, kind)(1, 180, 8, 16), getattr(torch, kind)(16, 180, 3, 3)
    got = emulated.conv3x3(x, weight, None, None, 1.0, False, 1)
    expected = torch.conv2d(x.double(), weight.double(), padding=1)
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-6


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_lower_precisions_round_to_tf32(precision: str) -> None:
    """Both factors, ties away from zero; bf16 too, which permits more rounding than that."""
    x, weight = torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 1] = weight[0, 0, 1, 1] = 1 + 2.0**-11
    got = [
        emulated.conv3x3(*pair, None, None, 1.0, False, 1)[0, 0, 1, 1].item()
        for pair in ((x, weight), (x, torch.ones(1, 1, 3, 3)))
    ]
    assert got == [1 + 2.0**-10, 1 + 2.0**-11]  # but for the product of the low parts
    with fastbg.use_precision(precision):
        y = emulated.conv3x3(x, weight, None, None, 1.0, False, 1)
    assert y[0, 0, 1, 1].item() == (1 + 2.0**-10) ** 2


def test_a_packed_weight_of_another_size_or_dtype_is_refused() -> None:
    x, weight = torch.rand(1, 4, 5, 5), torch.rand(4, 4, 3, 3)
    size = native().conv3x3_packed_size(view(weight), 1, False)
    assert size == 9 * 16 * 16  # channels in whole blocks
    for wrong in (torch.empty(size - 1), torch.empty(size, dtype=torch.float16)):
        with pytest.raises(RuntimeError, match="conv3x3_pack: cudaErrorInvalidValue"):
            native().conv3x3_pack(view(weight), 1, False, False, view(wrong), 0)
        with pytest.raises(RuntimeError, match="conv3x3: cudaErrorInvalidValue"):
            native().conv3x3(
                *(view(x), 1, view(wrong), None, None, 1.0, False, view(x), 1, False, 0)
            )


def test_more_blocks_than_a_launch_has_are_refused() -> None:
    weight = torch.empty(1, 1, 3, 3, device="meta")
    for shape in ((2**31, 1, 1, 1), (1, 1, 2**31, 1)):
        x = torch.empty(shape, device="meta")
        with pytest.raises(InvalidArgument, match="at most 2147483647 blocks of 8 x 16 pixels"):
            emulated.conv3x3(x, weight, None, None, 1.0, False, 1)
