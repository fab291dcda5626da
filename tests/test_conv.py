"""The 3x3 convolution: every backend against float64, with all that may stand around it."""

import copy
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runnable_backend import runnable

import fastbg
from fastbg.backends.cpu.conv_weight import _KNOWN, known_weight
from fastbg.backends.torch_reference import conv as reference
from fastbg.errors import BackendUnavailable, InvalidArgument
from fastbg.models.conv import Conv3x3
from fastbg.registration.dispatch import Place, unavailable
from fastbg.testing import BackendUnderTest

pytestmark = pytest.mark.usefixtures("poisoned_memory")

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
# Relative to the largest entry, then rounded to the dtype of the result.
ERROR = {torch.float32: 5e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}
each_example_is_pure = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LAYOUTS = ("contiguous", "channels_last", "window", "strided", "expanded")


@pytest.fixture(params=("torch", "cpu"))
def backend(request: pytest.FixtureRequest) -> BackendUnderTest:
    """Every backend in turn; skips with the reason where one cannot run at all."""
    return runnable(request.param, "conv3x3")


def laid_out(value: torch.Tensor, layout: str) -> torch.Tensor:
    """`value` (B,C,H,W), or its first image everywhere, in one of several memory layouts."""
    height, width = value.shape[2:]
    if layout == "channels_last":
        return value.contiguous(memory_format=torch.channels_last)
    if layout == "window":
        whole = torch.nn.functional.pad(value, (1, 2, 3, 4), value=float("nan"))
        whole = whole.contiguous(memory_format=torch.channels_last)
        return whole[..., 3 : 3 + height, 1 : 1 + width]
    if layout == "strided":
        return value.repeat_interleave(2, 1).repeat_interleave(3, 3)[:, ::2, :, ::3]
    return value[:1].expand(value.shape) if layout == "expanded" else value


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype, upscale = draw(st.sampled_from(FLOATS)), draw(st.sampled_from((1, 1, 2, 3)))
    batch, height, width = (draw(st.integers(0 if n == 3 else 1, n)) for n in (3, 17, 21))
    inputs = draw(st.sampled_from((1, 3, 16, 24, 64, 80)))
    outputs = draw(st.sampled_from((1, 3, 16, 36, 64, 65))) * upscale**2

    def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.from_numpy(scale * rng.standard_normal(shape, np.float32)).to(dtype)

    end = draw(st.sampled_from(("nothing", "relu", "residual")))
    shape = (batch, outputs // upscale**2, upscale * height, upscale * width)
    residual = laid_out(random(*shape), draw(st.sampled_from(LAYOUTS)))
    return {
        "x": laid_out(random(batch, inputs, height, width), draw(st.sampled_from(LAYOUTS))),
        "weight": random(outputs, inputs, 3, 3, scale=1 / (9 * inputs) ** 0.5),
        "bias": random(outputs) if draw(st.booleans()) else None,
        "residual": residual if end == "residual" else None,
        "residual_scale": draw(st.sampled_from((1.0, 0.1))),
        "relu": end == "relu",
        "upscale": upscale,
    }


def in_double(case: dict[str, Any]) -> dict[str, Any]:
    return {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in case.items()}


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert got.shape == expected.shape
    if got.numel():
        limit = ERROR[got.dtype] * float(expected.abs().max())
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=limit)


@each_example_is_pure
@given(case=cases())
def test_equals_float64(backend: BackendUnderTest, case: dict[str, Any]) -> None:
    got = fastbg.conv3x3(**case, backend=backend.name)
    assert got.dtype == case["x"].dtype
    assert got.is_contiguous(memory_format=torch.channels_last)
    close(got, reference.conv3x3(**in_double(case)))


