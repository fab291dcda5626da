"""Local attribution: equal to the public LAM code, complete, and the same however it is batched."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import gaussian_kde
from torch import Tensor, nn

import fastbg
from fastbg.attribution import Objective, kde_density
from fastbg.attribution import Path as AttributionPath
from fastbg.attribution import diffusion as stats
from fastbg.attribution.objectives import CustomObjective, GradientDetector
from fastbg.attribution.quadrature import METHODS, Cells, quadrature
from fastbg.errors import InvalidArgument
from fastbg.models.edsr import EDSR
from fastbg.models.network import Network

GOLDEN = Path(__file__).parent / "golden"
# Gini coefficients that the public code gives for its three windows.
PUBLIC_GINI = {
    "edsr_sanghyun_16x4": (0.9855432481381218, 0.993335256501187, 0.9900445698293746),
    "edsr_basicsr_16x4": (0.9849969515601825, 0.9947856242796289, 0.9930665884064193),
    "rcan_basicsr_2x3x16": (0.8649715383282129, 0.9069404824702978, 0.9012393695289302),
    "swinir_light": (0.9746298105377993, 0.9892347092155606, 0.9759813527480388),
}
PUBLIC_WINDOWS = ((120, 120, 16), (0, 0, 16), (239, 200, 16))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    """Path, attributions and density of the public LAM code."""
    with np.load(GOLDEN / "lam.npz") as stored:
        return dict(stored)


def public_network(name: str, folder: Path) -> Network:
    prefix = f"{name}/"
    tensors = load_file(GOLDEN / "networks.safetensors")
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    path = folder / f"{name}.pth"
    torch.save({"params": state} if "basicsr" in name or "swinir" in name else state, path)
    return fastbg.load_model(path)


class Untrimmed(nn.Module):
    """A network that offers `forward` only, as a user's own does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.network(x)


class Shifted(nn.Module):
    """Magnifies x2; every SR pixel is the LR pixel left of its own, so attributions are known."""

    def forward(self, x: Tensor) -> Tensor:
        return x.roll(1, -1).repeat_interleave(2, -1).repeat_interleave(2, -2)


@pytest.fixture
def network() -> EDSR:
    torch.manual_seed(0)
    return EDSR(features=8, blocks=2)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(1))


def largest_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", PUBLIC_GINI)
def test_equals_the_public_code(name: str, golden: dict[str, np.ndarray], tmp_path: Path) -> None:
    """All three windows in one call; the last one touches the image's lower end."""
    model = public_network(name, tmp_path)
    image = torch.from_numpy(golden["lr"])
    result = fastbg.LocalAttribution(model).attribute(image, PUBLIC_WINDOWS)
    assert result.attribution.shape == (3, 3, 64, 64)
    for i, (y, x, _) in enumerate(PUBLIC_WINDOWS):
        expected = torch.from_numpy(golden[f"{name}/lam_{y}_{x}/attribution"])
        assert largest_error(result.attribution[i], expected) < 1e-4
        assert largest_error(result.map[i], stats.attribution_map(expected)) < 1e-4
        assert abs(result.gini[i] - PUBLIC_GINI[name][i]) < 1e-5
        assert abs(result.diffusion_index[i] - 100 * (1 - PUBLIC_GINI[name][i])) < 1e-3


def test_skipped_nodes_carry_nothing(network: EDSR, images: Tensor) -> None:
    with_all = fastbg.LocalAttribution(network, skip_tolerance=0).attribute(images, (30, 40, 16))
    result = fastbg.LocalAttribution(network).attribute(images, (30, 40, 16))
    assert result.passes < with_all.passes
    assert largest_error(result.attribution, with_all.attribution) < 1e-6


class TestCompleteness:
    """The sum of the attribution is the objective's rise from baseline to image."""

    @pytest.mark.parametrize(
        ("path", "method"),
        [
            *((fastbg.GaussianBlurPath(), method) for method in METHODS),
            (fastbg.LinearPath(), "riemann_right"),
            (fastbg.GaussianLinearPath(), "arc_midpoint"),
            (fastbg.LinearPath(torch.full((3, 1, 1), 0.5)), "gausslegendre"),
        ],
        ids=repr,
    )
    def test_delta_falls_with_the_steps(
        self, network: EDSR, images: Tensor, path: AttributionPath, method: str
    ) -> None:
        lam = fastbg.LocalAttribution(network.double(), path)
        few, many = (
            lam.attribute(
                images.double(), (30, 40, 16), n, method, return_convergence_delta=True
            ).convergence_delta.abs()
            for n in (4, 64)
        )
        assert many.max() < 0.3 * few.max()

    @pytest.mark.parametrize("method", METHODS)
    def test_linear_objectives_are_exact(self, images: Tensor, method: str) -> None:
        """Gradients of a linear function are constant: all rules but the trapezoid's are exact."""
        lam = fastbg.LocalAttribution(Shifted(), objective=fastbg.PixelSum())
        result = lam.attribute(images, (4, 6, 4), 30, method, return_convergence_delta=True)
        torch.testing.assert_close(
            result.convergence_delta, torch.zeros(2).double(), rtol=0, atol=1e-4
        )
        change = images - fastbg.blur_path(images, [1.2])[:, 0]
        expected = torch.zeros_like(images)
        expected[..., 2:4, 2:4] = 4 * change[..., 2:4, 2:4]
        torch.testing.assert_close(result.attribution, expected, rtol=0, atol=1e-4)


