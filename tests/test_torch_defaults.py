"""torch.set_default_dtype and torch.set_default_device change no result, and no memory is overrun.

Each setting is that of a whole process, and what the first call makes is kept: a process for each.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROGRAM = """
import sys

import torch

import fastbg
from fastbg.models.bicubic import Bicubic

random = torch.Generator("cpu").manual_seed(0)


def rand(*shape):
    return torch.rand(shape, generator=random, dtype=torch.float32, device="cpu")


a, b, lr = rand(2, 3, 32, 32), rand(2, 3, 32, 32), rand(1, 3, 20, 24)
weight, gradients, features = rand(16, 3, 3, 3) - 0.5, rand(2, 2, 3, 32, 32), rand(1, 16, 16, 16)
norm = [rand(16), rand(16)]
attention = norm + [rand(*s) for s in ((48, 16), (48,), (225, 4), (16, 16), (16,))]
mlp = norm + [rand(*s) for s in ((32, 16), (32,), (16, 32), (16,))]
leaf = rand(1, 3, 12, 12).requires_grad_()
weights = rand(4, 3, 3, 3).requires_grad_()
WINDOW, ROUND = (40, 36, 16), dict(heads=4, window=8, shift=4)
exec(sys.argv[1])


def lam(net, **k):
    return fastbg.LocalAttribution(net, **k).attribute(lr, WINDOW, 3)


def weight_gradient():
    fastbg.conv3x3(leaf, weights, relu=True).square().sum().backward()
    return torch.cat([leaf.grad.flatten(), weights.grad.flatten()])


pairs, inner = [[0, 1], [1, 0]], (8, 8, 16, 16)
made = {
    "composite": fastbg.composite(a, b, pairs, inner),
    "composite_lr": fastbg.composite_lr(a, b, pairs, inner, seam=2.0),
    "mosaic": fastbg.mosaic(a, [[[0, 1], [2, 3]]] * 2),
    "blur_path": fastbg.blur_path(a, [1.2, 0.3, 0.0]),
    "path_integral": fastbg.path_integral(gradients, a, [1.2, 0.3, 0.0], weights=[0.3, 1.0]),
    "gradient_detector": fastbg.gradient_detector(a, (4, 4, 20, 20)),
    "texture_gram": fastbg.texture_gram(a),
    "psnr": fastbg.psnr(a, b),
    "ssim": fastbg.ssim(a, b),
    "conv3x3": fastbg.conv3x3(a, weight, upscale=2),
    "weight_gradient": weight_gradient(),
    "window_attention": fastbg.window_attention(features, *attention, **ROUND),
    "pixel_mlp": fastbg.pixel_mlp(features, *mlp),
    "bicubic": Bicubic(4)(lr) if torch.get_default_dtype() == torch.float32 else a,
}
nets = {name: fastbg.load_model(name) for name in ("edsr", "rcan", "swinir")}
for name, net in nets.items():
    made[name] = net(lr)
    made[name + " lam"] = lam(net).map
net = nets["edsr"]
values = lam(net).map
made |= {
    "diffusion index": lam(net).diffusion_index,
    "noise path": lam(net, path=fastbg.NoisePath()).map,
    "occlusion": fastbg.Occlusion(net).occlude(lr, WINDOW, 8, replacement=0.3).map,
    "effect": fastbg.CausalEffectMap(net, 4, 2, 2, metric="change").effect(lr, WINDOW).effect,
    "receptive field": fastbg.receptive_field(net, lr, WINDOW).map,
    "deletion": fastbg.faithfulness(net, values, lr, WINDOW, counts=4).deletion["map"],
    "expected": fastbg.ExpectedGradients(net, 1 - lr).attribute(lr, WINDOW, samples=4).map,
    "sanity": fastbg.sanity_checks(
        net, lambda m, x, w: fastbg.window_gradient(m, x, w).abs().sum(1), lr, WINDOW, (0, 0, 8),
        layers=2,
    ).cascade,
}
torch.save(made, sys.argv[2])
"""
SETTINGS = {
    "float64": "torch.set_default_dtype(torch.float64)",
    "bfloat16": "torch.set_default_dtype(torch.bfloat16)",
    "meta": "torch.set_default_device('meta')",
}


def results(setting: str, file: Path) -> dict[str, torch.Tensor]:
    """What PROGRAM computes in a process of its own after `setting`."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", PROGRAM, setting, str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, torch.Tensor] = torch.load(file)
    return found


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return results("", tmp_path_factory.mktemp("usual") / "results.pt")


@pytest.mark.parametrize("setting", SETTINGS)
def test_torch_defaults_change_nothing(
    setting: str, usual: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    found = results(SETTINGS[setting], tmp_path / "results.pt")
    assert found.keys() == usual.keys()
    for name, value in usual.items():
        assert found[name].device.type == "cpu", name
        if name == "bicubic" and setting != "meta":
            continue  # made under that default dtype, as any module
        torch.testing.assert_close(
            found[name],
            value,
            rtol=1e-5,
            atol=1e-6,
            equal_nan=True,
            msg=lambda m, n=name: f"{n}: {m}",
        )
