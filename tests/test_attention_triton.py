"""Swin Transformer layers on Triton kernels against float64, and how many launches they take."""

import dataclasses
import importlib.util
from itertools import chain
from typing import Any

import pytest
import torch
from runnable_backend import runnable
from stack_launches import Launches
from test_attention import attention_parameters, doubled, mlp_parameters, relative_error, run_of
from test_swinir import block, in_torch, network
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastbg.backends.torch_reference import attention as reference
from fastbg.errors import BackendUnavailable
from fastbg.geometry import Box
from fastbg.models import swinir
from fastbg.models.window import whole_map
from fastbg.ops.attention import LARGEST_WINDOW, Step, mlp_box, window_attention
from fastbg.precision import use_precision

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from fastbg.backends.triton import attention as backend
from fastbg.kernels import attention as kernels
from fastbg.kernels.launch import Launch
from fastbg.kernels.launch_configs import WindowAttentionConfig

pytestmark = pytest.mark.usefixtures("poisoned_memory")

FORWARD, GRADIENT = 1e-5, 1e-4  # relative to the largest entry


@pytest.fixture(scope="module")
def device() -> torch.device:
    return runnable("triton", "swin_layers").device


def compare(
    device: torch.device, x: Tensor, parameters: list[Tensor], steps: list[Step], size: Any
) -> None:
    """Result, kept maps and gradient of `steps` on a map of `size` against float64 on the CPU."""
    numbers, leaf = list(chain.from_iterable(steps)), x.double().requires_grad_()
    exact = reference.swin_layers(leaf, doubled(parameters), numbers, *size, 1e-5, False)[0]
    upstream = torch.randn(exact.shape)
    (exact_gradient,) = torch.autograd.grad(exact, leaf, upstream.double())
    there, rest = x.to(device), [p.to(device) for p in parameters]
    y, kept = backend.swin_layers(there, rest, numbers, *size, 1e-5, True)
    assert relative_error(y.cpu(), exact) <= FORWARD
    assert torch.equal(backend.swin_layers(there, rest, numbers, *size, 1e-5, False)[0], y)
    for stored in (kept, None):
        got = backend.swin_layers_gradient(
            upstream.to(device), there, stored, rest, numbers, *size, 1e-5
        )
        assert relative_error(got.cpu(), exact_gradient) <= GRADIENT


