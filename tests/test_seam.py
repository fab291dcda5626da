"""Composites with a bridged seam: a pixel-by-pixel oracle, and every backend against it."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runnable_backend import runnable
from test_composite import LAYOUTS, ROUNDING, SOURCES, images, on, random_boxes

import fastbg
from fastbg.backends.torch_reference import seam as reference
from fastbg.errors import BackendUnavailable, InvalidArgument
from fastbg.filters.seam import LEAST_WEIGHT
from fastbg.registration import dispatch
from fastbg.registration.dispatch import BACKENDS, Place
from fastbg.testing import BackendUnderTest, moved

pytestmark = pytest.mark.usefixtures("poisoned_memory")

TAUS = (0.05, 0.5, 1.0, 2.0, 4.0, 16.0, 1e3, 1e9)
OPERATORS = ("bridged_composite", "bridged_composite_lr")
each_example_is_pure = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=tuple(BACKENDS))
def backend(request: pytest.FixtureRequest) -> BackendUnderTest:
    return runnable(request.param, "bridged_composite")


def oracle(
    a: np.ndarray,
    b: np.ndarray,
    inner: list[int],
    outer: list[int],
    tau: float,
    least: float = LEAST_WEIGHT,
) -> np.ndarray:
    """One channel (H,W), float64, pixel by pixel, as the docstring of `composite` says it."""
    height, width = a.shape
    oy0, ox0, oy1, ox1 = outer
    iy0, ix0 = max(inner[0], oy0), max(inner[1], ox0)
    iy1, ix1 = min(inner[2], oy1), min(inner[3], ox1)
    kept_box = {(y, x) for y in range(iy0, iy1) for x in range(ix0, ix1)}

    def weight(distance: int) -> float:
        exponent = (distance - 1) / tau
        found = math.exp(-exponent) if exponent < 700 else 0.0
        return found if found >= least else 0.0

    def between(value: int, low: int, high: int) -> int:
        return sorted((low, value, high))[1]

    def of_side(y: int, x: int, inside: tuple[int, int], beyond: tuple[int, int]) -> float:
        return 0.0 if inside in kept_box else float(a[beyond] - b[inside])

    out = a.copy()
    for y, x in itertools.product(range(height), range(width)):
        if not (oy0 <= y < oy1 and ox0 <= x < ox1) or (y, x) in kept_box:
            continue
        corrections = []
        if kept_box:
            n = between(y, iy0, iy1 - 1), between(x, ix0, ix1 - 1)
            r = (
                between(y, max(iy0 - 1, 0), min(iy1, height - 1)),
                between(x, max(ix0 - 1, 0), min(ix1, width - 1)),
            )
            w = weight(max(abs(y - n[0]), abs(x - n[1])))
            if w > 0:
                corrections.append(w * (a[n] - b[r]))
        rows, columns = {}, {}
        if oy0 > 0:
            rows["top"] = y - oy0 + 1, (oy0, x), (oy0 - 1, x)
        if oy1 < height:
            rows["bottom"] = oy1 - y, (oy1 - 1, x), (oy1, x)
        if ox0 > 0:
            columns["left"] = x - ox0 + 1, (y, ox0), (y, ox0 - 1)
        if ox1 < width:
            columns["right"] = ox1 - x, (y, ox1 - 1), (y, ox1)
        axes = []  # distance and mean correction of the nearest rows, of the nearest columns
        for sides in (rows, columns):
            if sides:
                d = min(side[0] for side in sides.values())
                nearest = [of_side(y, x, *s[1:]) for s in sides.values() if s[0] == d]
                axes.append((d, sum(nearest) / len(nearest)))
        if axes:
            d = min(axis[0] for axis in axes)
            nearest = [axis[1] for axis in axes if axis[0] == d]
            if weight(d) > 0:
                corrections.append(weight(d) * sum(nearest) / len(nearest))
        out[y, x] = b[y, x]
        if corrections:
            out[y, x] = min(max(b[y, x] + sum(corrections), 0.0), 1.0)
    return out


def composed(
    a: torch.Tensor,
    b: torch.Tensor,
    pairs: torch.Tensor,
    inner: torch.Tensor,
    outer: torch.Tensor,
    tau: float,
) -> torch.Tensor:
    """The oracle on all pairs and channels, float64."""
    a, b = (x.double() / (255 if x.dtype == torch.uint8 else 1) for x in (a, b))
    out = torch.empty((len(pairs), *a.shape[1:]), dtype=torch.float64)
    for n, (i, j) in enumerate(pairs.tolist()):
        boxes = [(box if box.dim() == 1 else box[n]).tolist() for box in (inner, outer)]
        for c in range(a.shape[1]):
            out[n, c] = torch.from_numpy(oracle(a[i, c].numpy(), b[j, c].numpy(), *boxes, tau))
    return out


def ring_boxes(
    rng: np.random.Generator, shape: tuple[int, ...], height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """An outer box and an inner one inside it, each side on the image's border now and then."""
    outer = random_boxes(rng, shape, height, width)
    whole = torch.tensor([0, 0, height, width])
    outer = torch.where(torch.from_numpy(rng.random((*shape, 4)) < 0.4), whole, outer)
    low, high = outer[..., :2], outer[..., 2:]
    inside = torch.from_numpy(np.sort(rng.random((2, *shape, 2)), 0))
    inner = torch.cat([low + (u * (high - low + 1)).long() for u in inside], -1)
    return torch.minimum(inner, torch.cat([high, high], -1)), outer


