"""EDSR as one stack of convolutions: equal to its modules, and only where it may be."""

import copy
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from runnable_backend import runnable
from stack_cases import close, image, of_instruction_sets
from torch import Tensor

from fastbg.backends.cpu import conv_stack as cpu_stack
from fastbg.errors import BackendUnavailable
from fastbg.geometry import Box
from fastbg.models.edsr import EDSR
from fastbg.registration import conv_stack as registered
from fastbg.testing import BackendUnderTest

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(autouse=True)
def kernel() -> BackendUnderTest:
    """Skips where the compiled module is missing."""
    return runnable("cpu", "conv_stack")


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def small(features: int = 16, blocks: int = 2, **options: Any) -> EDSR:
    torch.manual_seed(0)
    return EDSR(features=features, blocks=blocks, **options).eval().requires_grad_(False)


def by_modules(net: EDSR) -> EDSR:
    """A copy that runs module by module in float64."""
    other = copy.deepcopy(net).double()
    other.native = False
    return other


@pytest.mark.parametrize("size", [*range(1, 10), 15, 31, 46, 63, 70])
def test_edsr_of_any_size(size: int) -> None:
    net = small(features=64, blocks=1)
    x = image(2, 3, size, (7 * size) % 70 + 1)
    got = net(x)
    assert net.run_native(x, Box(0, 0, 4 * x.shape[2], 4 * x.shape[3])) is not None
    close(got, by_modules(net)(x.double()), 3e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 1},
        {"scale": 2},
        {"scale": 3, "res_scale": 0.1},
        {"scale": 8, "features": 4},
        {"features": 20, "res_scale": 0.3},
        {"features": 80, "blocks": 3},
        {"blocks": 0},
        {"img_range": 1.0, "mean": (0, 0, 0)},
    ],
    ids=str,
)
def test_edsr_of_any_kind(options: dict[str, Any]) -> None:
    net = small(**options)
    exact = by_modules(net)
    # With another image (seed 0) the ReLU nearest to its kink, of the net of 80 features, lies
    # within rounding: 5e-5 of values of some hundred.
    x = image(1, 3, 11, 14, seed=1).requires_grad_()
    window = (3, 2, 3 + net.scale, 9 if net.scale < 3 else 21)
    rows = (..., slice(window[0], window[2]), slice(window[1], window[3]))
    wide = x.detach().double().requires_grad_()
    for got, expected in (
        (net(x), exact(wide)),
        (net.forward_window(x, window), exact(wide)[rows]),
    ):
        close(got, expected.detach(), 3e-6, float(exact(wide).detach().abs().max()))
        gradient = torch.autograd.grad(got.sum(), x)[0]
        wanted = torch.autograd.grad(expected.sum(), wide)[0]
        assert float((gradient - wanted).norm() / wanted.norm()) < 1e-4


WINDOWS = [(0, 0, 17, 17), (39, 0, 56, 3), (0, 60, 1, 76), (35, 62, 56, 76), (20, 31, 37, 48)]


@pytest.mark.parametrize("window", WINDOWS)
def test_windows_of_edsr(window: tuple[int, ...]) -> None:
    net = small(features=64, blocks=3)
    x = image(2, 3, 14, 19)
    whole = net(x)[..., window[0] : window[2], window[1] : window[3]]
    got = net.forward_window(x, window)
    close(got, whole.double(), 2e-6)
    net.equal_windows = True
    assert torch.equal(net.forward_window(x, window), whole)


def test_weights_changed_in_any_way_are_seen() -> None:
    net = small(features=64)
    x = image(1, 3, 12, 12)

    def through_numpy(p: Tensor) -> None:
        p.numpy()[0, 0, 0, 0] += 1.0

    def through_data(p: Tensor) -> None:
        p.data[1, 0] += 1.0

    def one_bit(p: Tensor) -> None:
        p.detach().view(torch.int32)[-1, -1, -1, -1] ^= 1 << 22

    writes: list[Callable[[Tensor], Any]] = [through_numpy, through_data, one_bit]
    for conv in (net.conv_first, net.body[1].conv2, net.upsample[0], net.conv_last):
        for write in writes:
            before = net(x)
            with torch.no_grad():
                write(conv.weight)
            after = net(x)
            assert not torch.equal(before, after)
            close(after, by_modules(net)(x.double()), 3e-6)
        before = net(x)
        conv.bias.data.numpy()[:3] += 1.0
        assert not torch.equal(before, net(x))
        close(net(x), by_modules(net)(x.double()), 3e-6)


def test_weights_replaced_are_seen() -> None:
    net, other = small(), small(blocks=2)
    torch.nn.init.normal_(other.body[0].conv1.weight, std=0.1)
    x = image(1, 3, 9, 9)
    net(x)
    net.body[0].conv1.weight = other.body[0].conv1.weight
    gc.collect()
    assert torch.equal(net(x), other(x))


def test_a_weight_changed_before_backward_is_refused_or_seen() -> None:
    net = small()
    x = image(1, 3, 9, 9).requires_grad_()
    y = net(x).sum()
    net.body[0].conv1.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(y, x)


