"""The path family: every backend against the reference, on every kind of input."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastbg
from fastbg.backends.torch_reference import path as reference
from fastbg.errors import InvalidArgument
from fastbg.filters.gaussian import difference_taps, gaussian_taps
from fastbg.testing import BackendUnderTest, backend_under_test, moved

pytestmark = pytest.mark.usefixtures("poisoned_memory")

ROUNDING = {torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
LAYOUTS = ("contiguous", "channels_last", "strided", "transposed", "expanded")
each_example_is_pure = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
GOLDEN = Path(__file__).parent / "golden"
LAM_SIGMAS = torch.linspace(1.2, 0, 51, dtype=torch.float64)


@pytest.fixture(scope="module")
def lam_golden() -> dict[str, np.ndarray]:
    """Path and attributions of the public LAM code."""
    with np.load(GOLDEN / "lam.npz") as stored:
        return dict(stored)


@pytest.fixture
def backend(backend: BackendUnderTest) -> BackendUnderTest:
    """Every backend that has the path family."""
    candidate = backend_under_test(backend.name, "blur_path")
    if candidate.skip_reason is not None:
        pytest.skip(candidate.skip_reason)
    return candidate


def laid_out(value: torch.Tensor, layout: str) -> torch.Tensor:
    """`value` in one of several memory layouts."""
    if layout == "channels_last":
        return value.movedim(-3, -1).contiguous().movedim(-1, -3)
    if layout == "strided":  # every second pixel of a wider buffer
        wide = value.new_zeros((*value.shape[:-1], 2 * value.shape[-1]))
        wide[..., ::2] = value
        return wide[..., ::2]
    if layout == "transposed":
        return value.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "expanded":
        return value[:1].expand(value.shape)
    return value


@pytest.fixture
def compiled(backend: BackendUnderTest) -> BackendUnderTest:
    """Every backend on which a case takes milliseconds; Triton's interpreter takes seconds."""
    if backend.name == "triton" and backend.device.type == "cpu":
        pytest.skip("Triton is interpreted: it has the chosen cases instead of random ones")
    return backend


Case = dict[str, Any]