# Width, heads, window, shift, batch, windows down and across.
STEPS = {
    "lightweight": (60, 6, 8, 4, 1, 1, 2),
    "classical": (60, 2, 8, 4, 1, 2, 1),
    "shipped": (32, 2, 8, 0, 3, 1, 2),
    "head_6": (6, 1, 8, 3, 3, 2, 2),
    "head_64": (64, 1, 8, 4, 1, 1, 1),
    "head_100": (100, 1, 4, 1, 1, 1, 1),
    "window_7": (21, 3, 7, 3, 1, 2, 3),  # 49 tokens in a block of 64
    "window_4": (20, 2, 4, 2, 1, 2, 3),
    "window_3": (5, 1, 3, 0, 1, 2, 2),
    "window_1": (4, 1, 1, 0, 1, 2, 3),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_equals_float64(device: torch.device, name: str) -> None:
    torch.manual_seed(0)
    width, heads, window, shift, batch, down, across = STEPS[name]
    size = down * window, across * window
    x = torch.randn(batch, width, *size)
    steps = [Step(heads, window, shift, 0, 0, *size)]
    compare(device, x, attention_parameters(width, heads, window), steps, size)


# Of 24 pixels, in windows shifted by 4: from border to border, at either of them, and inside.
SPANS = [(0, 24), (0, 12), (4, 20), (12, 24)]


@pytest.mark.parametrize("columns", SPANS)
@pytest.mark.parametrize("rows", SPANS)
def test_boxes_anywhere_in_the_map(
    device: torch.device, rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 6, rows[1] - rows[0], columns[1] - columns[0])
    steps = [Step(1, 8, 4, rows[0], columns[0], rows[1], columns[1])]
    compare(device, x, attention_parameters(6, 1, 8), steps, (24, 24))


@pytest.mark.parametrize("depth", [1, 2])
def test_a_trimmed_run_equals_float64(device: torch.device, depth: int) -> None:
    torch.manual_seed(0)
    steps, parameters = run_of(depth)
    compare(device, torch.randn(1, 20, 24, 32), parameters, steps, (32, 40))


@pytest.mark.parametrize("layout", ["channels_last", "cropped", "strided"])
def test_any_strides(device: torch.device, layout: str) -> None:
    """The pixels around a cropped map are NaN."""
    torch.manual_seed(0)
    x = torch.randn(2, 20, 8, 16)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "cropped":
        x = torch.nn.functional.pad(x, (1, 2, 3, 4), value=float("nan"))[..., 3:11, 1:17]
    else:
        x = x.repeat_interleave(2, 1).repeat_interleave(3, 3)[:, ::2, :, ::3]
    parameters = attention_parameters(20, 2, 8) + mlp_parameters(20, 36)
    parameters[4] = parameters[4].t().contiguous().t()  # the table, too
    steps = [Step(2, 8, 4, 0, 0, 8, 16), Step(0, 0, 0, 0, 0, 8, 16)]
    compare(device, x, parameters, steps, (8, 16))


def test_large_logits(device: torch.device) -> None:
    """Exponentials of their differences vanish or would overflow."""
    torch.manual_seed(0)
    parameters = attention_parameters(16, 1, 8)
    parameters[4] = 60 * parameters[4]
    x = torch.randn(1, 16, 8, 8)
    compare(device, x, parameters, [Step(1, 8, 0, 0, 0, 8, 8)], (8, 8))


@pytest.mark.filterwarnings("ignore:All-NaN slice")  # of the interpreter's maximum
@pytest.mark.parametrize("box", [(0, 0, 12, 12), (4, 4, 20, 20)])
def test_not_a_number_stays_in_its_window(device: torch.device, box: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    y0, x0, y1, x1 = box
    x = torch.randn(1, 12, y1 - y0, x1 - x0)
    x[0, 5, 2, 3] = float("nan")
    first = 4 if y0 == 0 else 8  # at the border, a shifted window is a quarter
    parameters = [p.to(device) for p in attention_parameters(12, 3, 8)]
    given = parameters, [3, 8, 4, *box], 24, 24, 1e-5
    y = backend.swin_layers(x.to(device), *given, False)[0]
    upstream = torch.ones_like(y)
    for got in (y, backend.swin_layers_gradient(upstream, x.to(device), None, *given)):
        assert got[..., :first, :first].isnan().all()
        got[..., :first, :first] = 0
        assert got.isfinite().all()


def test_each_window_and_image_is_independent(device: torch.device) -> None:
    torch.manual_seed(0)
    parameters = [p.to(device) for p in attention_parameters(20, 2, 8)]
    x = torch.randn(3, 20, 8, 16).to(device)
    given = parameters, [2, 8, 0, 0, 0, 8, 16], 8, 16, 1e-5
    y = backend.swin_layers(x, *given, False)[0]
    alone = parameters, [2, 8, 0, 0, 8, 8, 16], 8, 16, 1e-5
    one = backend.swin_layers(x[1:2, ..., 8:], *alone, False)[0]
    torch.testing.assert_close(one, y[1:2, ..., 8:], rtol=0, atol=1e-6)


@pytest.fixture
def launched(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """Launches are collected, and run."""
    found: list[Launch] = []
    run = Launch.run

    def collect(launch: Launch) -> None:
        found.append(launch)
        run(launch)

    monkeypatch.setattr(Launch, "run", collect)
    return found


@pytest.mark.parametrize(
    ("precision", "products"), [("ieee", "tf32x3"), ("tf32", "tf32"), ("bf16", "tf32x3")]
)
def test_the_precision_decides_the_products(
    device: torch.device, launched: list[Launch], precision: str, products: str
) -> None:
    x = torch.randn(1, 4, 4, 4).to(device)
    parameters = [p.to(device) for p in attention_parameters(4, 1, 4)]
    given = parameters, [1, 4, 0, 0, 0, 4, 4], 4, 4, 1e-5
    with use_precision(precision):
        backend.swin_layers(x, *given, False)
        backend.swin_layers_gradient(x, x, None, *given)
    assert [launch.constants["PRECISION"] for launch in launched] == [products] * 2


def test_wide_offsets(device: torch.device, launched: list[Launch]) -> None:
    """64-bit offsets are taken for images of 2^31 values and more, and give the same."""
    x = torch.randn(2, 20, 8, 16).to(device)
    parameters = [p.to(device) for p in attention_parameters(20, 2, 8)]
    given = parameters, [2, 8, 4, 0, 0, 8, 16], 8, 16, 1e-5
    backend.swin_layers(x, *given, False)
    backend.swin_layers_gradient(x, x, None, *given)
    for launch in launched[:2]:
        assert launch.constants["WIDE"] is False
        out = launch.arguments["out_ptr"]
        assert isinstance(out, Tensor)
        again = torch.full_like(out, float("nan"))
        arguments = {**launch.arguments, "out_ptr": again}
        constants = {**launch.constants, "WIDE": True}
        dataclasses.replace(launch, arguments=arguments, constants=constants).run()
        assert torch.equal(again, out)
    axis = kernels.Axis.of(0, 2**15, 2**15, 8, 4)
    windows = kernels.Windows(axis, axis, 1, 8, True)
    for side, wide in ((2**15, True), (2**14, False)):
        qkv = torch.empty((4, side, side, 3), device="meta")
        assert kernels.constants_of(windows, qkv, "ieee")["WIDE"] is wide


@pytest.mark.parametrize("shift", [0, 4])
def test_axes_have_each_pixel_once(shift: int) -> None:
    """Whatever part of the map a box is; windows of the whole map wrap, so that none is added."""
    edges = [0, *range(shift or 8, 40, 8), 40]
    for start in edges:
        for stop in (edge for edge in edges if edge > start):
            axis = kernels.Axis.of(start, stop, 40, 8, shift)
            found = [axis.first + i for i in range(8 * axis.count)]
            if axis.wraps:
                found = [v % 40 for v in found]
            inside = [v for v in found if 0 <= v < stop - start]
            assert sorted(inside) == list(range(stop - start))
            for i in range(axis.count):  # and windows begin where those of the map do
                assert (start + axis.first + 8 * i - shift) % 8 == 0
    assert kernels.Axis.of(0, 40, 40, 8, shift).count == 5


def test_opcheck(device: torch.device) -> None:
    steps = [Step(1, 4, 2, 0, 0, 6, 8), Step(0, 0, 0, 1, 2, 6, 6)]
    parameters = [p.to(device) for p in attention_parameters(4, 1, 4) + mlp_parameters(4, 6)]
    x = torch.randn(1, 4, 6, 8, device=device, requires_grad=True)
    arguments = parameters, list(chain.from_iterable(steps)), 8, 8, 1e-5
    op, gradient = torch.ops.fastbg.swin_layers, torch.ops.fastbg.swin_layers_gradient
    for kept in (False, True):
        torch.library.opcheck(op.default, (x, *arguments, kept, "triton"))
    y = op(x.detach(), *arguments, False, "triton")[0]
    torch.library.opcheck(gradient.default, (y, x.detach(), None, *arguments, "triton"))


@pytest.fixture
def chosen(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """SwinIR takes the triton backend, which "auto" would not take on CPU tensors."""
    monkeypatch.setenv("FASTBG_BACKEND", "triton")
    return device


def test_wide_windows_are_the_modules(device: torch.device) -> None:
    assert LARGEST_WINDOW["triton"] ** 2 == WindowAttentionConfig().most_tokens
    x, parameters = torch.randn(1, 4, 9, 9, device=device), attention_parameters(4, 1, 9)
    given = [p.to(device) for p in parameters]
    with pytest.raises(BackendUnavailable, match="at most 8 pixels"):
        window_attention(x, *given, heads=1, window=9, backend="triton")


def test_mlps_take_whole_cells_where_windows_do() -> None:
    """Of a map of 20 pixels; windows of other sides would not hold the cells around."""
    box = Box(5, 6, 9, 17)
    assert mlp_box(Step(1, 8, 4, 4, 4, 12, 20), box, 20, 20) == Box(4, 4, 12, 20)
    for window, shift in ((4, 2), (5, 0), (5, 4)):
        assert mlp_box(Step(1, window, shift, 5, 5, 10, 20), box, 20, 20) == box


@pytest.fixture
def calls(chosen: torch.device, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of steps of each call of the backend."""
    seen: list[int] = []
    run = backend.swin_layers

    def counted(x: Tensor, parameters: Any, steps: Any, *rest: Any) -> Any:
        seen.append(len(steps) // len(Step._fields))
        return run(x, parameters, steps, *rest)

    monkeypatch.setattr(backend, "swin_layers", counted)
    return seen


@pytest.mark.parametrize(
    ("name", "expected"), [("light", [4, 6]), ("window_4", [4, 2]), ("window_16", [])]
)
def test_networks_equal_their_modules(
    chosen: torch.device, name: str, expected: list[int], calls: list[int]
) -> None:
    """Whole and in a window; those of 16 are the modules', those of 4 are not the CPU's."""
    net = network(name).to(chosen)
    plain = in_torch(net)
    x = torch.rand(1, 3, 11, 13, device=chosen, requires_grad=True)
    for window in [(0, 0, 44, 52), (20, 2, 24, 4)]:
        calls.clear()
        y, exact = (n.forward_window(x, window) for n in (net, plain))
        assert calls == expected
        gradient, exact_gradient = (torch.autograd.grad(v.square().sum(), x)[0] for v in (y, exact))
        assert relative_error(y, exact) <= FORWARD
        assert relative_error(gradient, exact_gradient) <= GRADIENT


class Traffic(TorchDispatchMode):
    """Counts the kernels that a GPU would start, and the bytes of what each reads and writes."""

    VIEWS = "t", "transpose", "squeeze", "unsqueeze", "unbind"

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.bytes = 0, 0

    def add(self, tensors: Any) -> None:
        self.launches += 1
        self.bytes += sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        name = func.__name__.split(".")[0]
        if name not in self.VIEWS and not any(none in name for none in Launches.NONE):
            self.add(tree_leaves((args, result)))
        return result


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Traffic:
    """Triton's launches are counted instead of run."""
    counted = Traffic()
    monkeypatch.setattr(Launch, "run", lambda launch: counted.add(launch.arguments.values()))
    # On GPUs modules take the fused kernel for the gradient, too.
    monkeypatch.setattr(swinir, "_derived_again", lambda q: False)
    return counted


# Launches, and bytes in maps of 64 channels: PyTorch's modules, then this backend.
EXPECTED = {False: ((19, 50), (10, 30)), True: ((17, 60), (14, 48))}


@pytest.mark.parametrize("gradient", [False, True])
def test_launches_of_a_shifted_block(traffic: Traffic, gradient: bool) -> None:
    """On 4 images of 32x32 with 64 channels; docs/gpu.md has the numbers of 100."""
    one = block(64, 4, 8, 4)
    plain, given = in_torch(one), one.step_parameters()
    x = torch.zeros(4, 32, 32, 64).permute(0, 3, 1, 2)
    patch, masks = whole_map(x.requires_grad_(gradient)), dict[Any, Any]()
    plain(patch, patch.box, 32, 32, masks)  # makes the mask, once for all blocks
    with traffic:
        y = plain(patch, patch.box, 32, 32, masks).data
    if gradient:
        upstream = torch.zeros_like(y)
        traffic.launches = traffic.bytes = 0
        with traffic:
            torch.autograd.grad(y, x, upstream)
    before = traffic.launches, round(traffic.bytes / x.nbytes)
    steps = [4, 8, 4, 0, 0, 32, 32, 0, 0, 0, 0, 0, 32, 32]
    traffic.launches = traffic.bytes = 0
    with torch.no_grad(), traffic:
        if gradient:
            kept = torch.empty(1, x.numel())
            backend.swin_layers_gradient(y, x, kept, given, steps, 32, 32, 1e-5)
        else:
            backend.swin_layers(x, given, steps, 32, 32, 1e-5, False)
    after = traffic.launches, round(traffic.bytes / x.nbytes)
    assert (before, after) == EXPECTED[gradient]
