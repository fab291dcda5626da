"""Triton kernels of the composite family: tiles, addresses and tables that random shapes may miss.

tests/test_composite.py compares every backend with the reference on random input; here are the
sizes around each tile of kernels/launch_configs.py, and what only a GPU would meet.
"""

import functools
import importlib.util
import itertools

import poisoned_interpreter
import pytest
import torch

import fastbg
from fastbg.backends.torch_reference import composite as reference
from fastbg.errors import InvalidArgument
from fastbg.testing import BackendUnderTest, backend_under_test

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

import triton
import triton.language as tl

from fastbg.backends.triton import composite as backend
from fastbg.kernels import launch_configs
from fastbg.kernels.composite import plan_composite
from fastbg.kernels.composite_lr import plan_composite_lr

pytestmark = pytest.mark.usefixtures("poisoned_memory")

CONFIGS = (
    launch_configs.CompositeConfig,
    launch_configs.RowsConfig,
    launch_configs.ColumnsConfig,
    launch_configs.MixedConfig,
    launch_configs.MosaicConfig,
)


@pytest.fixture(scope="module")
def device() -> torch.device:
    place: BackendUnderTest = backend_under_test("triton", "composite")
    if place.skip_reason is not None:
        pytest.skip(place.skip_reason)
    if place.device.type == "cpu":
        poisoned_interpreter.install()
    return place.device


