"""Swin Transformer layers: the kernel against float64 PyTorch, alone, in runs and in SwinIR."""

import copy
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

import fastbg
from fastbg.backends.cpu import attention as kernel
from fastbg.backends.cpu.attention_weight import _KNOWN
from fastbg.dispatch import Place, unavailable
from fastbg.errors import BackendUnavailable, InvalidArgument
from fastbg.models import swinir
from fastbg.models.swinir import Block, SwinIR
from fastbg.models.window import whole_map
from fastbg.ops.attention import Step, pixel_mlp, swin_layers, window_attention
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
CPU = Place(torch.device("cpu"), torch.float32)


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
    """Blocks on the lower right part of a 32x40 map, each on less than the one before."""
    width, heads, window = 20, 2, 8
    boxes = [(8, 8, 32, 40), (12, 12, 32, 40), (12, 16, 28, 40), (16, 16, 24, 40)]
    starts = [(0, (8, 8, 32, 40)), (4, (12, 12, 32, 40))] * depth
    steps, parameters = [], []
    for i in range(depth):
        shift, here = starts[i]
        steps.append(Step(heads, window, shift, *here))
        steps.append(Step(0, 0, 0, *boxes[1 if i + 1 < depth else 3]))
        parameters += attention_parameters(width, heads, window) + mlp_parameters(width, 24)
        if i + 1 < depth:
            continue
    return steps, parameters


@pytest.mark.parametrize("depth", [1, 2])
def test_a_trimmed_run_equals_float64(native: BackendUnderTest, depth: int) -> None:
    """Boxes at a corner of the map and away from it; pixels outside a step's box are never read."""
    torch.manual_seed(0)
    steps, parameters = run_of(depth)
    x = torch.randn(2, 20, 24, 32)

    def run(x: Tensor, *parameters: Tensor, backend: str) -> Tensor:
        return swin_layers(x, parameters, steps, 32, 40, 1e-5, backend)

    compare(run, x, parameters)


def block(width: int = 16, heads: int = 2, window: int = 8, shift: int = 0) -> Block:
    """A block whose every parameter matters."""
    torch.manual_seed(3)
    made = Block(width, heads, window, shift, 2.0)
    for p in made.parameters():
        nn.init.normal_(p, 0.1, 0.3)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize("sides", [(8, 8), (16, 24)])
def test_a_block_equals_its_module(
    native: BackendUnderTest, sides: tuple[int, int], shift: int
) -> None:
    fast = block(shift=shift)
    plain = copy.deepcopy(fast).double()
    x = torch.randn(2, 16, *sides)
    results = []
    for module, given in ((fast, x), (plain, x.double())):
        leaf = given.requires_grad_()
        patch = whole_map(leaf)
        y = module(patch, patch.box, *sides, {}).data
        results.append((y, torch.autograd.grad(y.square().sum(), leaf)[0]))
    for got, expected in zip(*results, strict=True):
        assert relative_error(got, expected) <= GRADIENT_ERROR


NETWORKS: dict[str, Callable[[], SwinIR]] = {
    "light": lambda: SwinIR(width=12, depths=(2, 3), heads=(2, 3)),
    "classical": lambda: SwinIR(
        width=20, depths=(6,), heads=(2,), upsampler="pixelshuffle", features=8
    ),
    "window_16": lambda: SwinIR(width=8, depths=(2,), heads=(2,), window=16),
    "window_4": lambda: SwinIR(width=8, depths=(2, 1), heads=(2, 1), window=4),
}


def network(name: str) -> SwinIR:
    torch.manual_seed(0)
    net = NETWORKS[name]().eval().requires_grad_(False)
    for module in net.modules():
        if isinstance(module, Block):
            for p in module.parameters():
                p.mul_(3)
    return net


