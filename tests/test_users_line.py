"""Warnings point at the line that called fastbg, through whatever decorators and callers."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import fastbg
from fastbg.attribution.unexplained import ZeroGradient
from fastbg.models.wrapped import wrap
from fastbg.stats.intervals import bootstrap_mean

IMAGE, WINDOW = torch.linspace(0, 1, 3 * 8 * 8).view(1, 3, 8, 8), (8, 8, 8)
BASELINES = torch.tensor([0.2, 0.8]).view(2, 1, 1, 1).expand(2, 3, 1, 1)


class Rounding(nn.Module):
    """Its gradient is zero everywhere, while its output changes."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate((20 * x).round() / 20, scale_factor=4.0)


def attribute() -> None:
    lam = fastbg.LocalAttribution(Rounding())
    lam.attribute(IMAGE, WINDOW, 3)  # the user's line


def attribute_with_delta() -> None:
    lam = fastbg.LocalAttribution(wrap(Rounding(), 4), fastbg.LinearPath(0.5))
    lam.attribute(IMAGE, WINDOW, 3, return_convergence_delta=True)  # the user's line


def expected_gradients() -> None:
    lam = fastbg.ExpectedGradients(Rounding(), BASELINES)
    lam.attribute(IMAGE, WINDOW, 3)  # the user's line


def window_gradient() -> None:
    fastbg.window_gradient(Rounding(), IMAGE, WINDOW)  # the user's line


def captum() -> None:
    pytest.importorskip("captum")
    from fastbg.captum import LAM

    lam = LAM(Rounding())
    lam.attribute(IMAGE, target=WINDOW, n_steps=3)  # the user's line


def lines_of(caught: list[warnings.WarningMessage]) -> list[str]:
    """The source of the lines that warnings point at."""
    return [Path(w.filename).read_text().splitlines()[w.lineno - 1] for w in caught]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "call", [attribute, attribute_with_delta, expected_gradients, window_gradient, captum]
)
def test_zero_gradients(call: Callable[[], None], mode: Callable[[], torch.no_grad]) -> None:
    with pytest.warns(ZeroGradient) as caught:
        mode()(call)()
    told = lines_of(caught.list)
    assert told
    assert all(line.endswith("  # the user's line") for line in told)


def test_it_is_shown_once_for_each_line_and_can_be_an_error_there() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            attribute()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=ZeroGradient, module=__name__)
        with pytest.raises(ZeroGradient):
            attribute()


def test_former_names() -> None:
    with pytest.warns(DeprecationWarning, match="bootstrap_mean is") as caught:
        bootstrap_mean([1.0, 2.0, 3.0])  # the user's line
    with pytest.warns(DeprecationWarning, match="fastbg.statistics is") as more:
        fastbg.__getattr__("statistics")  # the user's line
    assert all(line.endswith("  # the user's line") for line in lines_of([*caught, *more]))


def test_own_lr_images_that_do_not_fit(tmp_path: Path) -> None:
    for folder, side in (("HR", 64), ("LR_bicubic/X2", 32)):
        (tmp_path / folder).mkdir(parents=True)
        name = "a.png" if folder == "HR" else "ax2.png"
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(tmp_path / folder / name)
    images, net = fastbg.open_images(tmp_path), wrap(Rounding(), 4)
    with pytest.warns(UserWarning, match="made by matlab bicubic") as caught:
        list(fastbg.evaluate([net], images))  # the user's line
    assert all(line.endswith("  # the user's line") for line in lines_of(caught.list))


def test_importing_a_former_module(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import fastbg\n\nfrom fastbg import statistics\n")
    told = subprocess.run(
        [sys.executable, "-W", "always", script], capture_output=True, text=True, check=True
    ).stderr
    assert f"{script}:3: DeprecationWarning: fastbg.statistics is" in told