def case(
    shape: tuple[int, int, int, int],
    count: int,
    kernel_size: int,
    dtype: torch.dtype,
    layouts: tuple[str, str],
    seed: int = 0,
) -> Case:
    """Image (B,C,H,W), gradients (B,K,C,H,W) and the widths of K cells."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(shape, generator=generator).to(dtype)
    gradients = torch.randn((shape[0], count, *shape[1:]), generator=generator).to(dtype)
    return {
        "image": laid_out(image, layouts[0]),
        "gradients": laid_out(gradients, layouts[1]),
        "sigmas": 2 * torch.rand((count, 2), generator=generator, dtype=torch.float64),
        "kernel_size": kernel_size,
    }


# Every dtype, layout and kernel size once; odd sizes, more than one tile, and nothing to do.
CHOSEN = {
    "float32": case((2, 3, 17, 37), 3, 9, torch.float32, ("contiguous", "channels_last")),
    "float16": case((1, 4, 13, 8), 2, 13, torch.float16, ("channels_last", "strided")),
    "bfloat16": case((1, 1, 9, 35), 5, 3, torch.bfloat16, ("strided", "transposed")),
    "one tap": case((2, 1, 1, 5), 1, 1, torch.float32, ("transposed", "expanded")),
    "expanded": case((2, 1, 6, 7), 2, 5, torch.float32, ("expanded", "contiguous")),
    "no node": case((1, 3, 6, 7), 0, 9, torch.float32, ("contiguous", "contiguous")),
    "no image": case((0, 3, 6, 7), 2, 9, torch.float32, ("contiguous", "contiguous")),
}
chosen = pytest.mark.parametrize("case", CHOSEN.values(), ids=CHOSEN)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kernel_size = draw(st.sampled_from([1, 3, 9, 13]))
    height, width = (draw(st.integers(kernel_size // 2 + 1, 37)) for _ in range(2))
    return case(
        (draw(st.integers(0, 2)), draw(st.sampled_from([1, 3, 4])), height, width),
        draw(st.integers(0, 5)),
        kernel_size,
        draw(st.sampled_from(tuple(ROUNDING))),
        (draw(st.sampled_from(LAYOUTS)), draw(st.sampled_from(LAYOUTS))),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def check_blur_path(backend: BackendUnderTest, case: Case) -> None:
    image, sigmas, kernel_size = case["image"], case["sigmas"][:, 0], case["kernel_size"]
    exact = reference.blur_path(image.double(), gaussian_taps(sigmas, kernel_size))
    got = fastbg.blur_path(moved(image, backend.device), sigmas, kernel_size, backend=backend.name)
    assert got.dtype == image.dtype
    assert got.device.type == backend.device.type
    tolerance = 2 * ROUNDING[image.dtype]
    torch.testing.assert_close(got.cpu().double(), exact, rtol=0, atol=tolerance)


def check_path_integral(backend: BackendUnderTest, case: Case) -> None:
    image, gradients, sigmas = case["image"], case["gradients"], case["sigmas"]
    change, level = difference_taps(sigmas, case["kernel_size"])
    exact = reference.path_integral(gradients.double(), image.double(), change, level)
    got = fastbg.path_integral(
        moved(gradients, backend.device),
        moved(image, backend.device),
        sigmas,
        case["kernel_size"],
        backend=backend.name,
    )
    assert got.dtype == image.dtype
    tolerance = ROUNDING[image.dtype]
    torch.testing.assert_close(got.cpu().double(), exact, rtol=tolerance, atol=10 * tolerance)


def check_gradient_detector(
    backend: BackendUnderTest,
    seed: int,
    size: tuple[int, int, int, int],
    each: bool,
    dtype: torch.dtype,
    layout: str,
) -> None:
    """Forward and backward, windows of any place and size, flat patches included."""
    rng = np.random.default_rng(seed)
    # Few grey levels, so that neighbours are often equal: there the root has no derivative.
    sr = torch.from_numpy(rng.integers(0, 3, size) / 2).to(dtype)
    sr = laid_out(sr, layout)
    y = np.sort(rng.integers(0, size[2] + 1, (size[0] if each else 1, 2)), -1)
    x = np.sort(rng.integers(0, size[3] + 1, y.shape), -1)
    windows = torch.from_numpy(np.stack([y[:, 0], x[:, 0], y[:, 1], x[:, 1]], -1))
    windows = windows if each else windows[0]
    upstream = torch.rand(size[0])

    values, gradients = [], []
    for name, image in (("torch", sr.double()), (backend.name, moved(sr, backend.device))):
        leaf = image.detach().requires_grad_()
        value = fastbg.gradient_detector(leaf, windows, backend=name)
        (gradient,) = torch.autograd.grad(value, leaf, upstream.to(value))
        values.append(value.detach().cpu().double())
        gradients.append(gradient.cpu().double())
    torch.testing.assert_close(values[1], values[0], rtol=1e-5, atol=1e-5)
    rounding = ROUNDING[dtype]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=rounding, atol=4 * rounding)


@chosen
def test_blur_path_of_chosen_cases(backend: BackendUnderTest, case: Case) -> None:
    check_blur_path(backend, case)


@given(case=cases())
@each_example_is_pure
def test_blur_path_equals_reference(compiled: BackendUnderTest, case: Case) -> None:
    check_blur_path(compiled, case)


@chosen
def test_path_integral_of_chosen_cases(backend: BackendUnderTest, case: Case) -> None:
    check_path_integral(backend, case)


@given(case=cases())
@each_example_is_pure
def test_path_integral_equals_reference(compiled: BackendUnderTest, case: Case) -> None:
    check_path_integral(compiled, case)


@pytest.mark.parametrize(
    ("size", "each", "dtype", "layout"),
    [
        ((3, 3, 37, 35), True, torch.float32, "contiguous"),
        ((2, 4, 20, 7), False, torch.float16, "channels_last"),
        ((2, 1, 9, 24), True, torch.bfloat16, "strided"),
        ((1, 2, 1, 6), False, torch.float32, "transposed"),
        ((2, 3, 8, 8), True, torch.float32, "expanded"),
        ((0, 3, 5, 5), True, torch.float32, "contiguous"),
    ],
)
def test_gradient_detector_of_chosen_cases(
    backend: BackendUnderTest,
    size: tuple[int, int, int, int],
    each: bool,
    dtype: torch.dtype,
    layout: str,
) -> None:
    check_gradient_detector(backend, 0, size, each, dtype, layout)


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 37), st.integers(1, 37)),
    each=st.booleans(),
    dtype=st.sampled_from(tuple(ROUNDING)),
    layout=st.sampled_from(LAYOUTS),
)
@each_example_is_pure
def test_gradient_detector_equals_reference(
    compiled: BackendUnderTest,
    seed: int,
    size: tuple[int, int, int, int],
    each: bool,
    dtype: torch.dtype,
    layout: str,
) -> None:
    check_gradient_detector(compiled, seed, size, each, dtype, layout)


def test_path_equals_the_public_code(
    backend: BackendUnderTest, lam_golden: dict[str, np.ndarray]
) -> None:
    """Nodes 0, 10, 25 and 49 of the published 50, and the derivatives there."""
    image = torch.from_numpy(lam_golden["lr"]).to(backend.device)
    shown = [0, 10, 25, 49]
    nodes = fastbg.blur_path(image, LAM_SIGMAS[1:][shown], backend=backend.name)[0].cpu().numpy()
    np.testing.assert_allclose(nodes, lam_golden["path/nodes"], rtol=0, atol=1e-6)
    one = torch.ones(1, 1, *image.shape[1:], device=backend.device)
    for k, expected in zip(shown, lam_golden["path/derivative"], strict=True):
        step = fastbg.path_integral(one, image, LAM_SIGMAS[k : k + 2], backend=backend.name)
        np.testing.assert_allclose(50 * step[0].cpu().numpy(), expected, rtol=0, atol=1e-6)


def test_chunks_of_the_integral_add_up(backend: BackendUnderTest) -> None:
    image = torch.rand(2, 2, 11, 19, device=backend.device)
    gradients = torch.randn(2, 10, 2, 11, 19, device=backend.device)
    sigmas = LAM_SIGMAS[::5]
    whole = fastbg.path_integral(gradients, image, sigmas, backend=backend.name)
    parts = [
        fastbg.path_integral(
            gradients[:, k : k + 4], image, sigmas[k : k + 5], backend=backend.name
        )
        for k in range(0, 10, 4)
    ]
    torch.testing.assert_close(sum(parts), whole, rtol=0, atol=1e-5)


def test_integral_of_ones_is_the_way_from_baseline_to_image(backend: BackendUnderTest) -> None:
    image = torch.rand(1, 3, 16, 16, device=backend.device)
    ones = torch.ones(1, 5, 3, 16, 16, device=backend.device)
    got = fastbg.path_integral(ones, image, LAM_SIGMAS[::10], backend=backend.name)
    baseline = fastbg.blur_path(image, [1.2], backend=backend.name)[:, 0]
    torch.testing.assert_close(got, image - baseline, rtol=0, atol=1e-5)


def test_weights_scale_the_steps() -> None:
    image, gradients = torch.rand(1, 1, 9, 9), torch.randn(1, 2, 1, 9, 9)
    cells = [(1.2, 0.5), (1.0, 0.0)]
    weighted = fastbg.path_integral(gradients, image, cells, weights=[0.5, 2.0])
    factors = torch.tensor([0.5, 2.0]).reshape(1, 2, 1, 1, 1)
    expected = fastbg.path_integral(gradients * factors, image, cells)
    torch.testing.assert_close(weighted, expected)


def test_detector_of_a_flat_window_has_no_gradient(backend: BackendUnderTest) -> None:
    sr = torch.full((1, 3, 8, 8), 0.5, device=backend.device, requires_grad=True)
    value = fastbg.gradient_detector(sr, (0, 0, 8, 8), backend=backend.name)
    (gradient,) = torch.autograd.grad(value.sum(), sr)
    assert value.item() == 0
    assert not gradient.any()


def test_detector_reads_the_window_only(backend: BackendUnderTest) -> None:
    """NaN anywhere but in the window and its margin changes nothing."""
    clean = torch.rand(1, 3, 24, 24)
    poisoned = torch.full_like(clean, torch.nan)
    poisoned[..., 4:13, 6:15] = clean[..., 4:13, 6:15]
    window = (4, 6, 12, 14)
    results = []
    for image in (clean, poisoned):
        leaf = moved(image, backend.device).requires_grad_()
        value = fastbg.gradient_detector(leaf, window, backend=backend.name)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        results.append((value.item(), gradient.cpu()))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


class TestAutograd:
    sigmas = torch.tensor([1.2, 0.7, 0.3, 0.0], dtype=torch.float64)

    def test_gradcheck(self) -> None:
        image = torch.rand(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
        gradients = torch.rand(2, 3, 2, 6, 7, dtype=torch.float64, requires_grad=True)

        def integral(g: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return fastbg.path_integral(g, x, self.sigmas, 5)

        def blur(x: torch.Tensor) -> torch.Tensor:
            return fastbg.blur_path(x, self.sigmas, 5)

        def detect(x: torch.Tensor) -> torch.Tensor:
            return fastbg.gradient_detector(x, [[1, 0, 5, 7], [0, 0, 6, 4]])

        assert torch.autograd.gradcheck(blur, (image,))
        assert torch.autograd.gradcheck(integral, (gradients, image))
        assert torch.autograd.gradcheck(detect, (image,))
        assert torch.autograd.gradgradcheck(blur, (image,))
        assert torch.autograd.gradgradcheck(integral, (gradients, image))

    def test_opcheck(self, backend: BackendUnderTest) -> None:
        device, name = backend.device, backend.name
        image = torch.rand(2, 1, 6, 7, device=device, requires_grad=True)
        gradients = torch.rand(2, 3, 1, 6, 7, device=device, requires_grad=True)
        taps = gaussian_taps(self.sigmas, 5).float().to(device)
        cells = torch.stack((self.sigmas[:-1], self.sigmas[1:]), -1)
        change, level = (t.float().to(device) for t in difference_taps(cells, 5))
        windows = torch.tensor([1, 0, 5, 7], dtype=torch.int32, device=device)
        ops = torch.ops.fastbg
        torch.library.opcheck(ops.blur_path.default, (image, taps, name))
        integral = (gradients, image, change, level, name)
        torch.library.opcheck(ops.path_integral.default, integral)
        torch.library.opcheck(ops.gradient_detector.default, (image, windows, name))
        upstream = torch.ones(2, device=device)
        torch.library.opcheck(
            ops.gradient_detector_backward.default, (upstream, image.detach(), windows, name)
        )

    def test_compiles_without_a_graph_break(self) -> None:
        image = torch.rand(1, 3, 12, 12)

        def pipeline(image: torch.Tensor) -> torch.Tensor:
            nodes = fastbg.blur_path(image, self.sigmas[1:], 5)
            value = fastbg.gradient_detector(nodes[0], (0, 0, 8, 8))
            return value.sum() + fastbg.path_integral(nodes, image, self.sigmas, 5).sum()

        compiled = torch.compile(pipeline, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(image), pipeline(image))


class TestBadInput:
    image = torch.rand(2, 3, 8, 8)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"image": torch.rand(3, 8, 8)}, r"image: got shape \(3, 8, 8\)"),
            ({"image": torch.rand(2, 3, 4, 8)}, "image: got 4x8; expected H and W above 4"),
            ({"kernel_size": 8}, "kernel_size: got 8; expected an odd number"),
            ({"sigmas": [-0.5]}, "sigmas: got -0.5; expected widths of at least 0"),
            ({"sigmas": [float("nan")]}, "sigmas: got nan"),
            ({"sigmas": [[1.0, 0.5]]}, r"sigmas: got shape \(1, 2\); expected shape \(K,\)"),
            ({"sigmas": torch.ones(1, requires_grad=True)}, "sigmas: got requires_grad=True"),
            ({"backend": "gpu"}, "backend: got 'gpu'; expected one of"),
        ],
    )
    def test_blur_path_names_the_argument(self, change: dict[str, object], message: str) -> None:
        with pytest.raises(InvalidArgument, match=message):
            fastbg.blur_path(**{"image": self.image, "sigmas": [1.0], **change})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"gradients": torch.rand(2, 3, 8, 8)}, r"gradients: got shape \(2, 3, 8, 8\)"),
            ({"gradients": torch.rand(1, 2, 3, 8, 8)}, r"gradients: got shape \(1, 2, 3, 8, 8\)"),
            ({"gradients": torch.rand(2, 2, 3, 8, 8).half()}, "gradients: got torch.float16 on"),
            ({"sigmas": [1.0, 0.5]}, r"sigmas: got shape \(2,\); expected \(3,\) or \(2, 2\)"),
            ({"weights": [1.0]}, r"weights: got shape \(1,\); expected \(2,\)"),
        ],
    )
    def test_path_integral_names_the_argument(
        self, change: dict[str, object], message: str
    ) -> None:
        gradients = torch.rand(2, 2, 3, 8, 8)
        arguments = {"gradients": gradients, "image": self.image, "sigmas": [1.0, 0.5, 0.0]}
        with pytest.raises(InvalidArgument, match=message):
            fastbg.path_integral(**{**arguments, **change})

    @pytest.mark.parametrize(
        ("windows", "message"),
        [
            ((0, 0, 9, 8), r"windows: got \[0, 0, 9, 8\]"),
            ((0, 0, 8), r"windows: got shape \(3,\); expected \(4,\) or \(2, 4\)"),
            (torch.rand(4), "windows: got torch.float32; expected integers"),
        ],
    )
    def test_gradient_detector_names_the_argument(self, windows: object, message: str) -> None:
        with pytest.raises(InvalidArgument, match=message):
            fastbg.gradient_detector(self.image, windows)