@each_example_is_pure
@given(case=cases())
def test_gradients_equal_float64(backend: BackendUnderTest, case: dict[str, Any]) -> None:
    """Of the smooth part; the ReLU's gate is given, as its kink moves with rounding."""
    upstream = reference.conv3x3(**in_double(case | {"residual": None}))
    gate = upstream if case["relu"] else None
    dtype, weight, upscale = case["x"].dtype, case["weight"], case["upscale"]
    given_gate = None if gate is None else gate.to(dtype)
    got = torch.ops.fastbg.conv3x3_input_gradient(
        upstream.to(dtype), weight, given_gate, upscale, backend.name
    )
    expected = reference.conv3x3_input_gradient(
        upstream.to(dtype).double(),
        weight.double(),
        None if given_gate is None else given_gate.double(),
        upscale,
    )
    close(got, expected)


@each_example_is_pure
@given(case=cases())
def test_weight_gradients_equal_float64(backend: BackendUnderTest, case: dict[str, Any]) -> None:
    x, upscale = case["x"], case["upscale"]
    upstream = reference.conv3x3(**in_double(case | {"residual": None})).to(x.dtype)
    gate = upstream if case["relu"] else None
    got = torch.ops.fastbg.conv3x3_weight_gradient(upstream, x, gate, upscale, backend.name)
    expected = reference.conv3x3_weight_gradient(
        upstream.double(), x.double(), None if gate is None else gate.double(), upscale
    )
    for ours, theirs in zip(got, expected, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("upscale", [1, 2])
@pytest.mark.parametrize("end", ["nothing", "relu", "residual"])
def test_gradcheck_of_the_operator(end: str, upscale: int) -> None:
    torch.manual_seed(0)
    channels = 2 * upscale**2
    x, weight, bias = torch.randn(2, 3, 4, 5), torch.randn(channels, 3, 3, 3), torch.randn(channels)
    residual = torch.randn(2, 2, 4 * upscale, 5 * upscale)
    leaves = [t.double().requires_grad_() for t in (x, weight, bias, residual)]

    def function(*tensors: torch.Tensor) -> torch.Tensor:
        *given, last = tensors
        return fastbg.conv3x3(
            *given,
            relu=end == "relu",
            residual=last if end == "residual" else None,
            residual_scale=0.5,
            upscale=upscale,
        )

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("end", ["nothing", "relu", "residual"])
def test_gradients_of_the_compiled_kernel(backend: BackendUnderTest, end: str) -> None:
    """x, weight, bias and residual through autograd, against float64."""
    torch.manual_seed(1)
    shapes = [(2, 16, 9, 6), (64, 16, 3, 3), (64,), (2, 16, 18, 12)]
    leaves = [torch.randn(shape).requires_grad_() for shape in shapes]
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    used = 4 if end == "residual" else 3
    results = []
    for tensors, name in ((leaves, backend.name), (doubles, "torch")):
        last = tensors[3] if end == "residual" else None
        out = fastbg.conv3x3(
            *tensors[:3],
            relu=end == "relu",
            residual=last,
            residual_scale=0.5,
            upscale=2,
            backend=name,
        )
        results.append(torch.autograd.grad(out.square().sum(), tensors[:used]))
    for got, expected in zip(*results, strict=True):
        close(got, expected)


def test_opcheck(backend: BackendUnderTest) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, 16, 5, 6, requires_grad=True), torch.randn(16, 16, 3, 3)
    weight.requires_grad_()
    conv, gradient = torch.ops.fastbg.conv3x3, torch.ops.fastbg.conv3x3_input_gradient
    torch.library.opcheck(conv.default, (x, weight, None, x.detach(), 0.5, False, 1, backend.name))
    torch.library.opcheck(conv.default, (x, weight, None, None, 1.0, True, 2, backend.name))
    torch.library.opcheck(gradient.default, (x, weight, x.detach(), 1, backend.name))
    weights = torch.ops.fastbg.conv3x3_weight_gradient
    torch.library.opcheck(weights.default, (x, x.detach(), x.detach(), 1, backend.name))


def test_compiles_without_a_graph_break() -> None:
    layer = Conv3x3(16, 16).requires_grad_(False)
    x = torch.randn(1, 16, 6, 7)
    compiled = torch.compile(lambda x: layer(x, residual=x), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x, residual=x))