@st.composite
def cases(draw: st.DrawFn, scale: int = 1, longest: int = 24) -> dict[str, object]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = (scale * draw(st.integers(1, longest // scale)) for _ in range(2))
    size = (draw(st.sampled_from([1, 3])), height, width)
    first, second = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    count = draw(st.integers(0, 4))
    dtype = draw(st.sampled_from(SOURCES))
    shape = draw(st.sampled_from([(), (count,)]))
    if draw(st.booleans()):
        inner, outer = ring_boxes(rng, shape, height, width)
    else:  # also boxes that overlap by chance, and one box of one kind with many of the other
        inner = random_boxes(rng, shape, height, width)
        outer = random_boxes(rng, draw(st.sampled_from([(), (count,)])), height, width)
    return {
        "a": images(rng, first, size, dtype, draw(st.sampled_from(LAYOUTS))),
        "b": images(rng, second, size, dtype, draw(st.sampled_from(LAYOUTS))),
        "pairs": torch.from_numpy(rng.integers(0, [first, second], (count, 2))),
        "inner": inner,
        "outer": outer,
    }


@given(case=cases(longest=14), tau=st.sampled_from(TAUS))
@settings(each_example_is_pure, max_examples=100)
def test_the_reference_equals_the_oracle(case: dict[str, torch.Tensor], tau: float) -> None:
    wide = {name: v.double() if v.is_floating_point() else v for name, v in case.items()}
    got = fastbg.composite(**wide, seam=tau, backend="torch")
    atol = 1e-12 if got.dtype == torch.float64 else 1e-6
    torch.testing.assert_close(got.double(), composed(**case, tau=tau), rtol=0, atol=atol)


def longest(backend: BackendUnderTest) -> int:
    """Longest side of the images: an interpreter is slow."""
    return 16 if backend.name == "triton" and backend.device.type == "cpu" else 44


@given(data=st.data(), tau=st.sampled_from(TAUS))
@each_example_is_pure
def test_composite_equals_reference(
    backend: BackendUnderTest, data: st.DataObject, tau: float
) -> None:
    case = data.draw(cases(longest=longest(backend)))
    expected = reference.bridged_composite(**case, tau=tau)
    got = fastbg.composite(**on(backend.device, case), seam=tau, backend=backend.name)
    assert got.device.type == backend.device.type
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=ROUNDING[got.dtype])


@given(
    data=st.data(),
    tau=st.sampled_from(TAUS),
    scale=st.sampled_from([1, 2, 4]),
    kernel=st.sampled_from(["matlab", "pil"]),
    quantize=st.booleans(),
)
@each_example_is_pure
def test_composite_lr_equals_down_sampled_composite(
    backend: BackendUnderTest,
    data: st.DataObject,
    tau: float,
    scale: int,
    kernel: str,
    quantize: bool,
) -> None:
    case = data.draw(cases(scale=4, longest=longest(backend)))
    options = {"scale": scale, "kernel": kernel}
    got = fastbg.composite_lr(
        **on(backend.device, case), seam=tau, **options, quantize=quantize, backend=backend.name
    ).cpu()
    whole = {name: v.double() if v.is_floating_point() else v for name, v in case.items()}
    exact = reference.bridged_composite_lr(**whole, tau=tau, **options, quantize=False).double()
    atol = 2 * ROUNDING[got.dtype]
    if quantize:
        exact = exact.clamp(0, 1)
        levels = got.double() * 255
        assert torch.all((levels - levels.round()).abs() <= 255 * ROUNDING[got.dtype])
        atol = 0.5 / 255 + 1e-6 + ROUNDING[got.dtype]
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=atol)


@pytest.mark.parametrize("boxes", [((9, 7, 20, 21), None), ((12, 12, 18, 17), (5, 6, 28, 26))])
def test_what_the_seam_is_for(
    backend: BackendUnderTest, boxes: tuple[tuple[int, ...], tuple[int, ...] | None]
) -> None:
    """Beside the inner box the jump is b's own beside its rim; a's pixels are untouched."""
    a, b = torch.rand(1, 3, 32, 31) / 4 + 0.5, torch.rand(1, 3, 32, 31) / 4 + 0.25
    sources = (moved(a, backend.device), moved(b, backend.device), [[0, 0]], *boxes)
    hard = fastbg.composite(*sources, backend=backend.name).cpu()
    got = fastbg.composite(*sources, seam=0.01, backend=backend.name).cpu()
    kept = hard == a
    assert torch.equal(got[kept], a[kept])
    (y0, x0, y1, x1), outer = boxes
    torch.testing.assert_close(got[..., y0 - 1, x0:x1], a[..., y0, x0:x1])
    torch.testing.assert_close(got[..., y0:y1, x1], a[..., y0:y1, x1 - 1])
    torch.testing.assert_close(got[..., y1, x1], a[..., y1 - 1, x1 - 1])
    if outer is not None:
        torch.testing.assert_close(got[..., outer[0], 8:20], a[..., outer[0] - 1, 8:20])
        torch.testing.assert_close(got[..., 8:20, outer[3] - 1], a[..., 8:20, outer[3]])


@pytest.mark.parametrize("seam", [1.0, 3.0])
def test_a_constant_image_in_itself_is_itself(backend: BackendUnderTest, seam: float) -> None:
    """Others are not: neighbours across the rim differ in an image, too."""
    a = torch.full((1, 2, 24, 24), 0.25, device=backend.device)
    for outer in (None, (3, 3, 20, 22)):
        got = fastbg.composite(
            a, a, [[0, 0]], (8, 8, 15, 16), outer, seam=seam, backend=backend.name
        )
        assert torch.equal(got, a)


def test_symmetric_under_flips_and_transposition(backend: BackendUnderTest) -> None:
    rng = np.random.default_rng(5)
    a, b = (images(rng, 1, (2, 20, 20), torch.float32, "contiguous") for _ in range(2))
    inner, outer = torch.tensor([7, 6, 12, 13]), torch.tensor([3, 2, 18, 17])

    def run(a: torch.Tensor, b: torch.Tensor, *boxes: torch.Tensor) -> torch.Tensor:
        a, b = moved(a, backend.device), moved(b, backend.device)
        return fastbg.composite(a, b, [[0, 0]], *boxes, seam=3.0, backend=backend.name).cpu()

    whole = run(a, b, inner, outer)
    turned = [torch.stack([20 - box[2], box[1], 20 - box[0], box[3]]) for box in (inner, outer)]
    swapped = [box[[1, 0, 3, 2]] for box in (inner, outer)]
    torch.testing.assert_close(run(a.flip(2), b.flip(2), *turned), whole.flip(2))
    torch.testing.assert_close(run(a.mT, b.mT, *swapped), whole.mT)


@pytest.mark.parametrize("tau", [0.7, 2.0, 5.0])
def test_the_reach_ends_where_nothing_can_be_seen(backend: BackendUnderTest, tau: float) -> None:
    """Within 1/1000 grey level of a bridge without an end; beyond it b, unclipped."""
    a = torch.ones(1, 1, 96, 96)
    b = torch.zeros(1, 1, 96, 96)
    b[..., -1] = 1.5
    inner = [4, 3, 10, 12]
    got = fastbg.composite(
        moved(a, backend.device),
        moved(b, backend.device),
        [[0, 0]],
        inner,
        seam=tau,
        backend=backend.name,
    )[0, 0].cpu()
    full = oracle(a[0, 0].numpy(), b[0, 0].numpy(), inner, [0, 0, 96, 96], tau, least=0.0)
    assert np.abs(got.numpy() - full)[:, :-1].max() <= 1 / (255 * 1000)
    far = int(tau * math.log(1 / LEAST_WEIGHT)) + 2  # distance
    assert (got[:, 11 + far :] == b[0, 0, :, 11 + far :]).all()
    assert (got[4:10, 11 + far - 1] > 0).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_unselected_pixels_never_leak(backend: BackendUnderTest, value: float) -> None:
    """All that the bridge reads is shown: a outside of the ring and in it, b in the ring."""
    rng = np.random.default_rng(3)
    a, b = (images(rng, 1, (2, 32, 36), torch.float32, "contiguous") for _ in range(2))
    for boxes in (
        ((8, 8, 24, 24), (0, 0, 32, 36)),
        ((8, 8, 24, 24), (4, 5, 28, 33)),
        ((8, 8, 24, 24), (8, 2, 28, 24)),  # the inner box at two of the outer one's sides
        ((2, 8, 24, 34), (5, 5, 28, 30)),  # and across two of them
        ((0, 0, 4, 4), (9, 9, 20, 20)),  # apart
        ((0, 0, 0, 0), (9, 9, 20, 20)),
        ((0, 0, 12, 9), (0, 0, 32, 36)),
    ):
        inner, outer = boxes
        taken = reference.taken_from_b(torch.tensor(inner), torch.tensor(outer), 32, 36)
        poisoned = (torch.where(taken, value, a), torch.where(taken, b, value))
        for run in (fastbg.composite, fastbg.composite_lr):
            for shaped in (boxes, ([inner], [outer])):
                clean = run(a, b, [[0, 0]], *shaped, seam=3.0, backend="torch")
                sources = (moved(x, backend.device) for x in poisoned)
                got = run(*sources, [[0, 0]], *shaped, seam=3.0, backend=backend.name)
                torch.testing.assert_close(got.cpu(), clean, rtol=0, atol=1e-6)


def test_selected_non_numbers_reach_what_the_references_reach(backend: BackendUnderTest) -> None:
    a, b = torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32)
    b[..., 7, 10] = torch.nan  # beside the inner box
    b[..., 20, 26] = torch.nan
    a[..., 12, 8] = torch.nan
    boxes = ((8, 8, 24, 24), (2, 2, 30, 32))
    for run in (fastbg.composite, fastbg.composite_lr):
        expected = run(a, b, [[0, 0]], *boxes, seam=0.4, backend="torch")
        assert 0 < (~expected.isfinite()).sum() < expected.numel()
        sources = (moved(x, backend.device) for x in (a, b))
        got = run(*sources, [[0, 0]], *boxes, seam=0.4, backend=backend.name)
        assert torch.equal(got.cpu().isfinite(), expected.isfinite())