def in_torch(net: nn.Module) -> nn.Module:
    plain = copy.deepcopy(net)
    for module in plain.modules():
        if isinstance(module, Block):
            module.fused = False
    return plain


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, native: BackendUnderTest) -> list[int]:
    """The number of steps of each call of the kernel."""
    seen: list[int] = []
    run = kernel.swin_layers

    def counted(x: Tensor, parameters: Any, steps: Any, *rest: Any) -> Any:
        seen.append(len(steps) // len(Step._fields))
        return run(x, parameters, steps, *rest)

    monkeypatch.setattr(kernel, "swin_layers", counted)
    return seen


@pytest.mark.parametrize("size", [(24, 32), (21, 13), (3, 5)])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_equal_their_modules(name: str, size: tuple[int, int], calls: list[int]) -> None:
    """Whole and in windows; forward to 1e-5, gradients to 1e-4, as rounding adds up layer by layer."""
    net = network(name)
    plain = in_torch(net)
    x = torch.rand(2, 3, *size, requires_grad=True)
    height, width = (4 * v for v in size)
    for window in [
        (0, 0, height, width),
        (0, 0, 5, 6),
        (height - 3, width // 2, height, width // 2 + 5),
        (height // 2, 0, height // 2 + 1, 4),
    ]:
        results = []
        for n in (net, plain):
            y = n.forward_window(x, window)
            gradient = torch.autograd.grad(y.square().sum(), x)[0]
            results.append((y, gradient))
        (value, gradient), (expected, expected_gradient) = results
        assert relative_error(value, expected) <= 1e-5
        assert relative_error(gradient, expected_gradient) <= 1e-4
    depths = [2 * len(layer.blocks) for layer in net.layers]
    # Windows of 4 are shifted by half a cell: only the layer without a shift is the kernel's.
    assert calls == ([2] * len(calls) if name == "window_4" else depths * 4)
    assert calls


def test_the_shipped_network_equals_its_modules(native: BackendUnderTest) -> None:
    net = fastbg.load_model("swinir")
    plain = in_torch(net)
    torch.manual_seed(0)
    x = torch.rand(1, 3, 32, 40, requires_grad=True)
    results = []
    for n in (net, plain):
        y = n(x)
        results.append((y, torch.autograd.grad(y.diff(dim=-2).square().sum(), x)[0]))
    (value, gradient), (expected, expected_gradient) = results
    assert relative_error(value, expected) <= 1e-5
    assert relative_error(gradient, expected_gradient) <= 1e-4


def watched(net: nn.Module) -> None:
    net.layers[0].blocks[0].norm1.register_forward_hook(lambda *_: None)


def replaced(net: nn.Module) -> None:
    attention = net.layers[0].blocks[1].attn
    attention.qkv = nn.utils.parametrizations.weight_norm(attention.qkv)


# What PyTorch's modules must do: a change to the network, and how many native calls are left.
PLAIN: dict[str, tuple[Callable[[nn.Module], object], list[int]]] = {
    "trained": (lambda net: net.requires_grad_(True), []),
    "one_parameter": (lambda net: net.layers[0].blocks[0].fc1.bias.requires_grad_(), [2, 6]),
    "double": (lambda net: net.double(), []),
    "hook": (watched, [2, 6]),
    "parametrized": (replaced, [2, 6]),
    "wrapped": (lambda net: setattr(net.layers[0].blocks[0], "forward", Block.forward), [6]),
}


@pytest.mark.parametrize("case", ["trained", "one_parameter", "double", "hook", "parametrized"])
def test_what_the_modules_compute_themselves(case: str, calls: list[int]) -> None:
    change, left = PLAIN[case]
    net = network("light")
    expected = in_torch(net)(torch.ones(1, 3, 8, 8) / 3)
    change(net)
    y = net(torch.ones(1, 3, 8, 8, dtype=net.mean.dtype) / 3)
    assert calls == left
    assert relative_error(y.float(), expected) <= 1e-5


def test_training_gives_gradients_to_every_parameter(calls: list[int]) -> None:
    net = network("light").train().requires_grad_(True)
    net(torch.rand(1, 3, 8, 8)).sum().backward()
    assert calls == []
    assert all(p.grad is not None for p in net.parameters())


def test_autocast_forward_mode_functional_and_tracing(calls: list[int]) -> None:
    """All by PyTorch's modules, with the same result; a graph has no break."""
    net = network("light")
    plain = in_torch(net)
    x, tangent = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x).isfinite().all()
    compiled = torch.compile(net, backend="aot_eager")
    torch.testing.assert_close(compiled(x), plain(x), rtol=0, atol=1e-5)
    fast, slow = (
        torch.func.grad(lambda x, n=n: n.layers[0].blocks[0].mix(x).square().sum())(
            torch.ones(1, 8, 8, 12) + x.transpose(1, 3)[..., :1]
        )
        for n in (net, plain)
    )
    torch.testing.assert_close(fast, slow)
    assert calls == []
    layer = net.layers[0]
    features = torch.rand(1, 12, 8, 8)

    def run(features: Tensor) -> Tensor:
        patch = whole_map(features)
        return layer.transform(patch, [(patch.box, patch.box)] * 2, 8, 8, {}).data

    _, got = torch.func.jvp(run, (features,), (tangent.repeat(1, 4, 1, 1),))
    numeric = (run(features + 1e-3 * tangent.repeat(1, 4, 1, 1)) - run(features)) / 1e-3
    assert relative_error(got, numeric) < 1e-2


def test_second_derivatives_are_pytorchs(native: BackendUnderTest) -> None:
    """A gradient with a graph of its own, of the native forward pass, and derived again."""
    torch.manual_seed(0)
    parameters = attention_parameters(12, 3, 8)
    x, v = torch.randn(1, 12, 8, 8), torch.randn(1, 12, 8, 8)
    results = []
    for given, rest, direction in ((x, parameters, v), (x.double(), doubled(parameters), v.double())):
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


def test_gradcheck_of_the_reference() -> None:
    torch.manual_seed(0)
    steps, parameters = run_of(1)
    steps = [Step(2, 4, 2, 0, 0, 4, 4), Step(0, 0, 0, 0, 0, 4, 4)]
    parameters = doubled(attention_parameters(4, 2, 4) + mlp_parameters(4, 6))
    leaves = [torch.randn(1, 4, 4, 4).double(), *parameters]
    for leaf in leaves:
        leaf.requires_grad_()

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return swin_layers(x, parameters, steps, 4, 8, 1e-5)

    assert torch.autograd.gradcheck(run, leaves)


# How a parameter may be written to; most leave its version, its address or both as they were.
WRITES: dict[str, Callable[[Tensor], object]] = {
    "in_place": lambda w: w.detach().mul_(2),
    "through_data": lambda w: w.data.mul_(-1),
    "other_memory": lambda w: setattr(w, "data", 2 * w.data),
    "numpy": lambda w: w.detach().numpy().__imul__(2),
    "last_element": lambda w: w.data.view(-1)[-1:].fill_(5),
    "not_a_number": lambda w: w.data.view(-1)[:1].fill_(torch.nan),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("parameter", [name for name, _ in block().named_parameters()])
def test_a_written_parameter_is_used_in_the_next_call(
    native: BackendUnderTest, parameter: str, write: str
) -> None:
    fast = block()
    x = torch.randn(1, 16, 8, 8)
    patch = whole_map(x)
    for _ in range(3):
        y = fast(patch, patch.box, 8, 8, {}).data
        expected = in_torch(fast)(patch, patch.box, 8, 8, {}).data
        assert torch.equal(y.isnan(), expected.isnan())
        if not expected.isnan().any():
            assert relative_error(y, expected) <= 1e-5
        WRITES[write](dict(fast.named_parameters())[parameter])


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
    names = "norm_weight norm_bias qkv_weight qkv_bias bias_table proj_weight proj_bias".split()
    good = dict(zip(names, attention_parameters(8, 2, 8), strict=True))
    good |= {"x": torch.zeros(1, 8, 8, 8), "heads": 2, "window": 8}
    with pytest.raises(InvalidArgument, match=argument):
        window_attention(**(good | changed))


def test_a_named_backend_says_why_it_cannot(native: BackendUnderTest) -> None:
    x, parameters = torch.zeros(1, 8, 8, 8), attention_parameters(8, 2, 8)
    trained = [p.requires_grad_() for p in mlp_parameters(8, 8)]
    settings = {"heads": 2, "window": 8, "backend": "cpu"}
    with pytest.raises(BackendUnavailable, match="cells of 4x4"):
        window_attention(x, *parameters, **settings, shift=2)
    with pytest.raises(BackendUnavailable, match="no gradient to parameters"):
        pixel_mlp(x, *trained, backend="cpu")
    with pytest.raises(BackendUnavailable, match="cannot run swin_layers"):
        pixel_mlp(x, *mlp_parameters(8, 8), backend="triton")
    fallback = window_attention(x, *parameters, heads=2, window=8, shift=2)
    assert fallback.isfinite().all()


def test_the_rule_is_the_networks_too() -> None:
    """FASTBG_BACKEND and missing modules lead to PyTorch's own modules."""
    assert unavailable("swin_layers", "torch", CPU) is None
    assert swinir.why_plain(torch.zeros(1, 8, 8, 8), [], [], "torch") is not None