def _exchange_filters(weight: torch.Tensor) -> None:
    first = weight[0].clone()
    weight.data[0] = weight[1]
    weight.data[1] = first


def _from_a_thread(weight: torch.Tensor) -> None:
    thread = threading.Thread(target=lambda: weight.data.mul_(2))
    thread.start()
    thread.join()


def _flip_two_signs(weight: torch.Tensor) -> None:
    weight.data.view(torch.int32).view(-1)[::144] ^= -(2**31)


def _swap_twice(weight: torch.Tensor) -> None:
    other = torch.full_like(weight, 7)
    torch.utils.swap_tensors(weight, other)
    fastbg.conv3x3(torch.ones(1, 16, 4, 4), weight)
    torch.utils.swap_tensors(weight, other)


# How a weight may be written to; most leave its version, its address or both as they were.
WRITES: dict[str, Callable[[torch.Tensor], object]] = {
    "in_place": lambda w: w.detach().mul_(2),
    "through_data": lambda w: w.data.mul_(2),
    "other_memory": lambda w: setattr(w, "data", 2 * w.data),
    "other_layout": lambda w: setattr(
        w, "data", (2 * w.data).contiguous(memory_format=torch.channels_last)
    ),
    "same_bytes_of_another_layout": lambda w: setattr(
        w, "data", w.data.flatten().as_strided(w.shape, (144, 1, 48, 16))
    ),
    "another_storage": lambda w: w.data.set_(2 * w.data),
    "numpy": lambda w: np.multiply(w.detach().numpy(), 2, out=w.detach().numpy()),
    "one_element": lambda w: w.data.view(-1)[100].fill_(7),
    "the_last_element": lambda w: w.data.view(-1)[-1:].fill_(7),
    "filters_exchanged": _exchange_filters,
    "signs": _flip_two_signs,
    "a_view": lambda w: w.data[3, :, 1].mul_(-1),
    "another_thread": _from_a_thread,
    "tensors_swapped": lambda w: torch.utils.swap_tensors(w, (2 * w.detach()).requires_grad_()),
    "swapped_and_back": _swap_twice,
    "not_a_number": lambda w: w.data.view(-1)[:1].fill_(torch.nan),
}


@pytest.mark.parametrize("requires_grad", [True, False])
@pytest.mark.parametrize("write", WRITES)
def test_a_written_weight_is_used_in_the_next_call(write: str, requires_grad: bool) -> None:
    """Forwards and for the gradient to the input; twice, so that the old one is not kept beside."""
    torch.manual_seed(0)
    weight = torch.randn(16, 16, 3, 3, requires_grad=requires_grad)
    for _ in range(2):
        x = torch.randn(1, 16, 8, 8, requires_grad=True)
        for _ in range(2):
            y = fastbg.conv3x3(x, weight)
            expected = torch.conv2d(x, weight, padding=1)
            torch.testing.assert_close(y.isnan().any(), expected.isnan().any())
            if not expected.isnan().any():
                torch.testing.assert_close(y, expected, rtol=0, atol=1e-4)
                got, wanted = (torch.autograd.grad(v.square().sum(), x)[0] for v in (y, expected))
                torch.testing.assert_close(got, wanted, rtol=0, atol=2e-2)
        WRITES[write](weight)


def test_a_negative_zero_is_seen_and_an_equal_copy_is_right() -> None:
    """Zeros of either sign multiply to zeros of either sign; a copy has factors of its own."""
    weight = torch.zeros(16, 16, 3, 3)
    x = torch.full((1, 16, 4, 4), -1.0)
    for _ in range(2):
        assert not fastbg.conv3x3(x, weight).signbit().any()
    known, _ = known_weight(weight)
    assert known_weight(weight)[0] is known
    same = copy.deepcopy(weight)
    assert known_weight(same)[0] is not known


