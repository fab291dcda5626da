"""Estimators beside LAM's: IDGI, expected gradients, the noise path, aggregation of channels.

Each against the public code's numbers or a slow float64 loop of its own, and complete.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_any_network import blurred, structure
from test_attribution import public_network
from torch import Tensor, nn

import fastbg
from fastbg.attribution.diffusion import attribution_map
from fastbg.errors import DataError, InvalidArgument
from fastbg.models.edsr import EDSR

GOLDEN = Path(__file__).parent / "golden"
WINDOW = (30, 41, 9)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return EDSR(features=8, blocks=2).double().eval()


@pytest.fixture
def image() -> Tensor:
    return torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(1)).double()


def value_and_gradient(net: nn.Module, x: Tensor) -> tuple[float, Tensor]:
    """LAM's objective in WINDOW and its gradient (C,h,w)."""
    leaf = x.detach().clone().requires_grad_()
    value = structure(net(leaf), WINDOW)
    (gradient,) = torch.autograd.grad(value, leaf)
    return float(value.detach()), gradient[0]


def close(found: Tensor, expected: Tensor, share: float = 1e-6) -> None:
    """Equal to `share` of the largest value."""
    peak = float(expected.abs().max())
    assert peak > 0
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=share * peak)


class TestIDGI:
    @pytest.mark.parametrize("window", [(120, 120, 16), (239, 200, 16)])
    def test_equals_the_public_code(self, window: tuple[int, int, int], tmp_path: Path) -> None:
        with np.load(GOLDEN / "lam.npz") as lam, np.load(GOLDEN / "idgi.npz") as golden:
            lr = torch.from_numpy(lam["lr"]).double()
            expected = torch.from_numpy(golden[f"idgi_{window[0]}_{window[1]}"])
        net = public_network("edsr_sanghyun_16x4", tmp_path).double()
        idgi = fastbg.LocalAttribution(net, estimator="idgi")
        result = idgi.attribute(lr, window, 8, "riemann_left", None, True)
        close(result.attribution[0], expected)
        assert abs(float(result.convergence_delta)) < 1e-5
        in_float = fastbg.LocalAttribution(net.float(), estimator="idgi")
        close(in_float.attribute(lr, window, 8, "riemann_left").attribution[0], expected, 1e-3)

    @pytest.mark.parametrize("batch", [1, 3])
    def test_is_the_plain_loop_for_several_windows(
        self, network: nn.Module, image: Tensor, batch: int
    ) -> None:
        """A batch that does not divide the steps, and a second window beside."""
        nodes = [blurred(image, 1.2 * (1 - k / 5)) for k in range(6)]
        values, gradients = zip(*(value_and_gradient(network, x) for x in nodes), strict=True)
        expected = torch.zeros_like(image[0])
        for k in range(5):
            square = gradients[k + 1] ** 2
            expected += (values[k + 1] - values[k]) * square / square.sum()
        idgi = fastbg.LocalAttribution(network, estimator="idgi")
        both = idgi.attribute(image, [(0, 0, 4), WINDOW], 5, internal_batch_size=batch)
        close(both.attribution[1], expected)
        alone = idgi.attribute(image, (0, 0, 4), 5)
        close(both.attribution[0], alone.attribution[0])
        assert both.passes == 5

    @pytest.mark.parametrize(
        "method", ["riemann_left", "riemann_right", "riemann_trapezoid", "arc_midpoint"]
    )
    @pytest.mark.parametrize("path", [fastbg.GaussianBlurPath(), fastbg.NoisePath(0.1)], ids=repr)
    def test_is_complete_with_few_nodes(
        self, network: nn.Module, image: Tensor, method: str, path: fastbg.LinearPath
    ) -> None:
        idgi = fastbg.LocalAttribution(network, path, estimator="idgi")
        result = idgi.attribute(image, WINDOW, 3, method, None, True)
        assert abs(float(result.convergence_delta)) < 1e-5
        assert float(result.attribution.abs().sum()) > 1e-3

    def test_no_gradient_has_no_shares(self) -> None:
        """A flat image: the objective and its gradient are 0 at every node."""
        net = fastbg.wrap(nn.Upsample(scale_factor=2), scale=2)
        idgi = fastbg.LocalAttribution(net, estimator="idgi")
        result = idgi.attribute(torch.full((1, 3, 12, 12), 0.5), (4, 4, 8), 3)
        assert torch.equal(result.attribution, torch.zeros(1, 3, 12, 12))

    def test_small_float32_gradients_do_not_vanish(self) -> None:
        """Their squares, 1e-44 and less, are 0 in float32."""
        net = fastbg.wrap(nn.Upsample(scale_factor=2), scale=2)
        idgi = fastbg.LocalAttribution(
            net, fastbg.LinearPath(), lambda patch: 1e-22 * patch.sum((1, 2, 3)), estimator="idgi"
        )
        found = idgi.attribute(torch.ones(1, 3, 8, 8), (0, 0, 16), 2).attribution
        torch.testing.assert_close(found, torch.full_like(found, 4e-22), rtol=1e-5, atol=0)

    def test_an_output_that_is_no_number_is_refused(self, image: Tensor) -> None:
        class Broken(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x * float("nan")

        idgi = fastbg.LocalAttribution(fastbg.wrap(Broken(), scale=1), estimator="idgi")
        with pytest.raises(InvalidArgument, match="NaN or infinite"):
            idgi.attribute(image, (2, 2, 4), 2)

    def test_no_image_has_no_map(self, network: nn.Module, image: Tensor) -> None:
        idgi = fastbg.LocalAttribution(network, estimator="idgi")
        assert idgi.attribute(image[:0], WINDOW, 2).map.shape == (0, 20, 24)

    def test_bad_arguments_are_named(self, network: nn.Module, image: Tensor) -> None:
        with pytest.raises(InvalidArgument, match=r"estimator: got 'IDGI'; expected one of"):
            fastbg.LocalAttribution(network, estimator="IDGI")
        with pytest.raises(InvalidArgument, match=r"method: got 'gausslegendre'.*'idgi'"):
            fastbg.LocalAttribution(network, estimator="idgi").attribute(
                image, WINDOW, 4, "gausslegendre"
            )


class TestExpectedGradients:
    def test_is_the_mean_over_straight_lines(self, network: nn.Module, image: Tensor) -> None:
        baselines = torch.rand(3, 3, 20, 24).double()
        expected, change = torch.zeros_like(image[0]), 0.0
        for baseline in baselines.split(1):
            for k in range(4):
                node = baseline + (k + 0.5) / 4 * (image - baseline)
                gradient = value_and_gradient(network, node)[1]
                expected += gradient * (image - baseline)[0] / 12
            rise = value_and_gradient(network, image)[0] - value_and_gradient(network, baseline)[0]
            change += rise / 3
        explainer = fastbg.ExpectedGradients(network, baselines)
        result = explainer.attribute(image, WINDOW, 4, "arc_midpoint", None, True)
        close(result.attribution[0], expected)
        delta = float(result.attribution.double().sum()) - change
        assert float(result.convergence_delta) == pytest.approx(delta, abs=1e-5)
        assert result.passes == 12

    def test_samples_are_the_published_draws(self, network: nn.Module, image: Tensor) -> None:
        """A baseline and a point for each; the baselines' own share is not forced to be equal."""
        baselines = torch.rand(4, 3, 20, 24).double()
        random = np.random.default_rng(5)
        chosen, places = random.integers(4, size=7), random.random(7)
        expected = torch.zeros_like(image[0])
        for m, t in zip(chosen, places, strict=True):
            step = image - baselines[m : m + 1]
            node = baselines[m : m + 1] + t * step
            expected += value_and_gradient(network, node)[1] * step[0] / 7
        explainer = fastbg.ExpectedGradients(network, baselines, seed=5)
        result = explainer.attribute(image, WINDOW, samples=7)
        close(result.attribution[0], expected)
        assert result.passes == 7
        again = explainer.attribute(image, WINDOW, samples=7)
        assert torch.equal(again.attribution, result.attribution)
        other = fastbg.ExpectedGradients(network, baselines, seed=6)
        assert not torch.equal(
            other.attribute(image, WINDOW, samples=7).attribution, again.attribution
        )

    def test_it_is_complete_as_steps_grow(self, network: nn.Module, image: Tensor) -> None:
        explainer = fastbg.ExpectedGradients(network, torch.rand(2, 3, 20, 24).double())
        few, many = (
            abs(
                float(
                    explainer.attribute(
                        image, WINDOW, n, "arc_midpoint", None, True
                    ).convergence_delta
                )
            )
            for n in (2, 32)
        )
        assert many < 0.2 * few
        size = float(explainer.attribute(image, WINDOW, 64).attribution.abs().sum())
        assert many < 1e-2 * size

    def test_samples_converge_to_the_rule(self, network: nn.Module, image: Tensor) -> None:
        explainer = fastbg.ExpectedGradients(network, torch.rand(2, 3, 20, 24).double())
        rule = explainer.attribute(image, WINDOW, 32).attribution
        few, many = (
            float((explainer.attribute(image, WINDOW, samples=n).attribution - rule).norm())
            for n in (8, 96)
        )
        assert many < 0.5 * few

    def test_colours_cost_what_the_window_needs(self) -> None:
        """A colour is the same in every crop, so the network is given the crop only."""
        torch.manual_seed(0)
        net, image, sides = EDSR(features=4, blocks=1).eval(), torch.rand(1, 3, 60, 60), []
        forward = net.forward_window

        def watched(x: Tensor, window: object) -> Tensor:
            sides.append(x.shape[-1])
            return forward(x, window)

        net.forward_window = watched
        greys = torch.tensor([0.2, 0.9]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
        found = fastbg.ExpectedGradients(net, greys).attribute(image, (100, 100, 8), 2)
        assert max(sides) < 40
        whole = fastbg.ExpectedGradients(net, greys.expand(2, 3, 60, 60))
        close(found.attribution, whole.attribute(image, (100, 100, 8), 2).attribution, 1e-4)

    def test_one_sample_of_many_baselines(self, network: nn.Module, image: Tensor) -> None:
        """Baselines without a draw count where completeness is told, by the mean over all."""
        baselines = torch.rand(4, 3, 20, 24).double()
        explainer = fastbg.ExpectedGradients(network, baselines)
        result = explainer.attribute(image, WINDOW, return_convergence_delta=True, samples=1)
        value = value_and_gradient(network, image)[0]
        start = sum(value_and_gradient(network, each)[0] for each in baselines.split(1)) / 4
        delta = float(result.attribution.double().sum()) - (value - start)
        assert float(result.convergence_delta) == pytest.approx(delta, abs=1e-5)
        assert result.passes == 1

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_other_dtypes(self, network: nn.Module, image: Tensor, dtype: torch.dtype) -> None:
        double = fastbg.ExpectedGradients(network, torch.full((1, 3, 1, 1), 0.5))
        expected = double.attribute(image, WINDOW, 4).map
        other = fastbg.ExpectedGradients(network.to(dtype), torch.full((1, 3, 1, 1), 0.5))
        found = other.attribute(image.to(dtype), WINDOW, 4).map
        assert float((found - expected).abs().max()) < (1e-3 if dtype == torch.float32 else 0.2)

    def test_several_images_and_windows(self, network: nn.Module) -> None:
        images, baselines = torch.rand(2, 3, 20, 24).double(), torch.rand(2, 3, 20, 24).double()
        windows = torch.tensor([[[0, 0, 4], [30, 41, 9]], [[71, 88, 8], [5, 5, 6]]])
        explainer = fastbg.ExpectedGradients(network, baselines)
        found = explainer.attribute(images, windows, 2, return_convergence_delta=True)
        assert found.map.shape == (2, 2, 20, 24)
        assert found.convergence_delta.shape == (2, 2)
        one = explainer.attribute(images[1:], tuple(windows[1, 0].tolist()), 2)
        close(found.attribution[1, 0], one.attribution[0])
        assert explainer.attribute(images[:0], (0, 0, 4), 2).map.shape == (0, 20, 24)

    def test_bad_arguments_are_named(self, network: nn.Module, image: Tensor) -> None:
        def made(baselines: Tensor, seed: object = 0) -> fastbg.ExpectedGradients:
            return fastbg.ExpectedGradients(network, baselines, seed=seed)

        for bad in (torch.rand(3, 20, 24), torch.rand(0, 3, 20, 24), 255 * torch.rand(2, 3, 4, 4)):
            with pytest.raises(InvalidArgument, match="baselines"):
                made(bad)
        with pytest.raises(InvalidArgument, match="baselines"):
            made(torch.full((1, 3, 1, 1), float("nan")))
        with pytest.raises(InvalidArgument, match="seed"):
            made(torch.rand(1, 3, 1, 1), -1)
        with pytest.raises(InvalidArgument, match=r"baselines: got shape \(2, 3, 9, 9\)"):
            made(torch.rand(2, 3, 9, 9)).attribute(image, WINDOW)
        with pytest.raises(InvalidArgument, match="samples"):
            made(torch.rand(1, 3, 1, 1)).attribute(image, WINDOW, samples=0)
        with pytest.raises(InvalidArgument, match="method"):
            made(torch.rand(1, 3, 1, 1)).attribute(image, WINDOW, method="simpson")


class TestNoisePath:
    def test_is_straight_from_a_noisier_image(self, network: nn.Module, image: Tensor) -> None:
        path = fastbg.NoisePath(sigma=0.2, seed=3)
        noise = torch.from_numpy(np.random.default_rng(3).standard_normal((3, 20, 24)))
        nodes = path.nodes(image, np.array([0.0, 0.25, 1.0]))
        torch.testing.assert_close(nodes[0, 1], image[0] + 0.75 * 0.2 * noise)
        assert torch.equal(nodes[0, 2], image[0])
        expected = torch.zeros_like(image[0])
        for k in range(1, 5):
            node = image + 0.2 * (1 - k / 4) * noise
            expected -= value_and_gradient(network, node)[1] * 0.2 * noise / 4
        found = fastbg.LocalAttribution(network, path).attribute(image, WINDOW, 4)
        close(found.attribution[0], expected)

    def test_the_noise_is_the_same_for_every_image_and_crop(self) -> None:
        path = fastbg.NoisePath(0.1, seed=1)
        images = torch.rand(2, 3, 9, 9)
        noise = path.start(images) - images
        torch.testing.assert_close(noise[0], noise[1])
        assert path.radius is None  # so no crop is given, whose noise would be another

    @pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf"), "strong"])
    def test_bad_levels_are_named(self, sigma: object) -> None:
        with pytest.raises(InvalidArgument, match="sigma"):
            fastbg.NoisePath(sigma)
        with pytest.raises(InvalidArgument, match="seed"):
            fastbg.NoisePath(0.1, seed=-1)


class TestAggregation:
    def test_channels_of_opposite_signs(self, tmp_path: Path) -> None:
        attribution = torch.tensor([[3.0, -1.0], [-2.0, -1.0], [1.0, 0.0]]).view(1, 3, 1, 2)
        published = attribution_map(attribution)
        assert torch.equal(published, torch.tensor([[[1.0, 1.0]]]))
        both = attribution_map(attribution, "sum_of_abs")
        torch.testing.assert_close(both, torch.tensor([[[1.0, 2 / 6]]]))

    def test_a_result_is_aggregated_anew_saved_and_loaded(
        self, network: nn.Module, image: Tensor, tmp_path: Path
    ) -> None:
        result = fastbg.LocalAttribution(network).attribute(image, WINDOW, 2)
        other = result.aggregated("sum_of_abs")
        total = result.attribution.abs().sum(1)
        torch.testing.assert_close(other.map, total / total.max())
        assert not torch.equal(other.map, result.map)
        assert float(other.diffusion_index) != float(result.diffusion_index)
        other.save(tmp_path / "map.npz")
        again = fastbg.AttributionResult.load(tmp_path / "map.npz")
        assert again.aggregation == "sum_of_abs"
        assert torch.equal(again.map, other.map)
        assert torch.equal(again.aggregated("abs_of_sum").map, result.map)

    def test_files_without_it_and_with_another(
        self, network: nn.Module, image: Tensor, tmp_path: Path
    ) -> None:
        arrays = fastbg.LocalAttribution(network).attribute(image, WINDOW, 2).to_numpy()
        np.savez(tmp_path / "odd.npz", **{**arrays, "aggregation": np.array("median")})
        with pytest.raises(DataError, match="the aggregation 'median'"):
            fastbg.AttributionResult.load(tmp_path / "odd.npz")
        del arrays["aggregation"]
        np.savez(tmp_path / "older.npz", **arrays)
        assert fastbg.AttributionResult.load(tmp_path / "older.npz").aggregation == "abs_of_sum"

    def test_another_is_refused(self, network: nn.Module, image: Tensor) -> None:
        result = fastbg.LocalAttribution(network).attribute(image, WINDOW, 1)
        with pytest.raises(InvalidArgument, match=r"aggregation: got 'max'; expected one of"):
            result.aggregated("max")
