"""The Gram family's CUDA kernels, emulated: tensor-core instructions, then the operators."""

import emulation_build
import pytest
import torch
from emulation_campaign import LAYOUTS, images
from emulation_campaign_gram import (
    DTYPES,
    MASKS,
    check_conv_gram,
    check_gram,
    filters,
    weights,
)
from emulation_selftest import Selftest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastbg.backends.cuda import gram as emulated
from fastbg.backends.cuda import native
from fastbg.backends.tensor_view import view

REASON = emulation_build.missing()
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.usefixtures("poisoned_memory"),
]

PRODUCTS = {"tf32_product": (8, torch.float32), "fp16_product": (16, torch.float16),
            "bf16_product": (16, torch.bfloat16)}  # fmt: skip
# Both sides of every number of channels or pixels that a kernel divides by.
CHANNELS = (1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 129)
HEIGHTS, WIDTHS = (1, 2, 3, 8), (1, 3, 4, 15, 16, 17, 33)
thorough = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def run(selftest: Selftest, kernel: str, source: Tensor, out: Tensor) -> Tensor:
    """`out` after a launch with a thread for each element of `source`, at most a warp."""
    threads = min(len(source), 32)
    blocks = len(source) // threads if len(out) == len(source) else 1
    selftest.run(kernel, blocks, threads, 0, source.data_ptr(), out.data_ptr())
    return out


# ---- tensor cores ----


def test_tf32_has_ten_bits_and_rounds_ties_away(selftest: Selftest) -> None:
    step = 2.0**-10
    odd = [0.0, torch.inf, -torch.inf, torch.nan]
    given = [1.0, 1 + step / 2, 1 + 0.49 * step, -1 - step / 2, *odd]
    expected = [1.0, 1 + step, 1.0, -1 - step, *odd]
    source = torch.tensor(given).repeat(4)
    got = run(selftest, "to_tf32", source, torch.zeros(32))
    bits = got.view(torch.int32)
    assert (bits[:4] & 0x1FFF).all()  # what a device leaves there is anyone's guess
    got = (bits & ~0x1FFF).view(torch.float32)
    torch.testing.assert_close(
        got, torch.tensor(expected).repeat(4), rtol=0, atol=0, equal_nan=True
    )


def test_two_parts_hold_21_bits_of_a_float(selftest: Selftest) -> None:
    source = torch.randn(3200) * torch.logspace(-30, 30, 3200)
    got = run(selftest, "to_parts_and_back", source, torch.zeros(3200))
    assert ((got.double() - source.double()).abs() <= 2.0**-22 * source.double().abs()).all()


@pytest.mark.parametrize("kernel", PRODUCTS)
def test_a_warp_multiplies_matrices(selftest: Selftest, kernel: str) -> None:
    """Whole numbers, so that nothing is rounded, added to what is there already."""
    depth, _ = PRODUCTS[kernel]
    generator = torch.Generator().manual_seed(depth)
    a, b, d = (
        torch.randint(-20, 20, shape, generator=generator).float()
        for shape in ((16, depth), (depth, 8), (16, 8))
    )
    got = run(selftest, kernel, torch.cat([a.flatten(), b.flatten()]), d.clone().flatten())
    assert torch.equal(got.view(16, 8), d + a @ b)


@pytest.mark.parametrize("kernel", PRODUCTS)
def test_sums_are_cut_off_not_rounded(selftest: Selftest, kernel: str) -> None:
    depth, _ = PRODUCTS[kernel]
    a, b = torch.zeros(16, depth), torch.zeros(depth, 8)
    a[:, 0], b[0] = 2.0**-12, 1.25 * 2.0**-12  # 1.25 halves of the last bit of 1
    source = torch.cat([a.flatten(), b.flatten()])
    for there, expected in ((1.0, 1.0), (-1.0, 2.0**-23 - 1)):
        got = run(selftest, kernel, source, torch.full((128,), there))
        assert (got == expected).all()


def test_tf32_operands_are_read_without_their_last_bits(selftest: Selftest) -> None:
    a, b = torch.full((16, 8), 1 + 2.0**-11), torch.ones(8, 8)
    got = run(selftest, "tf32_product", torch.cat([a.flatten(), b.flatten()]), torch.zeros(128))
    assert (got == 8).all()


def test_a_product_needs_the_whole_warp(selftest: Selftest) -> None:
    message = r"a warp operation misses a lane: .* mma_tf32 at .*thread \(5,0,0\) has exited"
    with pytest.raises(RuntimeError, match=message):
        run(selftest, "product_misses_a_lane", torch.zeros(32), torch.zeros(32))


# ---- the operators ----