def test_nan_reaches_only_what_sees_it() -> None:
    """And nothing later: scratch memory that holds NaN is never read before it is written."""
    net = small(features=64, blocks=1)
    x = image(2, 3, 40, 40)
    clean, window = net(x), (60, 60, 81, 77)
    of_window = net.forward_window(x, window)
    bad = x.clone()
    bad[0] = float("nan")
    got = net(bad)
    assert got[0].isnan().all()
    assert torch.equal(got[1], clean[1])
    bad = x.clone()
    bad[:, :, 0, 0] = float("nan")
    got = net(bad)
    assert got[..., :4, :4].isnan().all()
    assert torch.equal(got[..., 120:, :], clean[..., 120:, :])
    assert torch.equal(net.forward_window(bad, window), of_window)
    bad.fill_(float("inf"))
    bad[..., 5:30, 5:30] = x[..., 5:30, 5:30]
    assert torch.equal(net.forward_window(bad, window), of_window)
    assert torch.equal(net(x), clean)
    leaf = x.clone().requires_grad_()
    first = torch.autograd.grad(net.forward_window(leaf, window).square().sum(), leaf)[0]
    dirty = bad.clone().requires_grad_()
    assert torch.equal(
        first, torch.autograd.grad(net.forward_window(dirty, window).square().sum(), dirty)[0]
    )
    assert (first[..., 35:, :] == 0).all()


def test_images_in_parts_have_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    net = small(features=16)
    x = image(5, 3, 9, 7).requires_grad_()
    results = []
    for parts in (5, 2, 1):
        monkeypatch.setattr(cpu_stack, "images_at_once", lambda *_, parts=parts: parts)
        y = net(x)
        results.append((y.detach(), torch.autograd.grad(y.square().sum(), x)[0]))
    for y, gradient in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("size", [(1, 3, 5, 6), (2, 3, 33, 41)])
def test_threads_change_no_bit(size: tuple[int, ...]) -> None:
    net = small(features=64, blocks=2)
    x = image(*size).requires_grad_()
    results = []
    for count in (1, 2, 3, 7):
        torch.set_num_threads(count)
        y = net(x)
        results.append((y.detach(), torch.autograd.grad(y.square().sum(), x)[0]))
    for y, gradient in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(gradient, results[0][1])


SCRIPT = """
import sys, torch
from fastbg.models.edsr import EDSR
torch.manual_seed(0)
net = EDSR(features=20, blocks=2, scale=3).eval().requires_grad_(False)
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


def native_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the operator's calls from now on."""
    calls: list[str] = []
    run = registered.conv_stack

    def counted(*args: Any) -> Any:
        calls.append("conv_stack")
        return run(*args)

    monkeypatch.setattr(registered, "conv_stack", counted)
    return calls


class TestWhatRunsByModules:
    """The rule: frozen float32 CPU inference as `__init__` made it, and nothing else, is native."""

    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        return native_calls(monkeypatch)

    def test_frozen_runs_natively(self, calls: list[str]) -> None:
        net, x = small(), image(1, 3, 6, 6)
        net(x)
        net.forward_window(x, (0, 0, 4, 4))
        net.requires_grad_(True)
        with torch.no_grad():
            net(x)
        with torch.inference_mode():
            net(x)
        assert len(calls) == 4

    def test_training_and_options_do_not(self, calls: list[str]) -> None:
        net, x = small(), image(1, 3, 6, 6)
        net.body[0].conv2.bias.requires_grad_(True)
        y = net(x)
        assert y.requires_grad
        net.requires_grad_(False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            net(x)
        net.double()(x.double())
        net.float()
        net.native = False
        net(x)
        net.native = True
        net.body[1].conv1.fused = False
        net(x)
        assert not calls

    def test_observed_parts_do_not(self, calls: list[str]) -> None:
        net, x = small(), image(1, 3, 6, 6)
        for module in (net.body, net.body[0], net.body[0].conv1, net.upsample, net.upsample[0]):
            seen: list[Any] = []
            handle = module.register_forward_hook(lambda *args, seen=seen: seen.append(args))
            net(x)
            handle.remove()
            if module is not net.upsample[0]:  # whose calls the upsampler makes itself
                assert seen
        assert not calls
        net(x)
        assert len(calls) == 1

    def test_replaced_parts_do_not(self, calls: list[str]) -> None:
        x = image(1, 3, 6, 6)
        net = small()
        torch.nn.utils.parametrizations.weight_norm(net.body[0].conv1)
        net.requires_grad_(False)
        net(x)
        net = small()
        net.body[0] = torch.nn.Identity()
        net(x)
        net.body = torch.nn.Identity()
        close(net(x), by_modules(net)(x.double()), 3e-6)
        assert not calls

    @pytest.mark.filterwarnings("ignore:.torch.jit")  # which forward mode scripts with
    def test_forward_mode_and_transforms_do_not(self, calls: list[str]) -> None:
        net, x = small(), image(1, 3, 6, 6)
        got = torch.func.vmap(lambda v: net(v[None])[0])(x)
        close(got, by_modules(net)(x.double()), 3e-6)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, x)
            with pytest.raises(BackendUnavailable, match="forward-mode"):  # as from any Conv3x3
                net(dual)
        assert not calls


def test_the_gradient_has_a_gradient() -> None:
    net, x = small(features=4), image(1, 3, 5, 5).requires_grad_()
    exact = by_modules(net)
    wide = x.detach().double().requires_grad_()
    results = []
    for model, leaf in ((net, x), (exact, wide)):
        first = torch.autograd.grad(model(leaf).square().sum(), leaf, create_graph=True)[0]
        results.append(torch.autograd.grad(first.square().sum(), leaf)[0].double())
    assert float((results[0] - results[1]).norm() / results[1].norm()) < 1e-4


def test_parameters_get_gradients_by_modules() -> None:
    net, x = small(features=4), image(1, 3, 5, 5)
    net.requires_grad_(True)
    net(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_an_empty_batch() -> None:
    net = small()
    assert net(image(0, 3, 5, 6)).shape == (0, 3, 20, 24)
    x = image(0, 3, 5, 6).requires_grad_()
    assert torch.autograd.grad(net(x).sum(), x)[0].shape == x.shape