def case(
    device: torch.device, height: int, width: int, *, channels: int = 1, each: bool = False
) -> tuple[torch.Tensor, ...]:
    """a, b, pairs, inner, outer; three pairs, and a box for each of them or one for all."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    a, b = (torch.rand(2, channels, height, width, generator=generator) for _ in "ab")
    inner = torch.tensor([height // 4, width // 4, height - height // 3, width - width // 3])
    outer = torch.tensor([height // 8, 0, height, width - width // 8])
    if each:
        inner = torch.stack([inner, torch.tensor([0, 0, 0, 0]), outer])
    integers = (torch.tensor([[0, 1], [1, 0], [1, 1]]), inner, outer)
    return a.to(device), b.to(device), *(t.int().to(device) for t in integers)


def assert_equals_reference(got: torch.Tensor, expected: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(got.cpu(), expected.cpu(), rtol=0, atol=atol)


@pytest.mark.parametrize("config", CONFIGS)
def test_tiles_cover_the_image_and_keep_their_size(
    config: type[launch_configs.TiledConfig],
) -> None:
    sizes = [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 97, 127, 128, 129, 150, 500]
    for height, width in itertools.product([0, *sizes], sizes):
        tile = config().tile(height, width)
        down, across = tile.count(height, width)
        assert (down - 1) * tile.block_y < height <= down * tile.block_y or height == down == 0
        assert (across - 1) * tile.block_x < width <= across * tile.block_x
        assert tile.block_y * tile.block_x <= config().pixels
        for power in (tile.block_y, tile.block_x, tile.num_warps):
            assert power & (power - 1) == 0


# Tiles of composite_fwd_kernel are 8 x 128, or narrower: one less, just so, one more, primes.
@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (7, 127), (8, 128), (9, 129), (31, 33), (32, 32), (61, 17), (3, 150), (40, 5)],
)
def test_composite_around_its_tiles(device: torch.device, height: int, width: int) -> None:
    for each in (False, True):
        arguments = case(device, height, width, each=each)
        assert_equals_reference(
            backend.composite(*arguments), reference.composite(*arguments), atol=0
        )


# LR widths 1, 15, 16, 17, 31, 33: tiles are 16 wide (mixed), 32 or 64 (columns), 16 .. 128 (rows).
@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [
        (4, 4, 4),
        (8, 60, 4),
        (64, 64, 4),
        (20, 68, 4),
        (9, 93, 3),
        (10, 66, 2),
        (1, 7, 1),
        (30, 40, 5),
    ],
)
@pytest.mark.parametrize("each", [False, True], ids=["one box", "a box each"])
@pytest.mark.parametrize("kernel", ["matlab", "pil"])
def test_composite_lr_around_its_tiles(
    device: torch.device, height: int, width: int, scale: int, each: bool, kernel: str
) -> None:
    arguments = case(device, height, width, channels=3, each=each)
    expected = reference.composite_lr(*arguments, scale, kernel, False)
    got = backend.composite_lr(*arguments, scale, kernel, False)
    assert_equals_reference(got, expected, atol=1e-6)


@pytest.mark.parametrize("side", [1, 13, 16, 17, 33])
def test_mosaic_around_its_tiles(device: torch.device, side: int) -> None:
    tiles = torch.rand(1, 2, side, side).to(device)
    cells = torch.arange(9, dtype=torch.int32, device=device).reshape(1, 3, 3) % 8
    assert torch.equal(backend.mosaic(tiles, cells), reference.mosaic(tiles, cells))


def test_few_pairs_of_many_sources_are_computed_directly(device: torch.device) -> None:
    """Which launches run depends on shapes alone; all of them give the same image."""
    a, b, pairs, inner, outer = case(device, 32, 24)
    rows, columns = (backend.axis_taps(size, 4, "matlab", device) for size in (32, 24))
    many = a.repeat(40, 1, 1, 1)
    for source, count in ((a, 5), (many, 1)):
        out = a.new_empty((1, 1, 8, 6))
        launches = plan_composite_lr(source, b, pairs[:1], inner, outer, rows, columns, False, out)
        assert len(launches) == count
        for launch in launches:
            launch.run()
        expected = reference.composite_lr(a, b, pairs[:1], inner, outer, 4, "matlab", False)
        assert_equals_reference(out, expected, atol=1e-6)


@pytest.mark.parametrize("each", [False, True], ids=["one box", "a box each"])
def test_a_pair_out_of_range_is_nan_and_reads_nothing(device: torch.device, each: bool) -> None:
    """On GPUs pairs are not looked at; an address so far off would end this process."""
    a, b, _, inner, outer = case(device, 16, 16)
    wrong = [(-1, 0), (2, 0), (0, -1), (0, 2), (2**31 - 1, 0), (0, -(2**31))]
    pairs = torch.tensor([(0, 1), *wrong], dtype=torch.int32, device=device)
    inner = inner.repeat(len(pairs), 1) if each else inner
    whole = torch.full((len(pairs), 1, 16, 16), torch.nan, device=device)
    whole[:1] = reference.composite(a, b, pairs[:1], inner[:1] if each else inner, outer)
    got = backend.composite(a, b, pairs, inner, outer)
    torch.testing.assert_close(got, whole, rtol=0, atol=0, equal_nan=True)
    for quantize in (False, True):
        small = backend.composite_lr(a, b, pairs, inner, outer, 4, "matlab", quantize)
        assert small[0].isfinite().all()
        assert small[1:].isnan().all()


def test_no_sources_at_all_give_nan(device: torch.device) -> None:
    a, b, pairs, inner, outer = case(device, 16, 16)
    assert backend.composite(a[:0], b, pairs, inner, outer).isnan().all()
    assert backend.composite_lr(a, b[:0], pairs, inner, outer, 4, "matlab", True).isnan().all()


def test_a_transform_that_does_not_exist_is_nan(device: torch.device) -> None:
    """Also a quarter turn of a tile that is not square, where it leaves the tile."""
    tiles = torch.rand(1, 1, 4, 6).to(device)
    cells = torch.tensor([[[0, 8], [-1, 3]]], dtype=torch.int32, device=device)
    got = backend.mosaic(tiles, cells).reshape(2, 4, 2, 6).permute(0, 2, 1, 3)
    assert torch.equal(got[0, 0], tiles[0, 0])
    assert got[0, 1].isnan().all()
    assert got[1, 0].isnan().all()
    assert torch.equal(got[1, 1, :, :4], torch.rot90(tiles[0, 0, :, :4]))
    assert got[1, 1, :, 4:].isnan().all()


def test_empty_results(device: torch.device) -> None:
    a, b, pairs, inner, outer = case(device, 8, 8)
    assert backend.composite(a, b, pairs[:0], inner, outer).shape == (0, 1, 8, 8)
    assert backend.composite_lr(a, b, pairs[:0], inner, outer, 4, "pil", False).numel() == 0
    assert backend.composite(a[:, :0], b[:, :0], pairs, inner, outer).shape == (3, 0, 8, 8)
    assert (
        backend.composite_lr(a[:, :0], b[:, :0], pairs, inner, outer, 4, "pil", True).numel() == 0
    )
    assert backend.composite(a[..., :0], b[..., :0], pairs, 0 * inner, 0 * outer).numel() == 0
    assert backend.mosaic(a, pairs.new_empty((2, 0, 0))).shape == (2, 1, 0, 0)


def test_offsets_beyond_32_bits(device: torch.device) -> None:
    """Views whose elements lie 2^31 and more apart, in memory that is reserved, not used."""
    far = 2**31 + 16
    flat = torch.empty(0, dtype=torch.uint8, device=device)
    flat.set_(torch.UntypedStorage(far + 64, device=device))
    flat[:64] = torch.arange(64)
    flat[far:] = torch.arange(64, 128)
    views = {
        "images": flat.as_strided((2, 1, 8, 8), (far, 64, 8, 1)),
        "channels": flat.as_strided((1, 2, 8, 8), (64, far, 8, 1)),
        "rows": flat.as_strided((1, 1, 2, 64), (64, 64, far, 1)),
        "columns": flat.as_strided((1, 1, 64, 2), (64, 64, 1, far)),
    }
    pairs = torch.zeros((1, 2), dtype=torch.int32, device=device)
    box = torch.zeros(4, dtype=torch.int32, device=device)
    for source in views.values():
        last = pairs + len(source) - 1
        got = backend.composite(source, source, last, box, box)
        assert torch.equal(got, source[-1:].float() / 255)


def test_grey_levels_are_divided_exactly(device: torch.device) -> None:
    levels = torch.arange(256, dtype=torch.uint8, device=device).reshape(1, 1, 16, 16)
    pairs = torch.zeros((1, 2), dtype=torch.int32, device=device)
    box = torch.zeros(4, dtype=torch.int32, device=device)
    got = backend.composite(levels, levels, pairs, box, box)
    assert torch.equal(got, levels.float() / 255)
    quantized = backend.composite_lr(got, got, pairs, box, box, 1, "pil", True)
    assert torch.equal(quantized, levels.float() / 255)


def test_tables_are_made_once(device: torch.device) -> None:
    assert backend.axis_taps(32, 4, "pil", device) is backend.axis_taps(32, 4, "pil", device)


def test_launches_describe_what_triton_would_compile(device: torch.device) -> None:
    """Constants for 1, alignment for multiples of 16, 64 bits for what needs them."""
    a = torch.empty((2, 3, 32, 2**27), device="meta")
    integers = torch.empty((1, 2), dtype=torch.int32, device="meta")
    box = integers.new_empty(4)
    out = a.new_empty((1, 3, 32, 2**27))
    launch = plan_composite(a, a.half(), integers, box, box, out)
    source = launch.source()
    position = launch.kernel.arg_names.index
    assert source.signature["a_ptr"] == "*fp32"
    assert source.signature["b_ptr"] == "*fp16"
    assert source.signature["a_stride_y"] == "i32"
    assert source.signature["a_stride_n"] == "i64"
    assert source.signature["a_stride_x"] == "constexpr"
    assert source.constants[(position("a_stride_x"),)] == 1
    assert (position("a_stride_y"),) in source.attrs
    assert (position("images_a"),) not in source.attrs


def test_public_operators_reach_these_kernels(device: torch.device) -> None:
    a, b, pairs, inner, outer = case(device, 16, 16)
    got = fastbg.composite(a, b, pairs, inner, outer, backend="triton")
    assert torch.equal(got, backend.composite(a, b, pairs, inner, outer))


@triton.jit
def masked_copy_kernel(source_ptr, out_ptr, count, block: tl.constexpr):
    lane = tl.arange(0, block)
    tl.store(out_ptr + lane, tl.load(source_ptr + lane, mask=lane < count))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int32, torch.uint8])
def test_what_a_load_masks_out_is_not_zero(device: torch.device, dtype: torch.dtype) -> None:
    """So that all tests of Triton kernels would notice one that relies on it."""
    if device.type != "cpu":
        pytest.skip("on a GPU it may be anything, zero too")
    source, out = torch.ones(16, dtype=dtype), torch.zeros(16, dtype=dtype)
    masked_copy_kernel[(1,)](source, out, 5, block=16)
    assert (out[:5] == 1).all()
    beyond = out[5:]
    assert (
        beyond.isnan().all() if dtype.is_floating_point else (beyond.view(torch.uint8) == 255).all()
    )


@pytest.mark.parametrize("kernel_size", [13, 15])
def test_wider_blurs_than_registers_hold_are_refused(
    device: torch.device, kernel_size: int
) -> None:
    image = torch.rand(1, 1, 9, 9, device=device)
    call = functools.partial(fastbg.blur_path, image, [0.5], kernel_size)
    if kernel_size > 13:
        message = "kernel_size: got 15; expected at most 13 on the triton backend"
        with pytest.raises(InvalidArgument, match=message):
            call(backend="triton")
    else:
        torch.testing.assert_close(call(backend="triton"), call(backend="torch"))