class TestBatching:
    @pytest.mark.parametrize("batch", [1, 3, 50])
    def test_the_batch_changes_nothing(self, network: EDSR, images: Tensor, batch: int) -> None:
        lam = fastbg.LocalAttribution(network)
        expected = lam.attribute(images, (30, 40, 16), 12)
        got = lam.attribute(images, (30, 40, 16), 12, internal_batch_size=batch)
        assert largest_error(got.attribution, expected.attribution) < 1e-5

    def test_windows_of_one_image_share_its_path_and_forward_pass(
        self, network: EDSR, images: Tensor
    ) -> None:
        windows = torch.tensor([[[0, 0, 8], [30, 40, 16]], [[72, 88, 8], [8, 8, 1]]])
        plain = Untrimmed(network)
        shared = fastbg.LocalAttribution(plain).attribute(images, windows, 6, internal_batch_size=2)
        assert plain.calls == images.shape[0] * -(-shared.passes // 2)
        assert shared.attribution.shape == (2, 2, 3, 20, 24)
        assert shared.map.shape == (2, 2, 20, 24)
        assert shared.diffusion_index.shape == (2, 2)
        for j in range(2):
            each = fastbg.LocalAttribution(network).attribute(images, windows[:, j], 6)
            assert largest_error(shared.attribution[:, j], each.attribution) < 1e-5

    def test_the_model_is_left_as_it_was(self, network: EDSR, images: Tensor) -> None:
        network.train()
        network.conv_last.eval()
        network.conv_first.requires_grad_(False)
        before = {name: p.requires_grad for name, p in network.named_parameters()}
        fastbg.LocalAttribution(network).attribute(images, (30, 40, 16), 2)
        assert network.training
        assert not network.conv_last.training
        assert before == {name: p.requires_grad for name, p in network.named_parameters()}
        assert all(p.grad is None for p in network.parameters())

    def test_bf16_is_near(self, network: EDSR, images: Tensor) -> None:
        exact = fastbg.LocalAttribution(network).attribute(images, (30, 40, 16), 8)
        lam = fastbg.LocalAttribution(network, autocast=torch.bfloat16)
        rounded = lam.attribute(images, (30, 40, 16), 8)
        assert 0 < largest_error(rounded.attribution, exact.attribution) < 0.1


def test_a_blurred_baseline_has_the_kernel_that_was_asked_for() -> None:
    image = torch.rand(1, 2, 9, 11, dtype=torch.float64)
    taps = torch.exp(-(torch.arange(-2, 3, dtype=torch.float64) ** 2) / (2 * 0.9**2))
    kernel = (torch.outer(taps, taps) / taps.sum() ** 2).expand(2, 1, 5, 5)
    padded = nn.functional.pad(image, (2, 2, 2, 2), "reflect")
    expected = nn.functional.conv2d(padded, kernel, groups=2)
    found = fastbg.GaussianLinearPath(0.9, kernel_size=5).start(image.float())
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)


