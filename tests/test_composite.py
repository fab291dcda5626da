"""The composite family: every backend against the reference, on every kind of input."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastbg
from fastbg.backends.torch_reference import composite as reference
from fastbg.errors import BackendUnavailable, InvalidArgument
from fastbg.testing import BackendUnderTest, moved

pytestmark = pytest.mark.usefixtures("poisoned_memory")

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
SOURCES = (*FLOATS, torch.uint8)
# One unit in the last place at 1.0, for results that were accumulated in float32.
ROUNDING = {torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
each_example_is_pure = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def images(
    rng: np.random.Generator,
    count: int,
    size: tuple[int, int, int],
    dtype: torch.dtype,
    layout: str,
) -> torch.Tensor:
    """Random (count, *size) images in one of several memory layouts."""
    levels = torch.from_numpy(rng.integers(0, 256, (count, *size), dtype=np.uint8))
    value = levels if dtype == torch.uint8 else (levels.float() / 255).to(dtype)
    if layout == "channels_last":
        return value.contiguous(memory_format=torch.channels_last)
    if layout == "strided":  # every second pixel of a wider buffer
        wide = torch.zeros((*value.shape[:-1], 2 * value.shape[-1]), dtype=dtype)
        wide[..., ::2] = value
        return wide[..., ::2]
    if layout == "transposed":
        return value.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "expanded":
        return value[:1].expand(count, *size)
    return value


LAYOUTS = ("contiguous", "channels_last", "strided", "transposed", "expanded")


def random_boxes(
    rng: np.random.Generator, shape: tuple[int, ...], height: int, width: int
) -> torch.Tensor:
    """Boxes inside a height x width image, empty ones included."""
    y = np.sort(rng.integers(0, height + 1, (*shape, 2)), -1)
    x = np.sort(rng.integers(0, width + 1, (*shape, 2)), -1)
    return torch.from_numpy(np.stack([y[..., 0], x[..., 0], y[..., 1], x[..., 1]], -1))


@st.composite
def cases(draw: st.DrawFn, scale: int = 1) -> dict[str, object]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = (scale * draw(st.integers(1, 37 // scale)) for _ in range(2))
    size = (draw(st.sampled_from([1, 3, 4])), height, width)
    first, second = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    count = draw(st.integers(0, 5))
    dtype = draw(st.sampled_from(SOURCES))
    return {
        "a": images(rng, first, size, dtype, draw(st.sampled_from(LAYOUTS))),
        "b": images(rng, second, size, dtype, draw(st.sampled_from(LAYOUTS))),
        "pairs": torch.from_numpy(rng.integers(0, [first, second], (count, 2))),
        "inner": random_boxes(rng, draw(st.sampled_from([(), (count,)])), height, width),
        "outer": random_boxes(rng, draw(st.sampled_from([(), (count,)])), height, width),
    }


def on(device: torch.device, case: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: moved(value, device) for name, value in case.items()}


@given(case=cases())
@each_example_is_pure
def test_composite_equals_reference(
    backend: BackendUnderTest, case: dict[str, torch.Tensor]
) -> None:
    expected = reference.composite(**case)
    got = fastbg.composite(**on(backend.device, case), backend=backend.name)
    assert got.device.type == backend.device.type
    torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=0)


@given(
    case=cases(scale=4),
    scale=st.sampled_from([1, 2, 4]),
    kernel=st.sampled_from(["matlab", "pil"]),
    quantize=st.booleans(),
)
@each_example_is_pure
def test_composite_lr_equals_down_sampled_composite(
    backend: BackendUnderTest,
    case: dict[str, torch.Tensor],
    scale: int,
    kernel: str,
    quantize: bool,
) -> None:
    got = fastbg.composite_lr(
        **on(backend.device, case),
        scale=scale,
        kernel=kernel,
        quantize=quantize,
        backend=backend.name,
    ).cpu()
    whole = {name: v.double() if v.is_floating_point() else v for name, v in case.items()}
    exact = reference.composite_lr(**whole, scale=scale, kernel=kernel, quantize=False).double()
    if quantize:
        exact = exact.clamp(0, 1)
        levels = got.double() * 255
        assert torch.all((levels - levels.round()).abs() <= 255 * ROUNDING[got.dtype])
        atol = 0.5 / 255 + 1e-6 + ROUNDING[got.dtype]
    else:
        atol = 2 * ROUNDING[got.dtype]
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=atol)


@pytest.mark.parametrize("suffix", ["", "_odd"])
def test_composite_lr_equals_matlab(
    backend: BackendUnderTest, bicubic_golden: dict[str, np.ndarray], suffix: str
) -> None:
    """Borders included; an untouched image and one composed of itself are the same."""
    hr = torch.from_numpy(bicubic_golden[f"hr{suffix}"]).permute(2, 0, 1)[None]
    expected = torch.from_numpy(bicubic_golden[f"lr_matlab{suffix}"]).permute(2, 0, 1)[None]
    source = moved(hr, backend.device)
    got = fastbg.composite_lr(source, source, [[0, 0]], (31, 17, 99, 101), backend=backend.name)
    torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=1e-6)


def test_composite_lr_is_within_one_grey_level_of_pillow(
    backend: BackendUnderTest, bicubic_golden: dict[str, np.ndarray]
) -> None:
    hr = torch.from_numpy(bicubic_golden["hr"]).permute(2, 0, 1)[None].to(backend.device)
    expected = torch.from_numpy(bicubic_golden["lr_pil"]).permute(2, 0, 1)[None]
    empty = (0, 0, 0, 0)
    got = fastbg.composite_lr(
        hr, hr, [[0, 0]], empty, empty, kernel="pil", quantize=True, backend=backend.name
    )
    difference = (got.cpu() * 255).round() - expected
    assert difference.abs().max() <= 1


def test_unselected_pixels_never_leak(backend: BackendUnderTest) -> None:
    """NaN and infinity outside of the taken region change nothing, also not as 0 * NaN."""
    a, b = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    inner = (8, 8, 24, 24)
    clean = fastbg.composite_lr(a, b, [[0, 0]], inner, backend="torch")
    poisoned_a, poisoned_b = torch.full_like(a, torch.nan), b.clone()
    poisoned_a[..., 8:24, 8:24] = a[..., 8:24, 8:24]
    poisoned_b[..., 8:24, 8:24] = torch.inf
    for boxes in (inner, [inner]):
        got = fastbg.composite_lr(
            moved(poisoned_a, backend.device),
            moved(poisoned_b, backend.device),
            [[0, 0]],
            boxes,
            backend=backend.name,
        )
        torch.testing.assert_close(got.cpu(), clean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_selected_non_numbers_reach_exactly_their_support(
    backend: BackendUnderTest, value: float
) -> None:
    a, b = torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32)
    b[..., 1, 2] = value
    a[..., 15, 15] = value
    inner = (8, 8, 24, 24)
    expected = fastbg.composite_lr(a, b, [[0, 0]], inner, backend="torch")
    assert 0 < (~expected.isfinite()).sum() < expected.numel() / 2
    for boxes in (inner, [inner]):
        got = fastbg.composite_lr(
            moved(a, backend.device),
            moved(b, backend.device),
            [[0, 0]],
            boxes,
            backend=backend.name,
        )
        assert torch.equal(got.cpu().isfinite(), expected.isfinite())


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 3),
    grid=st.integers(1, 5),
    side=st.integers(1, 19),
    dtype=st.sampled_from(FLOATS),
    layout=st.sampled_from(LAYOUTS),
)
@each_example_is_pure
def test_mosaic_equals_reference(
    backend: BackendUnderTest,
    seed: int,
    count: int,
    grid: int,
    side: int,
    dtype: torch.dtype,
    layout: str,
) -> None:
    rng = np.random.default_rng(seed)
    tiles = images(rng, count, (3, side, side), dtype, layout)
    cells = torch.from_numpy(rng.integers(0, len(fastbg.Transform), (count, grid, grid)))
    got = fastbg.mosaic(moved(tiles, backend.device), cells, backend=backend.name)
    torch.testing.assert_close(got.cpu(), reference.mosaic(tiles, cells), rtol=0, atol=0)


def test_mosaic_transforms_are_numpys() -> None:
    """The meaning of each code, spelled with numpy on a tile that has no symmetry."""
    tile = np.arange(36.0, dtype=np.float32).reshape(6, 6)
    zoom = {z: np.kron(tile, np.ones((z, z), np.float32)) for z in (2, 4)}
    expected = {
        "IDENTITY": tile,
        "FLIP_HORIZONTAL": tile[:, ::-1],
        "FLIP_VERTICAL": tile[::-1],
        "ROTATE_90": np.rot90(tile),
        "ROTATE_180": np.rot90(tile, 2),
        "ROTATE_270": np.rot90(tile, 3),
        "ZOOM_2": zoom[2][3:9, 3:9],
        "ZOOM_4": zoom[4][9:15, 9:15],
    }
    for code in fastbg.Transform:
        got = fastbg.mosaic(torch.from_numpy(tile)[None, None], [[[int(code)]]])
        np.testing.assert_array_equal(got[0, 0].numpy(), expected[code.name], err_msg=code.name)


def test_mosaic_of_oblong_tiles(backend: BackendUnderTest) -> None:
    tiles = torch.rand(1, 3, 5, 8)
    cells = torch.tensor([[[0, 1, 2], [4, 6, 7], [0, 0, 0]]])
    got = fastbg.mosaic(moved(tiles, backend.device), cells, backend=backend.name)
    torch.testing.assert_close(got.cpu(), reference.mosaic(tiles, cells), rtol=0, atol=0)
    with pytest.raises(InvalidArgument, match="cells: got a quarter turn"):
        fastbg.mosaic(tiles, cells + 3 - 3 * (cells > 4).int())


class TestAutograd:
    pairs = torch.tensor([[0, 1], [1, 1], [0, 0]])
    inner, outer = torch.tensor([2, 1, 4, 4]), torch.tensor([1, 0, 6, 5])

    def test_gradcheck(self) -> None:
        a, b = (torch.rand(2, 1, 6, 5, dtype=torch.float64, requires_grad=True) for _ in "ab")

        def run(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return fastbg.composite(a, b, self.pairs, self.inner, self.outer)

        assert torch.autograd.gradcheck(run, (a, b))
        assert torch.autograd.gradgradcheck(run, (a, b))

    def test_every_backend_has_the_references_gradient(self, backend: BackendUnderTest) -> None:
        sources = [torch.rand(2, 3, 6, 5) for _ in "ab"]
        upstream = torch.rand(3, 3, 6, 5)
        gradients = []
        for name, device in (("torch", torch.device("cpu")), (backend.name, backend.device)):
            a, b = (moved(x, device).requires_grad_() for x in sources)
            out = fastbg.composite(a, b, self.pairs, self.inner, self.outer, backend=name)
            gradients.append(
                [g.cpu() for g in torch.autograd.grad(out, (a, b), moved(upstream, device))]
            )
        torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-6)

    def test_opcheck(self, backend: BackendUnderTest) -> None:
        device = backend.device
        a, b = (torch.rand(2, 3, 8, 8, device=device, requires_grad=True) for _ in "ab")
        integers = [t.int().to(device) for t in (self.pairs, self.inner, self.outer)]
        torch.library.opcheck(torch.ops.fastbg.composite.default, (a, b, *integers, backend.name))
        torch.library.opcheck(
            torch.ops.fastbg.composite_lr.default,
            (a.detach(), b.detach(), *integers, 4, "matlab", False, backend.name),
        )
        cells = torch.zeros(2, 3, 3, dtype=torch.int32, device=device)
        torch.library.opcheck(torch.ops.fastbg.mosaic.default, (a.detach(), cells, backend.name))

    def test_compiles_without_a_graph_break(self) -> None:
        a, b = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)

        def pipeline(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            small = fastbg.composite_lr(a, b, self.pairs, self.inner, self.outer)
            whole = fastbg.composite(a, b, self.pairs, self.inner, self.outer)
            return small.mean() + whole.mean()

        compiled = torch.compile(pipeline, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(a, b), pipeline(a, b))


class TestBadInput:
    a = torch.rand(2, 3, 8, 8)
    box = (2, 2, 6, 6)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"a": torch.rand(3, 8, 8)},
                r"a: got shape \(3, 8, 8\); expected shape \(B, C, H, W\)",
            ),
            ({"a": torch.zeros(2, 3, 8, 8, dtype=torch.int64)}, "a: got torch.int64"),
            ({"a": [[1.0]]}, "a: got list; expected a torch.Tensor"),
            ({"b": torch.rand(2, 3, 8, 8).half()}, "b: got torch.float16; expected a's dtype"),
            ({"b": torch.rand(2, 3, 8, 9)}, r"b: got shape \(2, 3, 8, 9\)"),
            ({"b": torch.rand(2, 3, 8, 8, device="meta")}, "b: got device meta"),
            ({"pairs": [[0, 2]]}, r"pairs\[:, 1\]: got 2; expected 0 <= index < 2"),
            ({"pairs": [[-1, 0]]}, r"pairs\[:, 0\]: got -1"),
            ({"pairs": [0, 1]}, r"pairs: got shape \(2,\)"),
            ({"pairs": torch.rand(1, 2)}, "pairs: got torch.float32; expected integers"),
            ({"inner": (0, 0, 9, 8)}, r"inner: got \[0, 0, 9, 8\]; expected .* y1 <= 8"),
            ({"inner": (4, 0, 2, 8)}, r"inner: got \[4, 0, 2, 8\]"),
            ({"outer": (0, -1, 8, 8)}, r"outer: got \[0, -1, 8, 8\]"),
            (
                {"outer": [(0, 0, 8, 8)] * 2},
                r"outer: got shape \(2, 4\); expected \(4,\) or \(1, 4\)",
            ),
            ({"backend": "gpu"}, "backend: got 'gpu'; expected one of"),
        ],
    )
    def test_composite_names_the_argument(self, change: dict[str, object], message: str) -> None:
        arguments = {"a": self.a, "b": self.a, "pairs": [[0, 1]], "inner": self.box, **change}
        with pytest.raises(InvalidArgument, match=message):
            fastbg.composite(**arguments)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"scale": 3},
                "scale: got 3; expected an integer >= 1 that divides the image size 8x8",
            ),
            ({"scale": 0}, "scale: got 0"),
            ({"kernel": "lanczos"}, "kernel: got 'lanczos'; expected one of"),
        ],
    )
    def test_composite_lr_names_the_argument(self, change: dict[str, object], message: str) -> None:
        with pytest.raises(InvalidArgument, match=message):
            fastbg.composite_lr(self.a, self.a, [[0, 1]], self.box, **change)

    @pytest.mark.parametrize(
        ("cells", "message"),
        [
            ([[[8]], [[0]]], "cells: got 8; expected codes 0 to 7"),
            ([[[0, 1]], [[0, 1]]], r"cells: got shape \(2, 1, 2\); expected shape \(2, g, g\)"),
            ([[[0]]], r"cells: got shape \(1, 1, 1\)"),
        ],
    )
    def test_mosaic_names_the_argument(self, cells: list[list[list[int]]], message: str) -> None:
        with pytest.raises(InvalidArgument, match=message):
            fastbg.mosaic(self.a, cells)

    def test_a_named_backend_never_falls_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRITON_INTERPRET", "0")
        with pytest.raises(BackendUnavailable, match="backend 'triton' cannot run composite: "):
            fastbg.composite(self.a, self.a, [[0, 1]], self.box, backend="triton")
        monkeypatch.setenv("FASTBG_BACKEND", "triton")
        with pytest.raises(
            BackendUnavailable, match=r"(it computes on NVIDIA GPUs|triton is not installed)"
        ):
            fastbg.composite(self.a, self.a, [[0, 1]], self.box)
        monkeypatch.setenv("FASTBG_BACKEND", "fast")
        with pytest.raises(InvalidArgument, match="FASTBG_BACKEND: got 'fast'"):
            fastbg.composite(self.a, self.a, [[0, 1]], self.box)

    def test_float64_is_left_to_the_reference(self) -> None:
        a = self.a.double()
        assert fastbg.composite(a, a, [[0, 1]], self.box).dtype == torch.float64
        with pytest.raises(
            BackendUnavailable, match="float64 is computed by the torch backend only"
        ):
            fastbg.composite(a, a, [[0, 1]], self.box, backend="cpu")


def test_grey_levels_as_floats_are_refused_where_they_would_be_clipped() -> None:
    """Without `quantize` the result is as real as the sources, in any range."""
    grey = torch.randint(0, 256, (1, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    whole = {"pairs": [[0, 0]], "inner": (4, 4, 12, 12), "scale": 4}
    for a, b, name in ((grey.float(), grey / 255, "a"), (grey / 255, grey.float(), "b")):
        with pytest.raises(InvalidArgument, match=rf"^{name}: got values from 0 to 25\d; expected"):
            fastbg.composite_lr(a, b, **whole, quantize=True)
    real = fastbg.composite_lr(grey.float(), grey.float(), **whole)
    torch.testing.assert_close(real / 255, fastbg.composite_lr(grey / 255, grey / 255, **whole))
    levels = fastbg.composite_lr(*[grey.to(torch.uint8)] * 2, **whole, quantize=True)
    assert torch.equal(levels, fastbg.composite_lr(grey / 255, grey / 255, **whole, quantize=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensors_keep_their_layout_on_the_way_to_a_device(layout: str) -> None:
    value = images(np.random.default_rng(0), 3, (2, 5, 6), torch.float32, layout)[1:, :, 1:]
    there = moved(value, torch.device("cpu"))
    assert there.stride() == value.stride()
    assert there.storage_offset() == value.storage_offset()
    assert torch.equal(there, value)
    assert there.data_ptr() != value.data_ptr()
    meta = moved(value, torch.device("meta"))
    assert (meta.shape, meta.stride()) == (value.shape, value.stride())
