"""Stacks of convolutions on Triton kernels: how many launches there are, and how many maps."""

import importlib.util
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from runnable_backend import runnable
from stack_cases import image
from stack_launches import Launches
from torch import Tensor

from fastbg.models.edsr import EDSR
from fastbg.models.rcan import RCAN

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from fastbg.backends import stack_passes
from fastbg.backends.conv_arguments import empty_maps
from fastbg.kernels.launch import Launch

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(scope="module")
def device() -> torch.device:
    return runnable("triton", "conv_stack").device


@pytest.fixture
def chosen(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Networks take the triton backend, which "auto" would not take on CPU tensors."""
    monkeypatch.setenv("FASTBG_BACKEND", "triton")
    return device


@pytest.fixture
def counted(chosen: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launches]:
    """Launches are counted instead of run."""
    launches = Launches()

    def count(launch: Launch) -> None:
        launches.kernels += launch.programs > 0

    monkeypatch.setattr(Launch, "run", count)
    return launches


def test_edsr_takes_less_than_45_launches(counted: Launches, chosen: torch.device) -> None:
    """Weights, 37 convolutions, and four functions of PyTorch's around them; 165 by modules."""
    net = EDSR().eval().requires_grad_(False).to(chosen)
    x = image(1, 3, 8, 8).to(chosen)
    net(x)  # the table of addresses is on the device from now on
    counted.kernels = 0
    with counted:
        net(x)
    assert counted.kernels == 38
    assert counted.total < 45, counted.torch


def test_edsr_and_its_gradient_take_less_than_90(counted: Launches, chosen: torch.device) -> None:
    net = EDSR().eval().requires_grad_(False).to(chosen)
    x = image(1, 3, 8, 8).to(chosen).requires_grad_()
    net(x)
    counted.kernels = 0
    with counted:
        torch.autograd.grad(net(x).sum(), x)
    assert counted.kernels == 2 * 38
    assert counted.total < 90, counted.torch


def test_rcan_takes_three_launches_a_block(counted: Launches, chosen: torch.device) -> None:
    net = RCAN(groups=2, blocks=3).eval().requires_grad_(False).to(chosen)
    net(image(1, 3, 8, 8).to(chosen))
    # Two convolutions and the attention in a block; a group's end; weights, both ends, two shuffles
    assert counted.kernels == 2 * 3 * 3 + 2 + 1 + 2 + 2 + 1


def test_maps_are_not_kept_longer_than_they_are_used(
    counted: Launches, chosen: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a gradient, deeper networks need no more memory."""
    made: list[weakref.ref[Tensor]] = []
    most = 0

    def watched(*sizes: Any) -> Tensor:
        nonlocal most
        maps = empty_maps(*sizes)
        made.append(weakref.ref(maps))
        most = max(most, sum(one() is not None for one in made))
        return maps

    monkeypatch.setattr(stack_passes, "empty_maps", watched)
    net = EDSR(scale=1).eval().requires_grad_(False).to(chosen)
    net(image(1, 3, 9, 9).to(chosen))
    assert len(made) == 35
    assert most == 4  # of the whole body, of the block, between its convolutions, and its result