class TestOwnParts:
    def test_custom_path(self, network: EDSR, images: Tensor) -> None:
        """The straight line from black, spelled by hand, with derivatives and without."""

        def nodes(x: Tensor, t: Tensor) -> Tensor:
            return x[:, None] * t[:, None, None, None]

        def derivatives(x: Tensor, t: Tensor) -> Tensor:
            return x[:, None].expand(-1, len(t), -1, -1, -1)

        expected = fastbg.LocalAttribution(network, fastbg.LinearPath()).attribute(
            images, (30, 40, 16), 9
        )
        for path in (fastbg.CustomPath(nodes), fastbg.CustomPath(nodes, derivatives)):
            got = fastbg.LocalAttribution(network, path).attribute(images, (30, 40, 16), 9)
            assert largest_error(got.attribution, expected.attribution) < 1e-5
        with pytest.raises(InvalidArgument, match="derivatives: got None; expected a function"):
            fastbg.LocalAttribution(network, fastbg.CustomPath(nodes)).attribute(
                images, (30, 40, 16), 9, "gausslegendre"
            )
        wrong = fastbg.CustomPath(lambda x, t: x)
        with pytest.raises(InvalidArgument, match=r"nodes: got shape \(1, 3, 20, 24\)"):
            fastbg.LocalAttribution(network, wrong).attribute(images, (30, 40, 16), 9)

    def test_custom_objective(self, network: EDSR, images: Tensor) -> None:
        expected = fastbg.LocalAttribution(network, objective=fastbg.PixelSum())
        got = fastbg.LocalAttribution(network, objective=lambda patch: patch.sum((1, 2, 3)))
        windows = (30, 40, 16)
        assert torch.equal(
            got.attribute(images, windows, 5).attribution,
            expected.attribute(images, windows, 5).attribution,
        )
        bad = fastbg.LocalAttribution(network, objective=lambda patch: patch.sum())
        with pytest.raises(InvalidArgument, match=r"objective: got a result of shape \(\)"):
            bad.attribute(images, windows, 5)

    def test_margin_is_delivered_where_the_image_has_it(self, images: Tensor) -> None:
        seen = []

        class Recorder(Objective):
            margin = 2

            def __call__(self, patch: Tensor, height: int, width: int) -> Tensor:
                seen.append((tuple(patch.shape[2:]), height, width))
                return patch.sum((1, 2, 3))

        lam = fastbg.LocalAttribution(Shifted(), objective=Recorder())
        lam.attribute(images[:1], [(0, 0, 8), (32, 39, 8)], 1, internal_batch_size=1)
        assert seen == [((10, 10), 8, 8), ((8, 9), 8, 8)]


class TestStatistics:
    def test_gini_by_its_definition(self) -> None:
        values = torch.rand(3, 5, 7)
        v = np.sort(values[1].double().flatten().numpy() + 1e-7)
        pairs = np.abs(v[:, None] - v).sum()
        expected = pairs / (2 * len(v) ** 2 * v.mean())
        assert stats.gini(values)[1].item() == pytest.approx(expected, abs=1e-12)
        assert stats.diffusion_index(torch.ones(4, 4)).item() == pytest.approx(100)

    def test_map_of_nothing_is_nothing(self) -> None:
        assert not stats.attribution_map(torch.zeros(2, 3, 4, 4)).any()

    def test_share_counts_cut_pixels_in_part(self) -> None:
        maps = torch.ones(2, 4, 4)
        maps[1, 0, 0] = 0
        shares = stats.box_share(maps, torch.tensor([[0, 0, 8, 8], [0, 0, 16, 6]]), scale=4)
        expected = torch.tensor([[4 / 16, 6 / 16], [3 / 15, 5 / 15]], dtype=torch.float64)
        torch.testing.assert_close(shares, expected)
        assert stats.box_share(maps, (0, 0, 16, 16), scale=4).tolist() == [1.0, 1.0]

    def test_density_equals_the_public_codes(self, golden: dict[str, np.ndarray]) -> None:
        density = kde_density(golden["kde/map"])
        np.testing.assert_allclose(density, golden["kde/density"], rtol=0, atol=1e-6)

    def test_density_equals_scipys_on_an_oblong_slanted_map(self) -> None:
        y, x = np.mgrid[:12, :31].astype(float)
        weights = np.exp(-(((x - 9) - 2 * (y - 4)) ** 2) / 30) * (x > 2)
        kde = gaussian_kde(np.stack([x.ravel(), y.ravel()]), weights=weights.ravel())
        expected = kde(np.stack([x.ravel(), y.ravel()])).reshape(x.shape)
        np.testing.assert_allclose(kde_density(weights), expected / expected.max(), atol=1e-9)

    def test_density_of_single_precision_is_computed_in_double(self) -> None:
        weights = np.random.default_rng(2).random((9, 14)).astype(np.float32)
        np.testing.assert_array_equal(kde_density(weights), kde_density(weights.astype(float)))

    @pytest.mark.parametrize("boxes", [(0, 0, 8), [[[0, 0, 8, 8]]], 5])
    def test_share_names_the_boxes(self, boxes: object) -> None:
        with pytest.raises(
            InvalidArgument, match=r"^boxes: got shape .*expected \(4,\) or \(N, 4\)"
        ):
            stats.box_share(torch.ones(4, 4), boxes, scale=4)

    @pytest.mark.parametrize("weights", [np.zeros((4, 4)), np.eye(1, 16).reshape(4, 4), -np.eye(4)])
    def test_density_needs_mass_with_a_spread(self, weights: np.ndarray) -> None:
        with pytest.raises(InvalidArgument, match="weights"):
            kde_density(weights)


