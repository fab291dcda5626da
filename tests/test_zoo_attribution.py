"""Explanations of HAT, DAT and SwinIR variants: through spandrel's file reader, and as modules.

Needs fastbg[zoo]. Weights are random, the references are the plain loops of `test_any_network`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_any_network import photographs, plain_lam  # noqa: F401  # a fixture
from test_zoo import architecture, saved
from torch import Tensor, nn

import fastbg
from fastbg.geometry import Box

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")

SWIN = {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 2], "window_size": 8, "mlp_ratio": 2}
HAT = {**SWIN, "depths": (2, 2), "num_heads": (2, 2), "compress_ratio": 3, "squeeze_factor": 4}
DAT = {"embed_dim": 32, "depth": [2], "num_heads": [2], "split_size": [4, 8], "expansion_factor": 2}
# Architecture, scale, options; in the order of the table in docs/guide/any_network.md.
VARIANTS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "SwinIR, denoising": ("SwinIR", 1, {**SWIN, "upsampler": "", "img_range": 1.0}),
    "SwinIR x2, lightweight": ("SwinIR", 2, {**SWIN, "upsampler": "pixelshuffledirect"}),
    "SwinIR x3": ("SwinIR", 3, {**SWIN, "upsampler": "pixelshuffle"}),
    "SwinIR x4, real-world": ("SwinIR", 4, {**SWIN, "upsampler": "nearest+conv"}),
    "SwinIR x8": ("SwinIR", 8, {**SWIN, "upsampler": "pixelshuffle"}),
    "HAT x2": ("HAT", 2, HAT),
    "HAT x3": ("HAT", 3, HAT),
    "HAT x4": ("HAT", 4, HAT),
    "DAT x2": ("DAT", 2, DAT),
    "DAT x3, light": ("DAT", 3, {**DAT, "upsampler": "pixelshuffledirect"}),
    "DAT x4": ("DAT", 4, DAT),
}
HEIGHT, WIDTH = 16, 24  # multiples of the windows: the module runs without padding


def built(name: str) -> nn.Module:
    """The authors' module, as spandrel holds it."""
    kind, scale, options = VARIANTS[name]
    torch.manual_seed(0)
    net: nn.Module = architecture(kind)(img_size=16, upscale=scale, **options)
    return net.eval()


def image(height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", VARIANTS)
def test_file_and_module_are_attributed_alike(name: str, tmp_path: Path) -> None:
    module, scale = built(name), VARIANTS[name][1]
    loaded = fastbg.load_model(saved({"params": module.state_dict()}, tmp_path))
    assert loaded.scale == scale
    windows = [(0, 0, 4), (HEIGHT * scale - 6, WIDTH * scale - 6, 6)]
    expected = torch.stack([plain_lam(module, image(), window, 3) for window in windows])
    peak = float(expected.abs().max())
    for net in (loaded, module):
        lam = fastbg.LocalAttribution(net, skip_tolerance=0)
        found = lam.attribute(image(), windows, 3).attribution
        # Both are float32, which at low gradients of the square root shows.
        torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=1e-3 * peak)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_side_that_needs_padding_and_every_explanation(name: str, tmp_path: Path) -> None:
    scale, (height, width) = VARIANTS[name][1], (13, 18)
    net = fastbg.load_model(saved(built(name).state_dict(), tmp_path))
    x = image(height, width)
    window = height * scale - 4, width * scale - 4, 4
    field = fastbg.receptive_field(net, x, window)
    leaf = x.clone().requires_grad_()
    net(leaf)[..., -4:, -4:].sum().backward()
    expected = leaf.grad[0].clamp(min=0).double().sum(0)
    torch.testing.assert_close(field.total, expected, rtol=0, atol=1e-4 * float(expected.max()))
    map_ = fastbg.LocalAttribution(net).attribute(x, window, 2).map
    curves = fastbg.faithfulness(net, map_, x, window, counts=[4, height * width], draws=1)
    assert float(curves.insertion["map"][0, -1]) == pytest.approx(0, abs=1e-5)
    assert curves.deletion["map"].isfinite().all()
    effects = fastbg.CausalEffectMap(net, block=6, coarse=1, fine=1, metric="change")
    result = effects.effect(x, window)
    put = torch.from_numpy(result.interventions.coarse[0, 0, 0]).permute(2, 0, 1).float() / 255
    with torch.no_grad():
        unchanged = net(x)[..., -4:, -4:]
        x[..., :6, :6] = put
        change = 255 * (net(x)[..., -4:, -4:] - unchanged).square().mean().sqrt()
    assert float(result.coarse_values[0, 0, 0, 0]) == pytest.approx(
        float(change), rel=1e-3, abs=1e-3
    )


@pytest.mark.parametrize("name", ["SwinIR, denoising", "HAT x3", "DAT x2"])
def test_scores(name: str, tmp_path: Path, photographs: Path) -> None:  # noqa: F811
    scale = VARIANTS[name][1]
    net = fastbg.load_model(saved(built(name).state_dict(), tmp_path))
    images = fastbg.open_images(photographs)
    for score, item in zip(
        fastbg.evaluate([net], images, channel="rgb"), images.items, strict=True
    ):
        hr = item.load()
        low = fastbg.downsample(hr, scale) if scale > 1 else hr
        x = torch.from_numpy(low.copy()).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            sr = net(x).clamp(0, 1)
        truth = torch.from_numpy(hr.copy()).permute(2, 0, 1)[None].float() / 255
        inside = Box(scale, scale, hr.shape[0] - scale, hr.shape[1] - scale)
        expected = float(fastbg.psnr((sr * 255).round() / 255, truth, inside))
        assert score.psnr == pytest.approx(expected, abs=1e-3)
        assert np.isfinite(score.ssim)
