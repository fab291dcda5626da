"""Changes of an image in batches, by PyTorch and by Triton, against the whole stack anew."""

import importlib.util
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from runnable_backend import runnable
from stack_cases import close, image, in_double, stacks, trimmed
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastbg
from fastbg.errors import BackendUnavailable, InvalidArgument
from fastbg.geometry import Box
from fastbg.models.conv_stack import link_layers
from fastbg.models.edsr import EDSR
from fastbg.models.network import Network
from fastbg.models.rcan import RCAN
from fastbg.models.rcan_direct import DirectRCAN
from fastbg.ops.conv_stack import StackLayer, conv_stack
from fastbg.ops.conv_stack_change import ChangeableStack

pytestmark = pytest.mark.usefixtures("poisoned_memory")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(params=["torch", "triton"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The backend, which networks take, too."""
    name = str(request.param)
    monkeypatch.setenv("FASTBG_BACKEND", name)
    return name


@pytest.fixture
def device(backend: str) -> torch.device:
    return runnable(backend, "conv_stack").device


def changed(x: Tensor, box: Box, pixels: Tensor) -> Tensor:
    y = x.repeat(len(pixels), 1, 1, 1)
    y[..., box.y0 : box.y1, box.x0 : box.x1] = pixels
    return y


def pixels_of(x: Tensor, box: Box, count: int, seed: int = 0) -> Tensor:
    shape = count, x.shape[1], box.y1 - box.y0, box.x1 - box.x0
    return image(*shape, seed=seed).to(x.device, x.dtype)


def layers_of(depth: int, features: int = 4) -> list[StackLayer]:
    """Convolutions with ReLUs, every second one with a residual instead."""
    generator = torch.Generator().manual_seed(1)
    sizes = [3, *[features] * depth, 3]
    return [
        StackLayer(
            torch.randn(after, before, 3, 3, generator=generator) / (9 * before) ** 0.5,
            torch.randn(after, generator=generator),
            relu=i % 2 == 0,
            residual=i if i % 2 and i < depth else None,
        )
        for i, (before, after) in enumerate(pairwise(sizes))
    ]


@st.composite
def changes(draw: st.DrawFn, height: int, width: int) -> tuple[Box, int]:
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    y1 = draw(st.integers(y0 + 1, min(height, y0 + 5)))
    x1 = draw(st.integers(x0 + 1, min(width, x0 + 5)))
    return Box(y0, x0, y1, x1), draw(st.integers(0, 3))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), stack=stacks(), budget=st.sampled_from((1, 20_000, 1 << 20)))
def test_results_are_those_of_the_changed_images(
    data: st.DataObject, stack: tuple[Tensor, list[StackLayer], Box, bool], budget: int
) -> None:
    """In float64: all kinds of layers, odd sizes, strides, several boxes in one call."""
    x, layers, window, _ = stack
    assume(all(layer.attention is None for layer in layers))
    x, layers = x[:1].double(), trimmed(x[:1], in_double(layers), window, False)
    kept = ChangeableStack(x, layers, backend="torch")
    close(kept.result, conv_stack(x, layers, backend="torch"), 1e-13)
    asked = data.draw(st.lists(changes(*x.shape[-2:]), max_size=6))
    told = [(box, pixels_of(x, box, count, n)) for n, (box, count) in enumerate(asked)]
    kept._stack._budget = budget
    for (box, pixels), result in zip(told, kept.run(told), strict=True):
        assert len(result) == len(pixels)
        if not len(pixels):
            continue
        close(result, conv_stack(changed(x, box, pixels), layers, backend="torch"), 1e-13)


def by_torch(net: nn.Module, x: Tensor) -> Tensor:
    """A whole pass by PyTorch's functions: in the interpreter it would take minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTBG_BACKEND", "torch")
        y: Tensor = net(x)
    return y


class TestNetworks:
    """A network's window, as causal effect maps and occlusion ask for it."""

    def check(self, net: nn.Module, x: Tensor, window: Box, boxes: list[Box]) -> None:
        kept = net.keep_window(x, window)  # type: ignore[operator]
        assert kept is not None
        y0, x0, y1, x1 = window
        whole = by_torch(net, x)[..., y0:y1, x0:x1]
        torch.testing.assert_close(kept.unchanged, whole, rtol=0, atol=1e-5)
        told = [(box, pixels_of(x, box, 1 + n % 2, n)) for n, box in enumerate(boxes)]
        reached = 0
        for (box, pixels), result in zip(told, kept.run(told), strict=True):
            expected = by_torch(net, changed(x, box, pixels))[..., y0:y1, x0:x1]
            torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
            reached += not result.equal(kept.unchanged.expand_as(result))
        assert reached > 1

    @pytest.mark.parametrize("scale", [1, 2, 3, 4])
    def test_edsr(self, backend: str, device: torch.device, scale: int) -> None:
        """In the middle, at borders and corners, at the window's edge, out of reach, anywhere."""
        small = backend == "triton" and INTERPRETED  # where a pass takes seconds
        torch.manual_seed(0)
        net = EDSR(features=4 if small else 16, blocks=1 if small else 3, scale=scale)
        net = net.eval().requires_grad_(False).to(device)
        x = image(1, 3, 13, 16).to(device) if small else image(1, 3, 27, 30).to(device)
        height, width = x.shape[-2:]
        window = Box(5 * scale, 6 * scale, 7 * scale + 1, 9 * scale)
        boxes = [
            *(Box(5, 6, 7, 8), Box(6, 8, 9, 9), Box(7, 9, 9, 11), Box(4, 5, 5, 6)),
            *(Box(0, 0, 2, 2), Box(0, 7, 2, 9), Box(5, 0, 7, 2), Box(0, 0, height, width)),
            Box(height - 2, width - 2, height, width),
        ]
        self.check(net, x, window, boxes)

    @pytest.mark.parametrize("corner", [0, 1])
    def test_windows_in_corners(self, device: torch.device, corner: int) -> None:
        torch.manual_seed(0)
        net = EDSR(features=4, blocks=1, scale=2).eval().requires_grad_(False).to(device)
        x = image(1, 3, 9, 7).to(device)
        window = Box(12, 9, 18, 14) if corner else Box(0, 0, 5, 4)
        boxes = [Box(y, z, y + 2, z + 2) for y in (0, 3, 7) for z in (0, 2, 5)]
        self.check(net, x, window, boxes)

    def test_direct_paths_of_rcan(self, device: torch.device) -> None:
        torch.manual_seed(0)
        net = RCAN(features=8, groups=2, blocks=1, squeezed=2, scale=2, res_scale=0.7)
        net = net.eval().requires_grad_(False).to(device)
        x = image(1, 3, 12, 11).to(device)
        boxes = [Box(4, 4, 6, 6), Box(0, 0, 2, 2), Box(5, 0, 7, 2), Box(11, 10, 12, 11)]
        self.check(DirectRCAN(net, x), x, Box(8, 8, 13, 12), boxes)

    def test_none_where_whole_windows_are_computed(self, device: torch.device) -> None:
        net = EDSR(features=4, blocks=1, scale=1).eval().requires_grad_(False).to(device)
        x, window = image(1, 3, 8, 8).to(device), (2, 2, 4, 4)
        assert net.keep_window(x, window) is not None
        with fastbg.use_precision("bf16"):
            assert net.keep_window(x, window) is None
        net.equal_windows = True  # the cpu backend's promise
        assert net.keep_window(x, window) is None


def test_the_native_module_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTBG_BACKEND", raising=False)
    monkeypatch.setattr("fastbg.backends.cpu.unavailable", lambda device: "it is missing")
    kept = ChangeableStack(image(1, 3, 8, 8), layers_of(2))
    assert kept.backend == "torch"


@pytest.mark.parametrize("which", ["effect", "direct paths of RCAN", "occlusion"])
def test_maps_are_those_of_whole_windows(monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    """And take no pass but one for the unchanged image."""
    monkeypatch.setenv("FASTBG_BACKEND", "torch")
    torch.manual_seed(0)
    direct = which == "direct paths of RCAN"
    size: dict[str, Any] = {"features": 8, "blocks": 2, "scale": 2}
    net: Network = RCAN(groups=1, squeezed=2, **size) if direct else EDSR(**size)
    net = net.eval().requires_grad_(False)
    x = image(1, 3, 21, 26)
    windows = torch.tensor([[[14, 18, 12]]])
    passes = 0
    computes = DirectRCAN if direct else EDSR
    whole = computes.forward_window

    def count(self: Any, *args: Any) -> Tensor:
        nonlocal passes
        passes += 1
        return whole(self, *args)

    monkeypatch.setattr(computes, "forward_window", count)

    def values() -> tuple[Tensor, int]:
        nonlocal passes
        passes = 0
        if which == "occlusion":
            found = fastbg.Occlusion(net, metric="change").occlude(x, windows, (4, 3)).effect
        else:
            paths = "direct" if direct else "total"
            tool = fastbg.CausalEffectMap(net, coarse=2, fine=3, metric="change", paths=paths)
            found = torch.as_tensor(tool.effect(x, windows).effect)
        return found, passes

    quick, few = values()
    net.native = False
    expected, many = values()
    assert many > few == 1
    torch.testing.assert_close(quick, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert float(expected.nan_to_num().abs().max()) > 0.1


@pytest.mark.parametrize("tool", ["effect", "occlusion"])
def test_the_named_batch_limits_a_call(monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
    monkeypatch.setenv("FASTBG_BACKEND", "torch")
    net = EDSR(features=4, blocks=0, scale=1).eval().requires_grad_(False)
    counts: list[int] = []
    run = ChangeableStack.run

    def counted(self: ChangeableStack, changes: Any, negligible: float) -> list[Tensor]:
        counts.append(sum(len(pixels) for _, pixels in changes))
        return run(self, changes, negligible)

    monkeypatch.setattr(ChangeableStack, "run", counted)
    for batch in (None, 7):
        counts.clear()
        if tool == "effect":
            fastbg.CausalEffectMap(net, coarse=3, fine=4, metric="change", batch=batch).effect(
                image(1, 3, 8, 8), (2, 2, 2)
            )
        else:
            fastbg.Occlusion(net, batch=batch).occlude(image(1, 3, 8, 8), (2, 2, 2), 1)
        assert max(counts) <= 7 if batch else max(counts) > 40


def test_a_layer_takes_two_launches_whatever_the_number_of_changes(
    device: torch.device, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton's: two a layer, and one for the results. PyTorch's: the pixels, offsets, results."""
    if backend == "torch":
        pytest.skip("PyTorch takes several launches for each of Triton's")
    from fastbg.kernels.launch import Launch

    net = EDSR(features=4, blocks=2, scale=2).eval().requires_grad_(False).to(device)
    x = image(1, 3, 16, 16).to(device)
    layers = link_layers(net.links(), Box(14, 14, 18, 18), 16, 16, False)
    kept, launches = ChangeableStack(x, layers), 0
    assert kept.backend == "triton"

    def count(launch: Launch) -> None:
        nonlocal launches
        launches += launch.programs > 0

    monkeypatch.setattr(Launch, "run", count)
    for changes in (1, 12):
        told = [
            (Box(n, 7, n + 2, 9), torch.zeros(2, 3, 2, 2, device=device)) for n in range(changes)
        ]
        launches = 0
        with Functions() as functions:
            kept.run(told)
        assert launches == 2 * len(layers) + 1
        assert len(functions.names) < 10, functions.names


class Functions(TorchDispatchMode):
    """Names PyTorch's functions that compute or copy."""

    FREE = ("empty", "view", "permute", "detach", "select", "alias", "slice", "split", "pin")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__
        if not any(free in name for free in self.FREE):
            self.names.append(name)
        return func(*args, **kwargs or {})


def test_changes_never_synchronise() -> None:
    """Tensors without data: a value that the host asked for would raise."""
    device = torch.device("cuda" if torch.backends.cuda.is_built() else "cpu")
    with FakeTensorMode(allow_non_fake_inputs=False), device:
        net = EDSR(features=4, blocks=2).eval().requires_grad_(False)
        layers = link_layers(net.links(), Box(20, 20, 28, 28), 16, 16, False)
        kept = ChangeableStack(torch.empty(1, 3, 16, 16), layers, backend="torch")
        told = [(Box(n, 5, n + 2, 7), torch.empty(3, 3, 2, 2)) for n in range(9)]
        results = kept.run(told)
    assert [tuple(result.shape) for result in results] == [(3, 3, 8, 8)] * 9
    assert results[0].device.type == device.type


@pytest.fixture
def small(device: torch.device) -> tuple[Tensor, list[StackLayer]]:
    def there(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    layers = [StackLayer(*map(there, layer)) for layer in layers_of(3)]
    x = image(1, 3, 9, 8).to(device)
    return x, trimmed(x, layers, Box(3, 3, 5, 6), False)


def test_writing_to_results_changes_no_later_one(
    small: tuple[Tensor, list[StackLayer]], backend: str
) -> None:
    x, layers = small
    kept, box, away = ChangeableStack(x, layers), Box(4, 4, 6, 5), Box(0, 0, 1, 1)
    layers = [layer._replace(box=None) for layer in layers]
    told = [(box, pixels_of(x, box, 2)), (away, pixels_of(x, away, 1))]
    before = [result.clone() for result in kept.run(told)]
    kept.result.fill_(torch.nan)
    for result in kept.run(told):
        result.fill_(torch.nan)
    x.fill_(torch.nan)
    assert all(a.equal(b) for a, b in zip(kept.run(told), before, strict=True))


def test_nan_spreads_no_further_than_it_reaches(small: tuple[Tensor, list[StackLayer]]) -> None:
    x, layers = small
    kept, box = ChangeableStack(x, layers), Box(0, 0, 1, 1)
    nan = torch.full((1, 3, 1, 1), torch.nan, device=x.device)
    result, other = kept.run([(box, nan), (Box(4, 4, 5, 5), pixels_of(x, Box(4, 4, 5, 5), 1))])
    expected = conv_stack(changed(x, box, nan), layers, backend="torch")
    assert result.isnan().equal(expected.isnan())
    assert result.isnan().any()
    assert not other.isnan().any()


def test_the_precision_is_that_of_its_making(
    small: tuple[Tensor, list[StackLayer]], backend: str
) -> None:
    x, layers = small
    box = Box(4, 4, 6, 5)
    told = [(box, pixels_of(x, box, 2))]
    with fastbg.use_precision("tf32"):
        kept = ChangeableStack(x, layers)
    (got,) = kept.run(told)
    exact = conv_stack(changed(x, *told[0]).double(), in_double(layers), backend="torch")
    error = float((got - exact).abs().max())
    assert error < 0.01
    if backend == "triton" and not INTERPRETED:
        assert error > 1e-5  # the interpreter multiplies without rounding
    exact_again = ChangeableStack(x, layers).run(told)[0]
    close(exact_again, exact, 2e-6)


def test_an_autocast_around_the_changes_has_no_effect(
    small: tuple[Tensor, list[StackLayer]],
) -> None:
    """Stacks are not made under one, as it is for PyTorch's own functions."""
    x, layers = small
    kept, box = ChangeableStack(x, layers), Box(4, 4, 6, 5)
    told = [(box, pixels_of(x, box, 2))]
    (expected,) = kept.run(told)
    with torch.autocast(x.device.type, torch.bfloat16):
        assert torch.equal(kept.run(told)[0], expected)


def test_what_only_the_cpu_backend_has_is_refused(
    small: tuple[Tensor, list[StackLayer]], backend: str
) -> None:
    x, layers = small
    with pytest.raises(BackendUnavailable, match=f"whole_cells .* the {backend} backend"):
        ChangeableStack(x, layers, whole_cells=True)
    with torch.autocast(x.device.type, torch.bfloat16), pytest.raises(BackendUnavailable):
        ChangeableStack(x, layers)
    half = [
        layer._replace(weight=layer.weight.half(), bias=layer.bias.half())
        for layer in layers
        if layer.bias is not None
    ]
    with pytest.raises(BackendUnavailable, match="float16"):
        ChangeableStack(x.half(), half)


def test_bad_changes_are_refused(small: tuple[Tensor, list[StackLayer]]) -> None:
    x, layers = small
    kept = ChangeableStack(x, layers)
    for box, pixels in (
        ((8, 0, 10, 1), torch.zeros(1, 3, 2, 1)),
        ((0, 0, 1, 1), torch.zeros(1, 3, 1, 1, dtype=torch.float64)),
        ((0, 0, 1, 1), torch.zeros(1, 3, 1, 2)),
        ((0, 0, 1, 1), torch.zeros(1, 3, 1, 1, device="meta")),
        ((0.5, 0, 1.5, 1), torch.zeros(1, 3, 1, 1)),
        ((0, 0, 1), torch.zeros(1, 3, 1, 1)),
    ):
        with pytest.raises(InvalidArgument, match="changes"):
            kept.run([(box, pixels if pixels.is_meta else pixels.to(x.device))])


def test_maps_are_kept_as_far_as_the_window_needs_them(backend: str, device: torch.device) -> None:
    sizes = []
    for side in (40, 200):
        x = image(1, 3, side, side).to(device)
        layers = [layer._replace(weight=layer.weight.to(device)) for layer in layers_of(2)]
        layers = [layer._replace(bias=None) for layer in layers]
        if backend == "torch" or not INTERPRETED or side == 40:
            kept = ChangeableStack(x, trimmed(x, layers, Box(16, 16, 20, 20), False))
            sizes.append(kept.nbytes)
    # 3, 4, 4 and 3 channels of boxes that shrink from layer to layer, with a border of zeros.
    expected = 4 * sum(
        c * (side + 2) ** 2 for c, side in zip((3, 4, 4, 3), (10, 8, 6, 4), strict=True)
    )
    assert sizes == [expected] * len(sizes)


# In a process of its own: the interpreter, where it is on, compiles nothing.
SOURCES = """
import torch
from fastbg.kernels.conv import Filter, plan_conv3x3, plan_pack
from fastbg.kernels.conv_change import Assembled, maps, plan_assemble
from fastbg.kernels.conv_ending import Ending, Placed

weight = torch.empty((64, 64, 3, 3), device="meta")
(packed,) = plan_pack([Filter(weight, 1, False)], "ieee").packed
corners = torch.empty((8, 2), dtype=torch.int32, device="meta")
for any_size in (True, False):
    found = set()
    for side in (1, 3, 14, 16, 32):
        crop, out = maps(8, side + 2, 64), maps(8, side, 64)
        end = Ending(weight.new_empty(64), residual=Placed(out))
        own = Assembled(out, corners, maps(1, 2 * side, 64), -1, side, corners, crop)
        conv = plan_conv3x3(Placed(crop, 1, 1), packed, end, out, any_size)
        sources = [one.source() for one in (conv, plan_assemble(own, own))[: 1 + any_size]]
        found.add(str([(one.signature, one.constants, one.attrs) for one in sources]))
    print(len(found))
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_maps_of_all_sizes_share_their_machine_code(tmp_path: Path) -> None:
    """Triton compiles once for all sizes; other launches are compiled more often."""
    done = subprocess.run(
        [sys.executable, "-c", SOURCES],
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"},
        cwd=tmp_path,  # not the checkout, which may have no compiled modules
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    once, often = map(int, done.stdout.split())
    assert once == 1 < often