def arc_lengths(path: AttributionPath, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Length of the path from each start to its end, as a fraction of the whole path's."""
    fine = np.linspace(start, end, 201, axis=1)
    low, high = fine[:, :-1].ravel(), fine[:, 1:].ravel()
    pieces = Cells(high, low, high, np.ones(high.size))
    return path.step_sizes(pieces).reshape(len(fine), -1).sum(1)


class TestQuadrature:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("n", [2, 7, 50])
    def test_steps_span_the_path(self, method: str, n: int) -> None:
        cells = quadrature(method, n, fastbg.GaussianBlurPath().at_length)
        assert len(cells) == n
        assert ((cells.start <= cells.node) & (cells.node <= cells.end)).all()
        assert (cells.weight * (cells.end - cells.start)).sum() == pytest.approx(1)

    @pytest.mark.parametrize("sigma", [0.4, 1.2, 3.0])
    def test_arc_cells_are_of_equal_kernel_change(self, sigma: float) -> None:
        """Equal in arc length; a chord is shorter where a tap turns back inside its cell."""
        path = fastbg.GaussianBlurPath(sigma)
        cells = quadrature("arc_midpoint", 16, path.at_length)
        assert cells.start[0] == 0
        assert cells.end[-1] == 1
        np.testing.assert_array_equal(cells.start[1:], cells.end[:-1])
        before = arc_lengths(path, cells.start, cells.node)
        after = arc_lengths(path, cells.node, cells.end)
        np.testing.assert_allclose([before, after], 1 / 32, rtol=1e-3)
        assert (path.step_sizes(cells) < 1.0001 / 16).all()


HALF = np.array([0.5])


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"images": torch.rand(3, 8, 8)}, r"images: got shape \(3, 8, 8\)"),
            ({"windows": (73, 0, 8)}, r"windows: got \(73, 0, 8\); expected .* 80x96"),
            ({"windows": (0, 0, 0)}, r"windows: got \(0, 0, 0\)"),
            ({"windows": [(0, 0, 8)] * 3}, r"windows: got shape \(3, 3\)"),
            ({"windows": (0.0, 0.0, 8.0)}, "windows: got torch.float32; expected integers"),
            ({"n_steps": 0}, "n_steps: got 0; expected a whole number from 1"),
            ({"method": "simpson"}, "method: got 'simpson'; expected one of"),
            ({"internal_batch_size": 0}, "internal_batch_size: got 0"),
            ({"accuracy": "high"}, "accuracy: got 'high'; expected 'published' or None"),
        ],
    )
    def test_attribute_names_the_argument(
        self, network: EDSR, images: Tensor, change: dict[str, object], message: str
    ) -> None:
        arguments = {"images": images, "windows": (0, 0, 8), "n_steps": 2, **change}
        with pytest.raises(InvalidArgument, match=message):
            fastbg.LocalAttribution(network).attribute(**arguments)

    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (lambda net: fastbg.GaussianBlurPath(sigma=0), "sigma: got 0"),
            (
                lambda net: fastbg.GaussianLinearPath(sigma=-1),
                "sigma: got -1; expected a positive width in LR pixels",
            ),
            (
                lambda net: fastbg.LinearPath(torch.zeros(4, 5)).nodes(
                    torch.rand(1, 3, 8, 8), HALF
                ),
                r"^baseline: got shape \(4, 5\); expected one that broadcasts to \(1, 3, 8, 8\)",
            ),
            (
                lambda net: CustomObjective(lambda patch: patch)(torch.rand(2, 3, 4, 4), 4, 4),
                r"^objective: got a result of shape \(2, 3, 4, 4\); expected \(2,\): a number",
            ),
            (
                lambda net: GradientDetector("nobody")(torch.rand(1, 3, 5, 5), 4, 4),
                "backend: got 'nobody'",
            ),
            (lambda net: fastbg.GaussianBlurPath(kernel_size=4), "kernel_size: got 4"),
            (lambda net: fastbg.LocalAttribution(net, skip_tolerance=1), "skip_tolerance: got 1"),
            (lambda net: fastbg.LocalAttribution(net, memory_budget=0), "memory_budget: got 0"),
        ],
    )
    def test_construction_names_the_argument(
        self, network: EDSR, build: object, message: str
    ) -> None:
        with pytest.raises(InvalidArgument, match=message):
            build(network)

    def test_a_model_of_no_fixed_scale(self, images: Tensor) -> None:
        with pytest.raises(InvalidArgument, match="model: got an output of shape"):
            fastbg.LocalAttribution(nn.AdaptiveAvgPool2d(7)).attribute(images, (0, 0, 4), 2)
