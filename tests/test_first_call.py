"""A table that the first call makes serves every later call, whatever mode the first one was in."""

import os
import subprocess
import sys

import pytest
import torch

import fastbg

PROGRAM = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fastbg

images = torch.rand(2, 3, 32, 32)
pairs = torch.tensor([[0, 1]])
inner, outer = torch.tensor([8, 8, 16, 16]), torch.tensor([0, 0, 32, 32])
CALLS = {
    "texture_gram": fastbg.texture_gram,
    "ssim": lambda x: fastbg.ssim(x, 1 - x),
    "composite": lambda x: fastbg.composite(x, 1 - x, pairs, inner, outer, seam=4.0),
    "composite_lr": lambda x: fastbg.composite_lr(x, 1 - x, pairs, inner, outer, scale=4),
    "bridged": lambda x: fastbg.composite_lr(x, 1 - x, pairs, inner, outer, scale=4, seam=4.0),
}
WITHOUT_DERIVATIVE = ("composite_lr", "bridged")


def first(call):
    mode = %s
    with mode:
        call(mode.from_tensor(images) if isinstance(mode, FakeTensorMode) else images)


for name, call in CALLS.items():
    first(call)
    x = images.clone().requires_grad_(name not in WITHOUT_DERIVATIVE)
    result = call(x)
    assert type(result) is torch.Tensor, (name, type(result))
    if x.requires_grad:
        result.sum().backward()
        assert x.grad.isfinite().all(), name
"""
MODES = ("torch.inference_mode()", "FakeTensorMode(allow_non_fake_inputs=True)")


@pytest.mark.parametrize("mode", MODES)
def test_tables_of_the_first_call_serve_every_later_one(mode: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", PROGRAM % mode]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["edsr", "rcan", "swinir"])
def test_a_network_loaded_in_inference_mode_has_gradients(name: str) -> None:
    with torch.inference_mode():
        network = fastbg.load_model(name)
    image = torch.rand(1, 3, 24, 24)
    networks = (network, fastbg.load_model(name))
    got, expected = (fastbg.LocalAttribution(n).attribute(image, (40, 40, 16)) for n in networks)
    assert torch.equal(got.map, expected.map)
    network.requires_grad_(True)(image).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
