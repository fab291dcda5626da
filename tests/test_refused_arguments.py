"""Arguments of attributions and measures that were taken for something else are refused by name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastbg
from fastbg.errors import InvalidArgument

IMAGE, HR, WINDOW = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 64, 64), (24, 24, 16)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return fastbg.wrap(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Upsample(scale_factor=4)), 4)


def fade(x: Tensor, t: Tensor) -> Tensor:
    return t[:, None, None, None] * x[:, None]


PATHS: dict[str, tuple[str, Callable[[], fastbg.attribution.Path]]] = {
    "a baseline of 0..255": ("baseline", lambda: fastbg.LinearPath(255 * IMAGE)),
    "a baseline of bytes": ("baseline", lambda: fastbg.LinearPath((255 * IMAGE).byte())),
    "a dark baseline of bytes": ("baseline", lambda: fastbg.LinearPath((IMAGE > 2).byte())),
    "a baseline in [-1,1]": ("baseline", lambda: fastbg.LinearPath(2 * IMAGE - 1 - 1e-3)),
    "a baseline with NaN": ("baseline", lambda: fastbg.LinearPath(IMAGE * torch.nan)),
    "a complex baseline": ("baseline", lambda: fastbg.LinearPath(IMAGE + 0j)),
    "a sparse baseline": ("baseline", lambda: fastbg.LinearPath(IMAGE.to_sparse())),
    "a meta baseline": ("baseline", lambda: fastbg.LinearPath(IMAGE.to("meta"))),
    "a grey level of 0..255": ("baseline", lambda: fastbg.LinearPath(127)),
    "a grey level of NaN": ("baseline", lambda: fastbg.LinearPath(float("nan"))),
    "a baseline of numpy": ("baseline", lambda: fastbg.LinearPath(IMAGE.numpy())),  # type: ignore
    "no baseline": ("baseline", lambda: fastbg.LinearPath(None)),  # type: ignore[arg-type]
    "a width of infinity": ("sigma", lambda: fastbg.GaussianLinearPath(float("inf"))),
    "a width as text": ("sigma", lambda: fastbg.GaussianBlurPath("1.2")),  # type: ignore[arg-type]
    "9.5 taps": ("kernel_size", lambda: fastbg.GaussianBlurPath(1.2, 9.5)),  # type: ignore
    "more taps than memory": ("kernel_size", lambda: fastbg.GaussianBlurPath(1.2, 99_999)),
    "nodes of 0..255": ("nodes", lambda: fastbg.CustomPath(lambda x, t: 255 * fade(x, t))),
    "nodes in numpy": ("nodes", lambda: fastbg.CustomPath(lambda x, t: fade(x, t).numpy())),  # type: ignore
    "nodes that are None": ("nodes", lambda: fastbg.CustomPath(lambda x, t: None)),  # type: ignore
    "whole nodes": ("nodes", lambda: fastbg.CustomPath(lambda x, t: fade(x, t).long())),
    "wide nodes": ("nodes", lambda: fastbg.CustomPath(lambda x, t: fade(x, t).double())),
    "NaN in nodes": ("nodes", lambda: fastbg.CustomPath(lambda x, t: fade(x, t) * torch.nan)),
    "nodes that end elsewhere": ("nodes", lambda: fastbg.CustomPath(lambda x, t: fade(x, t) / 2)),
    "complex steps": ("derivatives", lambda: fastbg.CustomPath(fade, lambda x, t: fade(x, t) + 0j)),
}


@pytest.mark.parametrize("name", PATHS)
def test_paths(name: str, net: nn.Module) -> None:
    argument, path = PATHS[name]
    with pytest.raises(InvalidArgument, match=f"^{argument}: "):
        fastbg.LocalAttribution(net, path()).attribute(IMAGE, WINDOW, 3)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("path", "blur"),
        ("objective", 5),
        ("objective", lambda patch: None),
        ("objective", lambda patch: 1.0),
        ("objective", lambda patch: patch.sum((1, 2, 3)) + 0j),
        ("autocast", torch.float64),
        ("autocast", torch.int8),
        ("autocast", "bf16"),
    ],
)
def test_settings(argument: str, value: Any, net: nn.Module) -> None:
    with pytest.raises(InvalidArgument, match=f"^{argument}: got .*; expected "):
        fastbg.LocalAttribution(net, **{argument: value}).attribute(IMAGE, WINDOW, 3)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("n_steps", value) for value in (1.5, "3", True)),
        *(("internal_batch_size", value) for value in (1.5, "3", True, 0)),
        *(("windows", value) for value in (None, "abc", ("a", 1, 2), {1, 2, 3})),
    ],
)
def test_arguments_of_attribute(argument: str, value: Any, net: nn.Module) -> None:
    given: dict[str, Any] = {"windows": WINDOW, "n_steps": 3} | {argument: value}
    with pytest.raises(InvalidArgument, match=f"^{argument}: got .*; expected "):
        fastbg.LocalAttribution(net).attribute(IMAGE, **given)


@pytest.mark.parametrize("value", [HR.to_sparse(), HR.bool(), HR + 0j, HR.numpy(), HR.long()])
def test_truth(value: Any, net: nn.Module) -> None:
    with pytest.raises(InvalidArgument, match=r"^truth: got "):
        fastbg.Occlusion(net, "psnr").occlude(IMAGE, WINDOW, truth=value)


@pytest.mark.parametrize("value", [IMAGE > 0.5, IMAGE + 0j, IMAGE.to_sparse(), IMAGE.to("meta")])
def test_replacement(value: Tensor, net: nn.Module) -> None:
    with pytest.raises(InvalidArgument, match=r"^replacement: got "):
        fastbg.Occlusion(net).occlude(IMAGE, WINDOW, replacement=value)


def test_replacement_by_a_function(net: nn.Module) -> None:
    with pytest.raises(InvalidArgument, match=r"^replacement: got torch\.bool"):
        fastbg.Occlusion(net).occlude(IMAGE, WINDOW, replacement=lambda under: under > 0.5)


def test_sanity_checks_need_an_image(net: nn.Module) -> None:
    def explain(model: nn.Module, images: Tensor, windows: Tensor) -> Tensor:
        return images.sum(1)

    with pytest.raises(InvalidArgument, match=r"^images: got shape .*at least one image"):
        fastbg.sanity_checks(net, explain, IMAGE[:0], WINDOW, (8, 8, 16))


@pytest.mark.parametrize("measure", [fastbg.psnr, fastbg.ssim])
@pytest.mark.parametrize("value", [None, IMAGE.tolist(), IMAGE.numpy(), IMAGE.to_sparse()])
def test_measures(measure: Callable[..., Tensor], value: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"^sr: got "):
        measure(value, IMAGE)
    with pytest.raises(InvalidArgument, match=r"^hr: got "):
        measure(IMAGE, value)
    with pytest.raises(InvalidArgument, match=r"^sr: got device cpu; expected hr's device meta"):
        measure(IMAGE, IMAGE.to("meta"))


@pytest.mark.parametrize("taps", [9.0, "9", True, np.float64(9)])
def test_taps_are_whole(taps: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"^kernel_size: got "):
        fastbg.blur_path(IMAGE, [1.0], taps)


def test_the_arc_length_is_summed_in_parts() -> None:
    """It was one array of 4,097 kernels; all the same it has a value for each position."""
    path = fastbg.GaussianBlurPath(1.2, 9)
    fractions = np.linspace(0, 1, 9)
    positions = path.at_length(fractions)
    sigmas = 1.2 * (1 - np.linspace(0, 1, 4097))
    x = np.arange(-4, 5)
    taps = np.exp(-(x**2) / (2 * (sigmas[:, None] + 1e-5) ** 2))
    taps /= taps.sum(1, keepdims=True)
    kernels = taps[:, :, None] * taps[:, None]
    length = np.concatenate(([0], np.abs(np.diff(kernels, axis=0)).sum((1, 2)).cumsum()))
    wanted = np.interp(fractions * length[-1], length, np.linspace(0, 1, 4097))
    assert np.allclose(positions[:-1], wanted[:-1], rtol=0, atol=1e-12)