def test_a_weight_of_the_same_bytes_in_another_shape_or_dtype_is_another() -> None:
    weight = torch.randn(16, 32, 3, 3)
    x = torch.randn(1, 32, 8, 8)
    fastbg.conv3x3(x, weight)
    weight.data = weight.data.view(32, 16, 3, 3)
    close(
        fastbg.conv3x3(x[:, :16], weight),
        torch.conv2d(x[:, :16].double(), weight.double(), padding=1),
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_weight_in_any_layout_is_known_again(layout: str) -> None:
    weight = laid_out(torch.randn(16, 16, 3, 3), layout)
    x = torch.randn(1, 16, 8, 8)
    close(fastbg.conv3x3(x, weight), torch.conv2d(x.double(), weight.double(), padding=1))
    assert known_weight(weight)[0] is known_weight(weight)[0]
    weight.data.mul_(-1) if layout != "expanded" else weight.data[0].mul_(-1)
    close(fastbg.conv3x3(x, weight), torch.conv2d(x.double(), weight.double(), padding=1))


def test_a_loaded_state_and_a_moving_average_are_used() -> None:
    """What trainers do: averages through .data of a deep copy, and load_state_dict."""
    layer, x = Conv3x3(16, 16).requires_grad_(False), torch.randn(1, 16, 8, 8)
    average = copy.deepcopy(layer)
    before = average(x)
    for value in average.parameters():
        value.data.mul_(0.5)
    torch.testing.assert_close(average(x), 0.5 * before)
    torch.testing.assert_close(layer(x), before)
    layer.load_state_dict(average.state_dict())
    torch.testing.assert_close(layer(x), 0.5 * before)
    with torch.inference_mode():
        layer.bias.data.mul_(2)
        torch.testing.assert_close(layer(x), torch.conv2d(x, layer.weight, layer.bias, padding=1))


def test_a_module_converted_by_swapping_its_tensors_uses_its_new_values() -> None:
    """An option of PyTorch for module.to(), which refuses tensors with weak references."""
    layer, x = Conv3x3(16, 16).requires_grad_(False), torch.randn(1, 16, 8, 8)
    before = layer(x)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        rounded = layer.bfloat16().float()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    expected = torch.conv2d(x, rounded.weight, rounded.bias, padding=1)
    torch.testing.assert_close(rounded(x), expected, rtol=0, atol=1e-5)
    assert not torch.equal(rounded(x), before)


def test_views_of_one_memory_leave_one_thing_behind() -> None:
    memory, x, before = torch.randn(3, 16, 16, 3, 3), torch.randn(1, 16, 8, 8), len(_KNOWN)
    for k in range(9):
        close(fastbg.conv3x3(x, memory[k % 3]), torch.conv2d(x, memory[k % 3], padding=1).double())
    assert len(_KNOWN) == before + 3
    del memory
    assert len(_KNOWN) == before


def test_factors_go_with_their_weights() -> None:
    """Weights made for one call leave nothing behind, without a collector of cycles."""
    gc.disable()
    try:
        x, before = torch.randn(1, 16, 8, 8), len(_KNOWN)
        for k in range(50):
            weight = torch.full((16, 16, 3, 3), float(k))  # often where the last one lay
            torch.testing.assert_close(
                fastbg.conv3x3(x, weight), torch.conv2d(x, weight, padding=1), rtol=0, atol=2e-2
            )
            assert len(_KNOWN) <= before + 1
        del weight
        assert len(_KNOWN) == before
    finally:
        gc.enable()


def test_threads_that_share_a_weight_agree() -> None:
    x, weight = torch.randn(1, 16, 8, 8), torch.randn(16, 16, 3, 3)
    expected = fastbg.conv3x3(x, weight)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: fastbg.conv3x3(x, weight), range(64)):
            assert torch.equal(got, expected)


