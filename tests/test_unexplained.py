"""Attributions and gradients of zero: marked where the network rounds, not where it is clipped."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fastbg
from fastbg.attribution.explain import explain
from fastbg.attribution.result import AttributionResult
from fastbg.attribution.unexplained import ZeroGradient
from fastbg.cli.attribute import panel_text
from fastbg.errors import InvalidArgument
from fastbg.models.wrapped import wrap


class Enlarged(nn.Module):
    """A convolution and bicubic enlargement, with something done before and after."""

    def __init__(self, before: Callable[..., Tensor], after: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.before, self.after = nn.Conv2d(3, 3, 3, padding=1), before, after

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.before(x))
        return self.after(nn.functional.interpolate(y, scale_factor=4.0, mode="bicubic"))


def same(x: Tensor) -> Tensor:
    return x


def rounded(x: Tensor) -> Tensor:
    return (255 * x).round() / 255


ROUNDING = {
    "its input": Enlarged(rounded, same),
    "its output": Enlarged(same, rounded),
    "and clips its output": Enlarged(same, lambda y: rounded(y.clamp(0, 1))),
}
STEADY = {
    "a clipped output": Enlarged(same, lambda y: (y + 9).clamp(0, 1)),
    "an output of one colour": Enlarged(same, lambda y: 0 * y + 0.5),
}
EXPLANATIONS = {
    "path": lambda net: fastbg.LocalAttribution(net).attribute,
    "idgi": lambda net: fastbg.LocalAttribution(net, estimator="idgi").attribute,
    "with its error": lambda net: (
        lambda *a, **k: fastbg.LocalAttribution(net).attribute(
            *a, **k, return_convergence_delta=True
        )
    ),
    "expected": lambda net: (
        fastbg.ExpectedGradients(
            net, torch.tensor([0.2, 0.8]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
        ).attribute
    ),
}
IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
WINDOWS = torch.tensor([[[8, 8, 16], [24, 24, 8]], [[0, 0, 12], [30, 20, 16]]])
each_explanation = pytest.mark.parametrize("name", EXPLANATIONS)


@each_explanation
@pytest.mark.parametrize("kind", ROUNDING)
def test_a_network_that_rounds_is_marked(kind: str, name: str) -> None:
    explained = EXPLANATIONS[name](ROUNDING[kind])
    with pytest.warns(ZeroGradient, match="attribution of 4 windows is zero .* rounds"):
        result = explained(IMAGES, WINDOWS, n_steps=3)
    assert not result.attribution.any()
    assert result.unexplained.tolist() == [[True, True], [True, True]]


@each_explanation
@pytest.mark.parametrize("kind", STEADY)
def test_a_window_that_does_not_change_is_rightly_zero(kind: str, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = EXPLANATIONS[name](STEADY[kind])(IMAGES, WINDOWS, n_steps=3)
        gradient = fastbg.window_gradient(STEADY[kind], IMAGES, WINDOWS)
    assert not result.attribution.any()
    assert not gradient.any()
    assert not result.unexplained.any()


def test_only_the_windows_that_change_are_marked(tmp_path: Path) -> None:
    """The left half is rounded, the right one clipped; both have a gradient of zero."""

    def halves(y: Tensor) -> Tensor:
        half = y.shape[-1] // 2
        return torch.cat([rounded(y[..., :half]), (y[..., half:] + 9).clamp(0, 1)], -1)

    model = Enlarged(same, halves)
    windows = torch.tensor([[8, 8, 16], [8, 40, 16]])
    with pytest.warns(ZeroGradient, match="attribution of a window is zero"):
        result = fastbg.LocalAttribution(model).attribute(IMAGES[:1], windows, 3)
    assert result.unexplained.tolist() == [True, False]
    result.save(tmp_path / "r.npz")
    assert AttributionResult.load(tmp_path / "r.npz").unexplained.tolist() == [True, False]
    with pytest.warns(ZeroGradient, match="gradient of a window is zero .* contrast"):
        fastbg.window_gradient(model, IMAGES[:1], windows[None])


def test_other_results_are_not_marked() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = fastbg.LocalAttribution(Enlarged(same, same)).attribute(IMAGES, WINDOWS, 3)
        flat = fastbg.LocalAttribution(Enlarged(same, same)).attribute(IMAGES * 0, WINDOWS, 3)
    assert not result.unexplained.any()
    assert not flat.unexplained.any()  # a path that leads nowhere


def test_a_gradient_that_vanishes_only_at_the_nodes_is_not_called_rounding() -> None:
    """The only node is the image itself, a point, where this is clipped; the baseline is not."""

    def sum_of(sr: Tensor) -> Tensor:
        return sr.sum((1, 2, 3))

    point = torch.zeros(1, 3, 16, 16)
    point[..., 8, 8] = 1

    class Clipped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.interpolate(x.clamp(max=0.9), scale_factor=4.0)

    with pytest.warns(ZeroGradient, match="or is clipped at each point where the gradient"):
        result = fastbg.LocalAttribution(Clipped(), objective=sum_of).attribute(
            point, (32, 32, 4), 1
        )
    assert result.unexplained.tolist() == [True]


def test_bytes_are_refused() -> None:
    model = Enlarged(lambda x: (255 * x).byte().float() / 255, same)
    with pytest.raises(InvalidArgument, match="no detach, no_grad or rounding inside"):
        fastbg.LocalAttribution(model).attribute(IMAGES, (8, 8, 16), 3)


def test_the_command_line_says_so() -> None:
    for model, said in ((ROUNDING["its output"], True), (STEADY["a clipped output"], False)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZeroGradient)
            (panel,) = explain(IMAGES[0], {"net": wrap(model, 4)}, (8, 8, 16), n_steps=3)
        text = panel_text(panel)
        assert text.startswith("net: nothing attributed")
        assert ("but no result: the network or the objective rounds" in text) is said