def test_grey_levels_are_rounded_once(backend: BackendUnderTest) -> None:
    """Not before the bridge, not after it: 8-bit sources give what their floats give."""
    rng = np.random.default_rng(1)
    a, b = (images(rng, 1, (3, 20, 20), torch.uint8, "contiguous") for _ in range(2))
    for run in (fastbg.composite, fastbg.composite_lr):
        results = [
            run(
                moved(x, backend.device),
                moved(y, backend.device),
                [[0, 0]],
                (6, 6, 14, 13),
                seam=2.0,
                backend=backend.name,
            )
            for x, y in ((a, b), (a.float() / 255, b.float() / 255))
        ]
        torch.testing.assert_close(*results, rtol=0, atol=1e-6)


class TestAutograd:
    pairs = torch.tensor([[0, 1], [1, 1], [0, 0]])
    boxes = (
        ((2, 1, 4, 4), (0, 0, 7, 6)),
        ((3, 2, 5, 4), (1, 1, 6, 6)),
        ([(3, 2, 5, 4), (0, 0, 0, 0), (0, 1, 7, 3)], (1, 1, 6, 6)),
    )

    @pytest.mark.parametrize("boxes", boxes)
    def test_gradcheck(self, boxes: tuple[object, object]) -> None:
        """Values in the middle of [0,1], and values of which the bridge clips some."""
        for spread in (0.05, 1.0):
            torch.manual_seed(0)
            a, b = (
                (
                    torch.rand(2, 1, 7, 6, dtype=torch.float64) * spread + (1 - spread) / 2
                ).requires_grad_()
                for _ in "ab"
            )

            def run(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
                return fastbg.composite(a, b, self.pairs, *boxes, seam=1.5)

            if spread == 1.0:
                assert ((run(a, b) == 0) | (run(a, b) == 1)).any()
            assert torch.autograd.gradcheck(run, (a, b))
            assert torch.autograd.gradgradcheck(run, (a, b))

    def test_the_ends_of_the_range_pass_gradients_as_torch_clamp_does(self) -> None:
        """A step from 0 to 1 reaches exactly 1 beside the rim; further steps exceed it."""
        a = torch.ones(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
        b = torch.zeros(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
        out = fastbg.composite(a, b, [[0, 0]], (0, 0, 3, 1), seam=1.0)
        of_a, of_b = torch.autograd.grad(out[..., 1].sum(), (a, b))
        assert torch.equal(of_a[0, 0, :, 0], torch.ones(3, dtype=torch.float64))
        assert torch.equal(of_b, torch.zeros_like(b))  # +1 as the pixel, -1 as the rim's

    def test_every_backend_has_the_references_gradient(self, backend: BackendUnderTest) -> None:
        sources = [torch.rand(2, 3, 7, 6) for _ in "ab"]
        upstream = torch.rand(3, 3, 7, 6)
        gradients = []
        for name, device in (("torch", torch.device("cpu")), (backend.name, backend.device)):
            a, b = (moved(x, device).requires_grad_() for x in sources)
            out = fastbg.composite(a, b, self.pairs, *self.boxes[1], seam=2.0, backend=name)
            gradients.append(
                [g.cpu() for g in torch.autograd.grad(out, (a, b), moved(upstream, device))]
            )
        torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-5)

    def test_opcheck(self, backend: BackendUnderTest) -> None:
        device = backend.device
        a, b = (torch.rand(2, 3, 8, 8, device=device, requires_grad=True) for _ in "ab")
        boxes = (torch.tensor(box) for box in ((3, 2, 5, 4), (1, 1, 6, 6)))
        integers = [t.int().to(device) for t in (self.pairs, *boxes)]
        torch.library.opcheck(
            torch.ops.fastbg.bridged_composite.default, (a, b, *integers, 2.0, backend.name)
        )
        torch.library.opcheck(
            torch.ops.fastbg.bridged_composite_lr.default,
            (a.detach(), b.detach(), *integers, 2.0, 4, "matlab", False, backend.name),
        )

    def test_compiles_without_a_graph_break(self) -> None:
        a, b = (torch.rand(2, 3, 8, 8, requires_grad=True) for _ in "ab")
        inner, outer = torch.tensor([3, 2, 5, 4]), torch.tensor([1, 1, 6, 6])

        def pipeline(a: torch.Tensor, b: torch.Tensor, tau: float) -> torch.Tensor:
            small = fastbg.composite_lr(a.detach(), b.detach(), self.pairs, inner, outer, seam=tau)
            whole = fastbg.composite(a, b, self.pairs, inner, outer, seam=tau)
            return small.mean() + whole.square().mean()

        compiled = torch.compile(pipeline, fullgraph=True, backend="aot_eager")
        for tau in (2.0, 3.0, 4.5):
            expected, got = pipeline(a, b, tau), compiled(a, b, tau)
            torch.testing.assert_close(got, expected)
            torch.testing.assert_close(
                torch.autograd.grad(got, (a, b)), torch.autograd.grad(expected, (a, b))
            )

    def test_vmap_is_one_call_after_the_other(self, backend: BackendUnderTest) -> None:
        a, b = (torch.rand(3, 2, 3, 8, 8, device=backend.device) for _ in "ab")

        def run(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return fastbg.composite(a, b, self.pairs, (3, 2, 5, 4), seam=2.0, backend=backend.name)

        expected = torch.stack([run(x, y) for x, y in zip(a, b, strict=True)])
        assert torch.equal(torch.vmap(run)(a, b), expected)


class TestBadInput:
    a = torch.rand(2, 3, 8, 8)
    box = (2, 2, 6, 6)

    @pytest.mark.parametrize(
        "seam", [0, -1.0, 0.0, math.nan, math.inf, "soft", "2", True, None, [2.0], 1j]
    )
    @pytest.mark.parametrize("run", [fastbg.composite, fastbg.composite_lr])
    def test_seam_is_named(self, run: object, seam: object) -> None:
        with pytest.raises(InvalidArgument, match=r'seam: got .*; expected "hard" or a decay len'):
            run(self.a, self.a, [[0, 1]], self.box, seam=seam)

    @pytest.mark.parametrize("seam", [1, 2.5, np.float32(2), np.int64(3), 1e-300, 1e300])
    def test_seam_is_any_length(self, seam: object) -> None:
        small = fastbg.composite_lr(self.a, self.a, [[0, 1]], self.box, seam=seam)
        whole = fastbg.composite(self.a, self.a, [[0, 1]], self.box, seam=seam)
        assert small.isfinite().all()
        assert whole.isfinite().all()

    def test_pairs_and_boxes_are_looked_at(self) -> None:
        for run in (fastbg.composite, fastbg.composite_lr):
            with pytest.raises(InvalidArgument, match=r"pairs\[:, 1\]: got 2"):
                run(self.a, self.a, [[0, 2]], self.box, seam=2.0)
            with pytest.raises(InvalidArgument, match=r"inner: got \[0, 0, 9, 8\]"):
                run(self.a, self.a, [[0, 1]], (0, 0, 9, 8), seam=2.0)


def test_hard_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same operator with the same arguments."""
    a = torch.rand(2, 3, 8, 8)
    calls = []
    for name in ("composite", "composite_lr"):
        for module, other in (("composite", name), ("seam", f"bridged_{name}")):
            path = f"fastbg.registration.{module}.{other}"
            monkeypatch.setattr(path, lambda *args, other=other: calls.append((other, len(args))))
        run = getattr(fastbg, name)
        run(a, a, [[0, 1]], (2, 2, 6, 6))
        run(a, a, [[0, 1]], (2, 2, 6, 6), seam="hard")
    assert calls == [("composite", 6)] * 2 + [("composite_lr", 9)] * 2


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_that_has_no_bridge_says_so(
    name: str, op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And "auto" takes one that has; with a hard seam nothing changes."""
    place = Place(torch.device("cpu"), torch.float32)
    if name == "torch":
        assert dispatch.unavailable(op, name, place) is None
        return
    plain = dispatch.unavailable("composite", name, place)
    found = dispatch._module

    def without(backend: str, family: str) -> object:
        return None if (backend, family) == (name, "seam") else found(backend, family)

    monkeypatch.setattr(dispatch, "_module", without)
    assert dispatch.unavailable("composite", name, place) == plain
    if plain is None:
        with pytest.raises(BackendUnavailable, match=f"{op}: {op} is not written for it"):
            dispatch.select(op, place, name)
    assert dispatch.select(op, place) in ({"cpu", "torch"} - {name})
