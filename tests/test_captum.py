"""The adapter for Captum: its own values, Captum's values, and Captum's tools around it."""

import importlib.util

import pytest
import torch
from torch import Tensor

import fastbg
from fastbg.errors import InvalidArgument
from fastbg.models.edsr import EDSR

if importlib.util.find_spec("captum") is None:
    pytest.skip("the package captum is not installed", allow_module_level=True)

from captum.attr import IntegratedGradients, NoiseTunnel

from fastbg.captum import LAM

WINDOW = (16, 12, 8)


@pytest.fixture(scope="module")
def net() -> EDSR:
    torch.manual_seed(0)
    return EDSR(features=8, blocks=1).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 14, 14, generator=torch.Generator().manual_seed(1))


def detected(net: EDSR, images: Tensor) -> Tensor:
    y, x, size = WINDOW
    return fastbg.gradient_detector(net(images), (y, x, y + size, x + size))


def test_its_values_are_local_attribution_s(net: EDSR, images: Tensor) -> None:
    expected = fastbg.LocalAttribution(net).attribute(
        images, WINDOW, 20, return_convergence_delta=True
    )
    found, delta = LAM(net).attribute(
        images, target=WINDOW, n_steps=20, return_convergence_delta=True
    )
    assert torch.equal(found, expected.attribution)
    assert torch.equal(delta, expected.convergence_delta)
    assert torch.equal(LAM(net).attribute(images, target=WINDOW, n_steps=20), found)


@pytest.mark.parametrize(
    "method", ["gausslegendre", "riemann_left", "riemann_right", "riemann_trapezoid"]
)
def test_with_baselines_its_values_are_captum_s(net: EDSR, images: Tensor, method: str) -> None:
    baseline = torch.rand(images.shape, generator=torch.Generator().manual_seed(2))
    size = float(detected(net, images).abs().max())
    theirs, their_delta = IntegratedGradients(lambda x: detected(net, x)).attribute(
        images, baseline, n_steps=24, method=method, return_convergence_delta=True
    )
    if method == "riemann_trapezoid":  # the weights of Captum's add up to (n - 1) / n
        change = detected(net, images) - detected(net, baseline)
        theirs, their_delta = theirs * (24 / 23), (their_delta + change) * (24 / 23) - change
    lam = LAM(net)
    ours, delta = lam.attribute(
        images, baseline, WINDOW, n_steps=24, method=method, return_convergence_delta=True
    )
    torch.testing.assert_close(ours, theirs.float(), atol=1e-5 * float(ours.abs().max()), rtol=1e-3)
    torch.testing.assert_close(delta, their_delta.double(), atol=1e-5 * size, rtol=0)
    again = lam.compute_convergence_delta(ours, baseline, images, WINDOW)
    torch.testing.assert_close(again, delta, atol=1e-5 * size, rtol=0)


def test_captum_s_tools_take_it(net: EDSR, images: Tensor) -> None:
    lam = LAM(net)
    assert lam.has_convergence_delta()
    assert lam.multiplies_by_inputs
    tunnel = NoiseTunnel(lam)
    noisy = tunnel.attribute(images, nt_samples=2, stdevs=0.0, target=WINDOW, n_steps=5)
    torch.testing.assert_close(noisy, lam.attribute(images, target=WINDOW, n_steps=5))


def test_bad_arguments_are_named(net: EDSR, images: Tensor) -> None:
    lam = LAM(net)
    with pytest.raises(InvalidArgument, match=r"target: .* window \(y, x, size\)"):
        lam.attribute(images)
    with pytest.raises(InvalidArgument, match="additional_forward_args"):
        lam.attribute(images, target=WINDOW, additional_forward_args=(1,))
    with pytest.raises(InvalidArgument, match="target: got several windows"):
        lam.attribute(images, target=[[(1, 1, 4), (5, 5, 4)]] * 2)
    with pytest.raises(InvalidArgument, match="windows"):
        lam.compute_convergence_delta(images, 0.0, images[:1], [(1, 1, 4), (5, 5, 4)])
    with pytest.raises(InvalidArgument, match="windows"):
        lam.attribute(images, target=(100, 0, 8))
