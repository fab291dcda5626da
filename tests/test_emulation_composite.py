"""The composite family's CUDA kernels, emulated, for shapes around every tile."""

import emulation_build
import pytest
import torch
from emulation_campaign import LAYOUTS, TOLERANCE, boxes, images, pairs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastbg.backends.cuda import composite as emulated
from fastbg.backends.torch_reference import composite as reference
from fastbg.errors import InvalidArgument
from fastbg.filters.bicubic import bicubic_matrix

REASON = emulation_build.missing()
pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
    pytest.mark.usefixtures("poisoned_memory"),
]

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
SOURCES = (*FLOATS, torch.uint8)
# 0, 1, primes, and both sides of every size that a kernel divides by: packs of 4 and 8, tiles of 8,
# warps of 32 packs.
SIDES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 11, 15, 16, 17, 23, 31, 32, 33)
thorough = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def sources(draw: st.DrawFn, scale: int = 1) -> tuple[Tensor, Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    height, width = (scale * draw(st.sampled_from(SIDES)) for _ in range(2))
    dtype, channels = draw(st.sampled_from(SOURCES)), draw(st.integers(0, 3))

    def some() -> Tensor:
        layout = draw(st.sampled_from(LAYOUTS))
        return images(draw(st.integers(1, 3)), channels, height, width, dtype, layout, generator)

    return some(), some(), generator


@pytest.mark.usefixtures("module")
@given(data=st.data(), count=st.integers(0, 5), each=st.booleans())
@thorough
def test_composite(data: st.DataObject, count: int, each: bool) -> None:
    a, b, generator = data.draw(sources())
    index = pairs(count, len(a), len(b), generator)
    box = [boxes(count if each else None, *a.shape[-2:], generator) for _ in range(2)]
    expected = reference.composite(a, b, index, *box)
    torch.testing.assert_close(emulated.composite(a, b, index, *box), expected, rtol=0, atol=0)


@pytest.mark.usefixtures("module")
@given(
    data=st.data(),
    scale=st.integers(1, 5),
    count=st.integers(0, 8),
    each=st.booleans(),
    kernel=st.sampled_from(["matlab", "pil"]),
)
@thorough
def test_composite_lr(data: st.DataObject, scale: int, count: int, each: bool, kernel: str) -> None:
    """Few pairs, many pairs with one box, many pairs with a box each: three ways to compute."""
    a, b, generator = data.draw(sources(scale))
    index = pairs(count, len(a), len(b), generator)
    box = [boxes(count if each else None, *a.shape[-2:], generator) for _ in range(2)]
    arguments = (a, b, index, *box, scale, kernel, False)
    got, expected = emulated.composite_lr(*arguments), reference.composite_lr(*arguments)
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE[got.dtype])


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("each", [False, True], ids=["one box", "a box each"])
@pytest.mark.parametrize("dtype", SOURCES)
def test_every_image_of_a_with_every_image_of_b(dtype: torch.dtype, each: bool) -> None:
    """Pairs that share an image of b lie apart; a thread takes 8 of them, here of 19 and then 3."""
    generator = torch.Generator().manual_seed(0)
    a = images(19, 3, 24, 64, dtype, "contiguous", generator)
    b = images(3, 3, 24, 64, dtype, "contiguous", generator)
    index = torch.cartesian_prod(torch.arange(19), torch.arange(3)).int()
    box = [boxes(len(index) if each else None, 24, 64, generator) for _ in range(2)]
    for one, other, order in ((a, b, index), (b, a, index.flip(1)), (a, b, index.flip(0))):
        arguments = (one, other, order, *box, 4, "matlab", False)
        got, expected = emulated.composite_lr(*arguments), reference.composite_lr(*arguments)
        torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE[got.dtype])


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("kernel", ["matlab", "pil"])
@pytest.mark.parametrize("scale", [3, 4])
@pytest.mark.parametrize("each", [False, True], ids=["one box", "a box each"])
def test_pixels_that_no_pair_takes_never_leak(each: bool, scale: int, kernel: str) -> None:
    """As test_composite.py's, but with work per source; boxes at borders, too."""
    height, width = 20 * scale, 24 * scale
    box = torch.tensor(
        [(8, 8, 24, 24), (0, 0, 20, 17), (height - 19, width - 24, height, width), (1, 3, 42, 44)]
    ).int()
    whole = torch.tensor([0, 0, height, width], dtype=torch.int32)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(4, 2, height, width, generator=generator) for _ in range(2))
    poisoned_a, poisoned_b = torch.full_like(a, torch.nan), b.clone()
    for n in range(4):
        top, left, bottom, right = box[n if each else 0].tolist()
        poisoned_a[n, :, top:bottom, left:right] = a[n, :, top:bottom, left:right]
        poisoned_b[n, :, top:bottom, left:right] = torch.inf
    index = torch.arange(8).remainder(4)[:, None].expand(8, 2).int().contiguous()
    inner = box.repeat(2, 1) if each else box[0].contiguous()
    rest = (index, inner, whole, scale, kernel, False)
    got = emulated.composite_lr(poisoned_a, poisoned_b, *rest)
    expected = reference.composite_lr(a, b, *rest)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("each", [False, True], ids=["one box", "a box each"])
