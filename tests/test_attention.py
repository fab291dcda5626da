"""Swin Transformer layers: the kernel against float64 PyTorch, alone and in runs."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from runnable_backend import runnable
from torch import Tensor, nn

from fastbg.backends.cpu.attention_weight import _KNOWN
from fastbg.errors import BackendUnavailable, InvalidArgument
from fastbg.ops.attention import ATTENTION, Step, pixel_mlp, swin_layers, window_attention
from fastbg.testing import BackendUnderTest

pytestmark = pytest.mark.usefixtures("poisoned_memory")

# Relative to the largest entry of the float64 result.
ERROR, GRADIENT_ERROR = 1e-6, 3e-6
# Width, heads, window, hidden: the shipped network, both published ones, odd ones.
SIZES = {
    "shipped": (64, 4, 8, 128),
    "lightweight": (60, 6, 8, 120),
    "classical": (180, 6, 8, 360),
    "narrow": (6, 1, 4, 13),
    "odd": (9, 3, 8, 7),
    "window_16": (12, 3, 16, 20),
    "window_12": (16, 2, 12, 32),
}


@pytest.fixture
def native() -> BackendUnderTest:
    return runnable("cpu", "swin_layers")


def attention_parameters(width: int, heads: int, window: int) -> list[Tensor]:
    return [
        *(1 + 0.2 * torch.randn(width), 0.2 * torch.randn(width)),
        *(torch.randn(3 * width, width) * width**-0.5, 0.1 * torch.randn(3 * width)),
        torch.randn((2 * window - 1) ** 2, heads),
        *(torch.randn(width, width) * width**-0.5, 0.1 * torch.randn(width)),
    ]


def mlp_parameters(width: int, hidden: int) -> list[Tensor]:
    return [
        *(1 + 0.2 * torch.randn(width), 0.2 * torch.randn(width)),
        *(torch.randn(hidden, width) * width**-0.5, 0.1 * torch.randn(hidden)),
        *(torch.randn(width, hidden) * hidden**-0.5, 0.1 * torch.randn(width)),
    ]


def doubled(tensors: list[Tensor]) -> list[Tensor]:
    return [t.detach().double() for t in tensors]


def relative_error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got.detach() - expected.detach()).abs().max() / expected.detach().abs().max())


def compare(
    function: Callable[..., Tensor], x: Tensor, parameters: list[Tensor], **settings: Any
) -> None:
    """Value and gradient to `x` of the kernel against float64."""
    results = []
    for backend, given, rest in (("cpu", x, parameters), ("auto", x.double(), doubled(parameters))):
        leaf = given.detach().requires_grad_()
        y = function(leaf, *rest, **settings, backend=backend)
        upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
        results.append((y, torch.autograd.grad(y, leaf, upstream)[0]))
    (value, gradient), (exact, exact_gradient) = results
    assert relative_error(value, exact) <= ERROR
    assert relative_error(gradient, exact_gradient) <= GRADIENT_ERROR


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("images", [(1, 1, 1), (2, 3, 2), (1, 1, 4)])
@pytest.mark.parametrize("size", SIZES)
def test_window_attention_equals_float64(
    native: BackendUnderTest, size: str, images: tuple[int, int, int], shifted: bool
) -> None:
    """`images` are batch, windows down and across."""
    torch.manual_seed(0)
    width, heads, window, _ = SIZES[size]
    shift = window // 8 * 4 if shifted else 0
    batch, down, across = images
    x = torch.randn(batch, width, down * window, across * window)
    parameters = attention_parameters(width, heads, window)
    compare(window_attention, x, parameters, heads=heads, window=window, shift=shift)


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 12, 20), (3, 8, 8)])
@pytest.mark.parametrize("size", SIZES)
def test_pixel_mlp_equals_float64(
    native: BackendUnderTest, size: str, shape: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    width, _, _, hidden = SIZES[size]
    batch, *sides = shape
    compare(pixel_mlp, torch.randn(batch, width, *sides), mlp_parameters(width, hidden))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_gelu_and_softmax_at_any_size_of_their_arguments(
    native: BackendUnderTest, scale: float
) -> None:
    """Logits and hidden features from nothing to where exponentials vanish."""
    torch.manual_seed(0)
    x = torch.randn(1, 16, 16, 16)
    attention, mlp = attention_parameters(16, 2, 8), mlp_parameters(16, 32)
    attention[2] *= scale
    mlp[2] *= scale
    compare(pixel_mlp, x, mlp)
    if scale <= 1:  # beyond, float32 logits are themselves uncertain by as much as the limit
        compare(window_attention, x, attention, heads=2, window=8, shift=4)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "cropped", "strided"])
def test_any_strides(native: BackendUnderTest, layout: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 20, 8, 16)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "cropped":
        x = nn.functional.pad(x, (1, 2, 3, 4), value=float("nan"))[..., 3:11, 1:17]
    elif layout == "strided":
        x = x.repeat_interleave(2, 1).repeat_interleave(3, 3)[:, ::2, :, ::3]
    compare(pixel_mlp, x, mlp_parameters(20, 36))
    parameters = attention_parameters(20, 2, 8)
    compare(window_attention, x, parameters, heads=2, window=8, shift=4)
    y = window_attention(x, *parameters, heads=2, window=8, backend="cpu")
    assert y.is_contiguous(memory_format=torch.channels_last)


def run_of(depth: int) -> tuple[list[Step], list[Tensor]]:
    """One or two blocks at the lower right of a 32x40 map, each on less than the one before."""
    width, heads, window = 20, 2, 8
    first, second = (8, 8, 32, 40), (12, 12, 32, 40)
    steps = [Step(heads, window, 0, *first), Step(0, 0, 0, *second)]
    steps += [Step(heads, window, 4, *second), Step(0, 0, 0, 16, 16, 24, 40)]
    parameters = []
    for _ in range(depth):
        parameters += attention_parameters(width, heads, window) + mlp_parameters(width, 24)
    return steps[: 2 * depth], parameters


@pytest.mark.parametrize("depth", [1, 2])
def test_a_trimmed_run_equals_float64(native: BackendUnderTest, depth: int) -> None:
    """Boxes at a corner of the map and away from it; pixels outside a step's box are never read."""
    torch.manual_seed(0)
    steps, parameters = run_of(depth)
    x = torch.randn(2, 20, 24, 32)

    def run(x: Tensor, *parameters: Tensor, backend: str) -> Tensor:
        return swin_layers(x, parameters, steps, 32, 40, 1e-5, backend)

    compare(run, x, parameters)