def test_threads_and_neighbours_do_not_change_a_bit() -> None:
    if (reason := unavailable("conv3x3", "cpu", CPU)) is not None:
        pytest.skip(reason)
    torch.manual_seed(0)
    x, weight = torch.randn(5, 64, 37, 41), torch.randn(64, 64, 3, 3)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(fastbg.conv3x3(x, weight, backend="cpu"))
    finally:
        torch.set_num_threads(before)
    alone = fastbg.conv3x3(x[3:4], weight, backend="cpu")
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[0][3:4], alone)


CPU = Place(torch.device("cpu"), torch.float32)
VARIANT_PROGRAM = """
import sys, torch, fastbg
from fastbg.backends.cpu import native
torch.manual_seed(0)
x, weight = torch.randn(2, 80, 19, 22), torch.randn(192, 80, 3, 3)
torch.save(fastbg.conv3x3(x, weight, relu=True, upscale=2, backend="cpu"), sys.argv[1])
print(native().isa())
"""


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_instruction_set_variants_agree(isa: str, tmp_path: Path) -> None:
    file = tmp_path / "result.pt"
    done = subprocess.run(
        [sys.executable, "-c", VARIANT_PROGRAM, str(file)],
        cwd=Path(__file__).parent,  # not where a fastbg lies that is not the installed one
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
    x, weight = torch.randn(2, 80, 19, 22).double(), torch.randn(192, 80, 3, 3).double()
    close(torch.load(file), reference.conv3x3(x, weight, None, None, 1.0, True, 2))


def test_addresses_beyond_2_to_the_31_elements() -> None:
    """The second image begins behind 2^31 elements of memory that is otherwise left untouched."""
    if (reason := unavailable("conv3x3", "cpu", CPU)) is not None:
        pytest.skip(reason)
    torch.use_deterministic_algorithms(False)  # would fill 8 GB
    buffer = torch.empty(2**31 + 2**12)
    x = buffer.as_strided((2, 16, 8, 8), (2**31, 1, 128, 16))
    x.copy_(torch.randn(2, 16, 8, 8))
    weight = torch.randn(16, 16, 3, 3)
    close(
        fastbg.conv3x3(x, weight, backend="cpu"),
        torch.conv2d(x.double(), weight.double(), padding=1),
    )


def test_not_a_number_and_infinity_reach_the_tile_and_stay_there(backend: BackendUnderTest) -> None:
    weight = torch.randn(16, 16, 3, 3)
    for value in (float("nan"), float("inf")):
        x = torch.randn(1, 16, 16, 16)
        x[0, 3, 5, 6] = value
        got = fastbg.conv3x3(x, weight, relu=True, backend=backend.name)
        assert got[0, :, 4:7, 5:8].isfinite().logical_not().any()
        assert got[0, :, 8:].isfinite().all()
        assert got[0, :, :, 8:].isfinite().all()


@pytest.mark.parametrize(
    ("argument", "changed"),
    [
        ("x", {"x": torch.zeros(3, 4, 5)}),
        ("weight", {"weight": torch.zeros(8, 3, 3, 3)}),
        ("weight", {"weight": torch.zeros(8, 4, 3, 3, dtype=torch.float64)}),
        ("bias", {"bias": torch.zeros(7)}),
        ("upscale", {"upscale": 3}),
        ("upscale", {"upscale": 0}),
        ("residual", {"residual": torch.zeros(1, 8, 6, 5)}),
        ("relu", {"relu": True, "residual": torch.zeros(1, 8, 5, 6)}),
    ],
)
def test_bad_arguments_are_named(argument: str, changed: dict[str, Any]) -> None:
    good = {"x": torch.zeros(1, 4, 5, 6), "weight": torch.zeros(8, 4, 3, 3)}
    with pytest.raises(InvalidArgument, match=argument):
        fastbg.conv3x3(**(good | changed))


def test_a_backend_that_does_not_have_it_says_so() -> None:
    grad, x = torch.zeros(1, 8, 5, 6), torch.zeros(1, 4, 5, 6)
    with pytest.raises(BackendUnavailable, match="cannot run conv3x3_weight_gradient: "):
        torch.ops.fastbg.conv3x3_weight_gradient(grad, x, None, 1, "cuda")