def test_pixels_that_are_no_numbers_reach_their_support(each: bool, value: float) -> None:
    """In the first and last rows and columns, and beside a rim; outputs elsewhere are numbers."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1, 1, 64, 64, generator=generator) for _ in range(2))
    for y, x in ((0, 30), (63, 62), (40, 0), (17, 63), (2, 2)):
        b[..., y, x] = value
    a[..., 23, 15] = value
    index, whole = torch.zeros(4, 2).int(), torch.tensor([0, 0, 64, 64]).int()
    box = torch.tensor([(8, 8, 24, 24), (2, 2, 24, 60), (0, 0, 33, 33), (20, 10, 64, 64)]).int()
    rest = (index, box if each else box[0].contiguous(), whole, 4, "matlab", False)
    got, expected = emulated.composite_lr(a, b, *rest), reference.composite_lr(a, b, *rest)
    assert 0 < (~expected.isfinite()).sum() < expected.numel() / 2
    assert torch.equal(got.isfinite(), expected.isfinite())


@pytest.mark.usefixtures("module")
@given(
    seed=st.integers(0, 2**31),
    side=st.sampled_from(SIDES[1:]),
    grid=st.integers(0, 4),
    count=st.integers(0, 3),
    dtype=st.sampled_from(FLOATS),
    layout=st.sampled_from(LAYOUTS),
)
@thorough
def test_mosaic(
    seed: int, side: int, grid: int, count: int, dtype: torch.dtype, layout: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tiles = images(count, 2, side, side, dtype, layout, generator)
    cells = torch.randint(0, 8, (count, grid, grid), generator=generator).int()
    got = emulated.mosaic(tiles, cells)
    torch.testing.assert_close(got, reference.mosaic(tiles, cells), rtol=0, atol=0)


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("scale", [8, 16, 40, 100, emulated.MAX_SCALE])
def test_tiles_shrink_for_large_scales(scale: int) -> None:
    """Slabs of rows, then smaller tiles, keep shared memory within its 48 KiB."""
    generator = torch.Generator().manual_seed(scale)
    height, width = 2 * scale, (10 if scale <= 16 else 2) * scale
    a, b = (images(1, 1, height, width, torch.float32, "contiguous", generator) for _ in range(2))
    box = torch.tensor([scale // 2, 1, 2 * scale - 3, width - scale // 2], dtype=torch.int32)
    whole = torch.tensor([0, 0, height, width], dtype=torch.int32)
    index = pairs(1, 1, 1, generator)
    arguments = (a, b, index, box, whole, scale, "matlab", False)
    got, expected = emulated.composite_lr(*arguments), reference.composite_lr(*arguments)
    torch.testing.assert_close(got, expected, rtol=0, atol=4e-6)


@pytest.mark.parametrize("kernel", ["matlab", "pil"])
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 7])
def test_bands_hold_the_weights_of_the_taps(scale: int, kernel: str) -> None:
    """Of every LR pixel in every image of 1 to 6: nothing is cut off, mirrored taps are added."""
    for count in range(1, 7):
        size = count * scale
        band = emulated.band_on(size, scale, kernel, torch.device("cpu"))
        matrix = torch.zeros(count, size + 8 * scale)  # room for what lies outside the image
        for i in range(count):
            first = 4 * scale + i * scale - 3 * scale // 2
            matrix[i, first : first + 4 * scale] = band[i]
        expected = torch.from_numpy(bicubic_matrix(size, scale, kernel).copy()).float()
        assert torch.equal(matrix[:, 4 * scale : 4 * scale + size], expected)
        assert matrix.count_nonzero() == expected.count_nonzero()


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("scale", [8, 16, 40, 100, emulated.MAX_SCALE])
@pytest.mark.parametrize("each", [False, True], ids=["one box", "a box each"])
def test_strips_of_shared_sources_shrink_for_large_scales(scale: int, each: bool) -> None:
    """As many pairs as sources, so that work per source pays off: strips have fewer rows."""
    generator = torch.Generator().manual_seed(scale)
    height, width = 3 * scale, (19 if scale <= 16 else 2) * scale
    a, b = (images(1, 4, height, width, torch.float32, "contiguous", generator) for _ in range(2))
    box = [boxes(2 if each else None, height, width, generator) for _ in range(2)]
    arguments = (a, b, pairs(2, 1, 1, generator), *box, scale, "matlab", False)
    got, expected = emulated.composite_lr(*arguments), reference.composite_lr(*arguments)
    torch.testing.assert_close(got, expected, rtol=0, atol=4e-6)


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("axis", ["images", "channels", "rows", "columns"])
@pytest.mark.parametrize("each", [False, True], ids=["one box", "a box each"])
def test_sources_beyond_32_bits(axis: str, each: bool) -> None:
    """Views whose elements lie 2^31 and more apart, in memory that is reserved, not used."""
    far = 2**31 + 16
    flat = torch.empty(0, dtype=torch.uint8)
    flat.set_(torch.UntypedStorage(far + 128))
    flat[:128] = torch.arange(128)
    flat[far:] = torch.arange(100, 228)
    shape, strides = {
        "images": ((2, 1, 8, 8), (far, 64, 8, 1)),
        "channels": ((1, 2, 8, 8), (64, far, 8, 1)),
        "rows": ((1, 1, 2, 64), (64, 64, far, 1)),
        "columns": ((1, 1, 64, 2), (64, 64, 1, far)),
    }[axis]
    source = flat.as_strided(shape, strides)
    generator = torch.Generator().manual_seed(0)
    count = 2 * len(source)
    index = pairs(count, len(source), len(source), generator)
    box = [boxes(count if each else None, *shape[2:], generator) for _ in range(2)]
    arguments = (index, *box, 2, "matlab", False)
    near = source.contiguous()
    expected = reference.composite_lr(near, near, *arguments)
    got = emulated.composite_lr(source, source, *arguments)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-6)


@pytest.mark.usefixtures("module")
def test_larger_scales_are_refused() -> None:
    size = emulated.MAX_SCALE + 1
    a = torch.zeros(1, 1, size, size)
    index, box = torch.zeros(1, 2, dtype=torch.int32), torch.zeros(4, dtype=torch.int32)
    with pytest.raises(InvalidArgument, match="scale: got 512; expected at most 511"):
        emulated.composite_lr(a, a, index, box, box, size, "matlab", False)


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("pair", [(-1, 0), (2, 0), (0, -1), (0, 3), (2**31 - 1, 0)])
@pytest.mark.parametrize("dtype", SOURCES)
def test_a_pair_out_of_range_gives_a_nan_image(pair: tuple[int, int], dtype: torch.dtype) -> None:
    """As on a GPU, where nobody looks at the values; its neighbours are untouched."""
    generator = torch.Generator().manual_seed(0)
    a = images(2, 2, 16, 24, dtype, "contiguous", generator)
    b = images(3, 2, 16, 24, dtype, "contiguous", generator)
    box = torch.tensor([4, 4, 12, 20], dtype=torch.int32)
    whole = torch.tensor([0, 0, 16, 24], dtype=torch.int32)
    for count in (3, 6):  # each pair on its own; per source
        for boxed in ((box, whole), (box.expand(count, 4).contiguous(), whole)):
            good = torch.zeros(count, 2, dtype=torch.int32)
            bad = good.clone()
            bad[1] = torch.tensor(pair)
            for operator, rest in (
                (emulated.composite, ()),
                (emulated.composite_lr, (4, "matlab", True)),
            ):
                expected = operator(a, b, good, *boxed, *rest)
                expected[1] = torch.nan
                got = operator(a, b, bad, *boxed, *rest)
                torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.usefixtures("module")
def test_an_unknown_transform_gives_a_nan_cell() -> None:
    tiles = torch.rand(1, 1, 8, 8)
    got = emulated.mosaic(tiles, torch.tensor([[[0, 8], [-1, 0]]], dtype=torch.int32))[0, 0]
    assert got[:8, 8:].isnan().all()
    assert got[8:, :8].isnan().all()
    assert torch.equal(got[:8, :8], tiles[0, 0])
    assert torch.equal(got[8:, 8:], tiles[0, 0])