def test_second_derivatives_are_pytorchs(native: BackendUnderTest) -> None:
    """A gradient with a graph of its own, of the native forward pass, and derived again."""
    torch.manual_seed(0)
    parameters = attention_parameters(12, 3, 8)
    x, v = torch.randn(1, 12, 8, 8), torch.randn(1, 12, 8, 8)
    results = []
    in_double = x.double(), doubled(parameters), v.double()
    for given, rest, direction in ((x, parameters, v), in_double):
        leaf = given.requires_grad_()
        y = window_attention(leaf, *rest, heads=3, window=8, shift=4)
        (first,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
        results.append((first, torch.autograd.grad((first * direction).sum(), leaf)[0]))
    for got, expected in zip(*results, strict=True):
        assert relative_error(got, expected) <= GRADIENT_ERROR
    leaf = x.detach().requires_grad_()
    y = window_attention(leaf, *parameters, heads=3, window=8, shift=4, backend="cpu")
    (first,) = torch.autograd.grad(y.square().sum(), leaf)
    assert relative_error(first, results[1][0]) <= GRADIENT_ERROR


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_autocast_changes_no_bit(native: BackendUnderTest, backend: str) -> None:
    parameters = mlp_parameters(12, 24)
    x = torch.randn(1, 12, 8, 8, requires_grad=True)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = pixel_mlp(x, *parameters, backend=backend)
        results.append((y, *torch.autograd.grad(y.square().sum(), x)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_vmap_equals_a_loop(backend: str) -> None:
    parameters = attention_parameters(12, 3, 8)
    x = torch.randn(3, 1, 12, 8, 8)

    def run(x: Tensor) -> Tensor:
        return window_attention(x, *parameters, heads=3, window=8, shift=4, backend=backend)

    expected = torch.stack([run(image) for image in x])
    torch.testing.assert_close(torch.func.vmap(run)(x), expected, rtol=0, atol=1e-5)


def test_gradcheck_of_the_reference() -> None:
    torch.manual_seed(0)
    steps = [Step(2, 4, 2, 0, 0, 4, 4), Step(0, 0, 0, 0, 0, 4, 4)]
    parameters = doubled(attention_parameters(4, 2, 4) + mlp_parameters(4, 6))
    leaves = [torch.randn(1, 4, 4, 4).double(), *parameters]
    for leaf in leaves:
        leaf.requires_grad_()

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return swin_layers(x, parameters, steps, 4, 8, 1e-5)

    assert torch.autograd.gradcheck(run, leaves)


def test_packed_weights_go_with_their_parameters(native: BackendUnderTest) -> None:
    gc.disable()
    try:
        before, x = len(_KNOWN), torch.randn(1, 16, 8, 8)
        for _ in range(5):
            pixel_mlp(x, *mlp_parameters(16, 32), backend="cpu")
            assert len(_KNOWN) <= before + 1
        assert len(_KNOWN) <= before + 1
    finally:
        gc.enable()


def test_a_parameter_changed_before_backward_is_refused(native: BackendUnderTest) -> None:
    parameters = mlp_parameters(16, 32)
    x = torch.randn(1, 16, 8, 8, requires_grad=True)
    y = pixel_mlp(x, *parameters, backend="cpu")
    parameters[2].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_threads_and_neighbours_do_not_change_a_bit(native: BackendUnderTest) -> None:
    torch.manual_seed(0)
    steps, parameters = run_of(2)
    x = torch.randn(3, 20, 24, 32, requires_grad=True)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        y = swin_layers(x, parameters, steps, 32, 40, 1e-5, "cpu")
        return y, torch.autograd.grad(y.square().sum(), x)[0]

    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(x))
    finally:
        torch.set_num_threads(before)
    alone = run(x[1:2].detach().requires_grad_())
    for other in (results[1], results[2]):
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))
    assert all(torch.equal(a, b[1:2]) for a, b in zip(alone, results[0], strict=True))