@pytest.mark.parametrize("sanitizer", ["memory", "races"])
def test_gram_is_clean_under_sanitizers(sanitizer: str) -> None:
    reason = emulation_build.sanitizer_missing(sanitizer)
    if reason is not None:
        pytest.skip(reason)
    done = emulation_build.run_sanitized(sanitizer, "emulation_campaign_gram.py")
    assert "cases agree with the reference" in done.stdout, done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("module")
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 2),
    channels=st.sampled_from(CHANNELS),
    height=st.sampled_from(HEIGHTS),
    width=st.sampled_from(WIDTHS),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    kind=st.sampled_from(MASKS),
)
@thorough
def test_gram(
    seed: int,
    batch: int,
    channels: int,
    height: int,
    width: int,
    dtype: torch.dtype,
    layout: str,
    kind: str,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = images(batch, channels, height, width, dtype, layout, generator) - 0.25
    check_gram(features, weights(kind, batch, height, width, generator))


@pytest.mark.usefixtures("module")
@given(
    seed=st.integers(0, 2**31),
    height=st.sampled_from(HEIGHTS),
    width=st.sampled_from(WIDTHS),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    kind=st.sampled_from(MASKS),
)
@thorough
def test_conv_gram(
    seed: int, height: int, width: int, dtype: torch.dtype, layout: str, kind: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    pictures = images(2, 3, height, width, dtype, layout, generator)
    mask = weights(kind, 2, height, width, generator)
    check_conv_gram(pictures, *filters(dtype, generator), mask)


@pytest.mark.usefixtures("module")
def test_the_longest_chain_of_additions() -> None:
    """As many regions as blocks are wanted: then each has 1024 pixels to itself.

    Values of one sign: what tensor cores cut off adds up.
    """
    regions, pixels = 2048, 1024
    features = torch.rand(1, 2, 1, pixels, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, regions, 1, pixels)
    mask[0, -1] = 1
    got = check_gram(features, mask)
    floats = native().gram_workspace(view(features), view(mask), view(got))
    assert floats == regions * 2 * 128, "one split of 2 units"


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_do_not_change_a_bit(dtype: torch.dtype, kind: str) -> None:
    """128-bit loads along pixels, single loads, and rows that do not join: one order of sums."""
    generator = torch.Generator().manual_seed(0)
    features = images(2, 66, 4, 36, dtype, "contiguous", generator)
    mask = weights(kind, 2, 4, 36, generator)
    expected = emulated.gram(features, mask)
    aligned, crooked = (torch.nn.functional.pad(features, (n, n))[..., n:-n] for n in (4, 1))
    last = features.contiguous(memory_format=torch.channels_last)
    for same in (aligned, crooked, last):
        assert torch.equal(emulated.gram(same, mask), expected)


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("dtype", DTYPES)
def test_pixels_without_weight_are_left_out(dtype: torch.dtype) -> None:
    """Whatever they hold, and wherever they stand in a step."""
    generator = torch.Generator().manual_seed(0)
    features = images(1, 66, 5, 19, dtype, "contiguous", generator)
    mask = (torch.rand(1, 2, 5, 19, generator=generator) < 0.5).float()
    expected = emulated.gram(features, mask)
    outside = mask.amax(1, keepdim=True).expand_as(features) == 0
    assert outside.any()
    assert torch.equal(emulated.gram(features.masked_fill(outside, torch.nan), mask), expected)


@pytest.mark.usefixtures("module")
def test_not_a_number_shows() -> None:
    features = torch.rand(1, 3, 4, 5)
    features[0, 1, 2, 3] = torch.nan
    shown = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    shown[..., 1, :] = shown[..., :, 1] = True
    assert torch.equal(emulated.gram(features, None).isnan(), shown)
    weight, bias = torch.ones(64, 3, 3, 3), torch.zeros(64)
    assert emulated.conv_gram(features, weight, bias, None).isnan().all()


@pytest.mark.usefixtures("module")
def test_one_small_image_fills_a_gpu() -> None:
    """128 blocks for one image of the paper's size, whose partial sums are the workspace."""
    features, out = torch.empty(1, 64, 128, 128), torch.empty(1, 1, 64, 64)
    block = 20 * 128  # 16x8 sums: the triangle of 64x64
    assert native().gram_workspace(view(features), None, view(out)) == 128 * block
    batch, outs = features.expand(150, -1, -1, -1), out.expand(150, -1, -1, -1)
    assert native().gram_workspace(view(batch), None, view(outs)) == 150 * 16 * block


@pytest.mark.usefixtures("module")
def test_a_small_workspace_is_refused() -> None:
    features, out, small = torch.rand(1, 3, 4, 5), torch.empty(1, 1, 3, 3), torch.empty(8)
    with pytest.raises(RuntimeError, match="gram: cudaErrorInvalidValue"):
        native().gram(view(features), None, view(small), view(out), 0)
    weight, bias, grams = torch.rand(27, 64), torch.rand(64), torch.empty(1, 1, 64, 64)
    with pytest.raises(RuntimeError, match="conv_gram: cudaErrorInvalidValue"):
        native().conv_gram(*map(view, (features, weight, bias)), None, view(small), view(grams), 0)


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 4, 0, 3), (2, 4, 3, 0), (1, 70, 0, 0)])
def test_empty_sums_are_zero(shape: tuple[int, ...]) -> None:
    got = emulated.gram(torch.rand(shape), None)
    assert torch.equal(got, torch.zeros(shape[0], 1, shape[1], shape[1]))
    none = torch.rand(shape[0], 0, *shape[2:])
    assert emulated.gram(torch.rand(shape), none).shape == (shape[0], 0, shape[1], shape[1])
