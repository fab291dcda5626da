"""RCAN as one stack of convolutions with channel attention: equal to its modules."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from runnable_backend import runnable
from stack_cases import close, image, of_instruction_sets
from torch import Tensor

from fastbg.geometry import Box
from fastbg.models.rcan import RCAN, Group
from fastbg.testing import BackendUnderTest

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(autouse=True)
def kernel() -> BackendUnderTest:
    """Skips where the compiled module is missing."""
    return runnable("cpu", "conv_stack")


def small(features: int = 16, groups: int = 2, blocks: int = 2, **options: Any) -> RCAN:
    torch.manual_seed(0)
    net = RCAN(features, groups, blocks, **{"squeezed": 4, **options}).eval().requires_grad_(False)
    with torch.no_grad():
        for name, parameter in net.named_parameters():  # so that the weights differ from 1/2
            if "squeeze" in name or "excite" in name:
                parameter.normal_(std=0.5)
    return net


def by_modules(net: RCAN) -> RCAN:
    """A copy that runs module by module in float64."""
    other = copy.deepcopy(net).double()
    other.native = False
    return other


def check(net: RCAN, x: Tensor, window: tuple[int, ...]) -> None:
    """Values and gradients, of the whole and of a window, against float64."""
    height, width = x.shape[-2:]
    assert net.run_native(x, Box(0, 0, net.scale * height, net.scale * width)) is not None
    exact, x = by_modules(net), x.clone().requires_grad_()
    wide = x.detach().double().requires_grad_()
    rows = (..., slice(window[0], window[2]), slice(window[1], window[3]))
    largest = float(exact(wide).detach().abs().max())
    for got, expected in (
        (net(x), exact(wide)),
        (net.forward_window(x, window), exact(wide)[rows]),
    ):
        close(got, expected.detach(), 3e-6, largest)
        gradient = torch.autograd.grad(got.square().sum(), x)[0]
        wanted = torch.autograd.grad(expected.square().sum(), wide)[0]
        assert float((gradient - wanted).norm() / wanted.norm()) < 1e-4


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9, 15, 30])
def test_of_any_size(size: int) -> None:
    width = (7 * size) % 50 + 1
    net = small(features=64, groups=1, blocks=1)
    check(net, image(2, 3, size, width), (size, width, 4 * size, 4 * width))


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 1},
        {"scale": 2, "groups": 1},
        {"scale": 3, "res_scale": 0.1},
        {"scale": 8, "features": 4},
        {"features": 20, "squeezed": 17, "res_scale": 0.3},
        {"features": 80, "blocks": 1},
        {"squeezed": 1},
        {"res_scale": 0.0},
        {"pooling": 14},
        {"img_range": 1.0, "mean": (0, 0, 0)},
    ],
    ids=str,
)
def test_of_any_kind(options: dict[str, Any]) -> None:
    net = small(**options)
    check(net, image(1, 3, 11, 14), (3, 2, 3 + net.scale, 9 if net.scale < 3 else 21))


def test_local_means_are_not_native() -> None:
    net, x = small(pooling=13), image(1, 3, 11, 14)
    assert net.run_native(x) is None
    close(net(x), by_modules(net)(x.double()), 3e-6)


def test_windows_can_have_the_bits_of_the_whole() -> None:
    net, x = small(features=64), image(2, 3, 14, 19)
    net.equal_windows = True
    for y0, x0, y1, x1 in [(0, 0, 17, 17), (39, 0, 56, 3), (20, 31, 37, 48)]:
        assert torch.equal(net.forward_window(x, (y0, x0, y1, x1)), net(x)[..., y0:y1, x0:x1])


def test_weights_changed_in_any_way_are_seen() -> None:
    net, x = small(features=64), image(1, 3, 12, 12)
    block = net.body[1].blocks[0]
    block.squeeze.weight.mul_(1e-3)
    block.squeeze.bias.fill_(1.0)  # so that the hidden layer is alive
    for part in (block.conv1, block.conv2, block.squeeze, block.excite, net.body[0].conv):
        for parameter in (part.weight, part.bias):
            before = net(x)
            parameter.data.numpy().reshape(-1)[:9] += 0.1
            assert not torch.equal(before, net(x))
            close(net(x), by_modules(net)(x.double()), 3e-6)


def test_an_attention_changed_before_backward_is_refused() -> None:
    net, x = small(), image(1, 3, 9, 9).requires_grad_()
    y = net(x).sum()
    net.body[0].blocks[0].excite.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y, x)


def test_nan_reaches_its_own_image_only() -> None:
    """Of that all, through the means; and nothing of a later call."""
    net, x = small(features=64, blocks=1), image(2, 3, 21, 18)
    clean, bad = net(x), x.clone()
    bad[0, 1, 20, 17] = float("nan")
    leaf = bad.clone().requires_grad_()
    got = net(leaf)
    gradient = torch.autograd.grad(got.square().sum(), leaf)[0]
    assert got[0].isnan().all()
    assert gradient[0].isnan().all()
    assert torch.equal(got[1], clean[1])
    assert gradient[1].isfinite().all()
    assert torch.equal(net(x), clean)


def test_threads_change_no_bit() -> None:
    net, x = small(features=64), image(2, 3, 33, 41).requires_grad_()
    before, results = torch.get_num_threads(), []
    for count in (1, 2, 3, 7):
        torch.set_num_threads(count)
        y = net.forward_window(x, (30, 40, 60, 70))
        results.append((y.detach(), torch.autograd.grad(y.square().sum(), x)[0]))
    torch.set_num_threads(before)
    for y, gradient in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(gradient, results[0][1])


SCRIPT = """
import sys, torch
from fastbg.models.rcan import RCAN
torch.manual_seed(0)
net = RCAN(20, 2, 2, 4, scale=3).eval().requires_grad_(False)
x = torch.rand(2, 3, 13, 10).requires_grad_()
y = net(x)
g, = torch.autograd.grad(net.forward_window(x, (3, 5, 20, 30)).square().sum(), x)
torch.save((y.detach(), g), sys.argv[1])
"""


def test_instruction_sets_agree(tmp_path: Path) -> None:
    results = of_instruction_sets(SCRIPT, tmp_path)
    for y, gradient in results[1:]:
        close(y, results[0][0].double(), 2e-6)
        close(gradient, results[0][1].double(), 1e-5)


class TestWhatRunsByModules:
    """Frozen float32 CPU inference as `__init__` made it, and nothing else, is native."""

    def test_training(self) -> None:
        net, x = small(), image(1, 3, 6, 6)
        net.body[0].blocks[1].squeeze.bias.requires_grad_(True)
        assert net.run_native(x) is None
        net(x).sum().backward()
        assert net.body[0].blocks[1].squeeze.bias.grad is not None
        with torch.no_grad():
            assert net.run_native(x) is not None

    def test_observed_parts(self) -> None:
        net, x = small(), image(1, 3, 6, 6)
        group = net.body[0]
        block = group.blocks[1]
        for module in (net.body, group, group.blocks, block, block.conv2, block.squeeze):
            seen: list[Any] = []
            handle = module.register_forward_hook(lambda *args, seen=seen: seen.append(args))
            net(x)
            handle.remove()
            assert seen

    def test_replaced_parts(self) -> None:
        x = image(1, 3, 6, 6)
        for replaced in ("group", "block", "squeeze", "subclass"):
            net = small()
            if replaced == "group":
                net.body[0] = torch.nn.Identity()
            elif replaced == "block":
                net.body[0].blocks[0] = torch.nn.Identity()
            elif replaced == "squeeze":
                net.body[0].blocks[0].squeeze = torch.nn.Identity()
                net.body[0].blocks[0].excite = torch.nn.Conv2d(16, 16, 1).requires_grad_(False)
            else:
                net.body[0].__class__ = type("OtherGroup", (Group,), {})
            assert net.run_native(x) is None
            close(net(x), by_modules(net)(x.double()), 3e-6)


def test_the_gradient_has_a_gradient() -> None:
    net, x = small(features=4), image(1, 3, 5, 5).requires_grad_()
    exact = by_modules(net)
    wide = x.detach().double().requires_grad_()
    results = []
    for model, leaf in ((net, x), (exact, wide)):
        first = torch.autograd.grad(model(leaf).square().sum(), leaf, create_graph=True)[0]
        results.append(torch.autograd.grad(first.square().sum(), leaf)[0].double())
    assert float((results[0] - results[1]).norm() / results[1].norm()) < 1e-4