def test_the_graph_does_not_change_a_bit(native: BackendUnderTest) -> None:
    """With cells kept for backward and without; twice from the same graph."""
    steps, parameters = run_of(2)
    x = torch.randn(1, 20, 24, 32)
    without = swin_layers(x, parameters, steps, 32, 40, 1e-5, "cpu")
    y = swin_layers(x.requires_grad_(), parameters, steps, 32, 40, 1e-5, "cpu")
    assert torch.equal(y, without)
    first, second = (torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    numbers = list(chain.from_iterable(steps))
    upstream = torch.ones_like(y).detach()
    again = torch.ops.fastbg.swin_layers_gradient(
        upstream, x.detach(), None, parameters, numbers, 32, 40, 1e-5, "cpu"
    )
    assert torch.equal(again, first)


@pytest.mark.parametrize("kept", [False, True])
def test_opcheck(native: BackendUnderTest, kept: bool) -> None:
    steps, parameters = run_of(1)
    x = torch.randn(1, 20, 24, 32, requires_grad=True)
    numbers = list(chain.from_iterable(steps))
    arguments = (parameters, numbers, 32, 40, 1e-5)
    op, gradient = torch.ops.fastbg.swin_layers, torch.ops.fastbg.swin_layers_gradient
    torch.library.opcheck(op.default, (x, *arguments, kept, "cpu"))
    y = op(x.detach(), *arguments, False, "cpu")[0]
    torch.library.opcheck(gradient.default, (y, x.detach(), None, *arguments, "cpu"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_a_number_reaches_what_depends_on_it_and_no_more(
    native: BackendUnderTest, value: float
) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 12, 16, 16)
    x[0, 5, 2, 3] = value
    y = pixel_mlp(x, *mlp_parameters(12, 24), backend="cpu")
    assert y[0, :, 2, 3].isfinite().logical_not().all()
    y[..., 2, 3] = 0
    assert y.isfinite().all()
    for shift, reached in ((0, (8, 8)), (4, (4, 4))):  # shifted, the first window is a quarter
        parameters = attention_parameters(12, 3, 8)
        y = window_attention(x, *parameters, heads=3, window=8, shift=shift, backend="cpu")
        assert y[..., : reached[0], : reached[1]].isnan().all()
        y[..., : reached[0], : reached[1]] = 0
        assert y.isfinite().all()


VARIANT_PROGRAM = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from test_attention import run_of
from fastbg.backends.cpu import native
from fastbg.ops.attention import swin_layers
torch.manual_seed(0)
steps, parameters = run_of(2)
x = torch.randn(1, 20, 24, 32, requires_grad=True)
y = swin_layers(x, parameters, steps, 32, 40, 1e-5, "cpu")
torch.save((y.detach(), torch.autograd.grad(y.square().sum(), x)[0]), sys.argv[1])
print(native().isa())
"""


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_instruction_set_variants_agree(isa: str, tmp_path: Path) -> None:
    file, here = tmp_path / "result.pt", Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", VARIANT_PROGRAM, str(file), str(here)],
        cwd=here,
        env=os.environ | {"FASTBG_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    if "has no" in done.stderr or "compiled module is missing" in done.stderr:
        pytest.skip(f"this machine or build has no {isa}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == isa
    torch.manual_seed(0)
    steps, parameters = run_of(2)
    x = torch.randn(1, 20, 24, 32).double().requires_grad_()
    y = swin_layers(x, doubled(parameters), steps, 32, 40, 1e-5)
    expected = y, torch.autograd.grad(y.square().sum(), x)[0]
    for got, exact in zip(torch.load(file), expected, strict=True):
        assert relative_error(got, exact) <= GRADIENT_ERROR


@pytest.mark.parametrize(
    ("argument", "changed"),
    [
        ("x", {"x": torch.zeros(3, 4, 5)}),
        ("heads", {"heads": 3}),
        ("window", {"window": 5}),
        ("window", {"window": 16}),
        ("shift", {"shift": 8}),
        ("qkv_weight", {"qkv_weight": torch.zeros(8, 8)}),
        ("bias_table", {"bias_table": torch.zeros(15, 2)}),
        ("proj_bias", {"proj_bias": torch.zeros(8, dtype=torch.float64)}),
    ],
)
def test_bad_arguments_are_named(argument: str, changed: dict[str, Any]) -> None:
    good: dict[str, Any] = dict(zip(ATTENTION, attention_parameters(8, 2, 8), strict=True))
    good |= {"x": torch.zeros(1, 8, 8, 8), "heads": 2, "window": 8}
    with pytest.raises(InvalidArgument, match=argument):
        window_attention(**(good | changed))


def test_a_named_backend_says_why_it_cannot(native: BackendUnderTest) -> None:
    x, parameters = torch.zeros(1, 8, 8, 8), attention_parameters(8, 2, 8)
    trained = [p.requires_grad_() for p in mlp_parameters(8, 8)]
    settings: dict[str, Any] = {"heads": 2, "window": 8, "backend": "cpu"}
    with pytest.raises(BackendUnavailable, match="multiples of 4 pixels"):
        window_attention(x, *parameters, **settings, shift=2)
    with pytest.raises(BackendUnavailable, match="no gradient for parameters"):
        pixel_mlp(x, *trained, backend="cpu")
    with pytest.raises(BackendUnavailable, match="cannot run swin_layers"):
        pixel_mlp(x, *mlp_parameters(8, 8), backend="cuda")
    fallback = window_attention(x, *parameters, heads=2, window=8, shift=2)
    assert fallback.isfinite().all()
