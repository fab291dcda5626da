"""What PyTorch does to operators: forward mode, vmap, double backward, autocast, compilation."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import fastbg
from fastbg.errors import BackendUnavailable, InvalidArgument, NoDerivative
from fastbg.models.conv import Conv3x3
from fastbg.models.edsr import EDSR
from fastbg.models.rcan import RCAN
from fastbg.models.swinir import SwinIR
from fastbg.models.wrapped import wrap
from fastbg.testing import BackendUnderTest, backend_under_test

# PyTorch scripts a few of its own formulas when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")

PAIRS = [[0, 1], [1, 1], [1, 0]]
INNER, OUTER = (2, 1, 4, 4), [(1, 0, 6, 5), (0, 0, 6, 5), (3, 3, 3, 3)]
SIGMAS = [0.0, 0.6, 1.5]
WINDOWS = [(0, 1, 5, 4), (1, 0, 6, 5)]
IMAGES = (2, 3, 6, 5)


class Case(NamedTuple):
    """An operator as a function of the tensors that it can be derived by, and their shapes."""

    run: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]

    def inputs(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
        """Positive numbers: clear of the kinks of ReLUs, but for some features of conv_gram."""
        generator = torch.Generator().manual_seed(seed)
        return [(0.1 + torch.rand(s, generator=generator, dtype=dtype)) for s in self.shapes]


CASES = {
    "composite": Case(
        lambda a, b, **k: fastbg.composite(a, b, PAIRS, INNER, OUTER, **k), (IMAGES, IMAGES)
    ),
    "bridged_composite": Case(
        lambda a, b, **k: fastbg.composite(a, b, PAIRS, INNER, OUTER, seam=1.5, **k),
        (IMAGES, IMAGES),
    ),
    "blur_path": Case(lambda x, **k: fastbg.blur_path(x, SIGMAS, 5, **k), (IMAGES,)),
    "path_integral": Case(
        lambda g, x, **k: fastbg.path_integral(g, x, SIGMAS, 5, **k), ((2, 2, *IMAGES[1:]), IMAGES)
    ),
    "gradient_detector": Case(lambda x, **k: fastbg.gradient_detector(x, WINDOWS, **k), (IMAGES,)),
    "gram": Case(lambda f, m, **k: fastbg.gram(f, m, **k), (IMAGES, (2, 2, 6, 5))),
    "conv_gram": Case(
        lambda x, w, b, m, **k: fastbg.conv_gram(x, w, b, m, **k)[:, :5, :5],
        ((1, 3, 4, 3), (64, 3, 3, 3), (64,), (1, 4, 3)),
    ),
    "conv3x3": Case(
        lambda x, w, b, r, **k: fastbg.conv3x3(x, w, b, residual=r, residual_scale=0.5, **k),
        ((2, 2, 4, 3), (3, 2, 3, 3), (3,), (2, 3, 4, 3)),
    ),
    "conv3x3_relu_shuffled": Case(
        lambda x, w, b, **k: fastbg.conv3x3(x, w, b, relu=True, upscale=2, **k),
        ((1, 2, 4, 3), (4, 2, 3, 3), (4,)),
    ),
}
each_operator = pytest.mark.parametrize("name", CASES)
# What else the networks and backward formulas call.
FORWARD_BY_NAME = ("conv3x3", "conv3x3_relu_shuffled")


# Arguments whose gradient a backend refuses, as it is not written: weight and bias.
UNWRITTEN = {(name, gpu): (1, 2) for name in FORWARD_BY_NAME for gpu in ("triton", "cuda")}


def runs(name: str, op: str) -> BackendUnderTest:
    """A backend, or a skip with the reason where it does not run this operator here."""
    found = backend_under_test(name, op.removesuffix("_relu_shuffled"))
    if found.skip_reason is not None:
        pytest.skip(found.skip_reason)
    return found


def dot(x: Any, y: Any) -> float:
    """Inner product over all tensors."""
    return sum(float((a.double() * b.double()).sum()) for a, b in zip(x, y, strict=True))


@each_operator
def test_every_derivative_in_every_mode_is_right(name: str) -> None:
    """Against finite differences in float64; batched ones go through vmap."""
    case = CASES[name]
    inputs = [x.requires_grad_() for x in case.inputs(torch.float64)]
    torch.manual_seed(0)  # of the directions that are tried
    assert torch.autograd.gradcheck(
        case.run,
        inputs,
        fast_mode=True,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )
    assert torch.autograd.gradgradcheck(
        case.run, inputs, fast_mode=True, check_fwd_over_rev=True, check_batched_grad=True
    )


@pytest.mark.parametrize("name", sorted(set(CASES) - set(FORWARD_BY_NAME)))
def test_auto_takes_the_torch_backend_for_forward_mode(name: str) -> None:
    """<u, J v> = <J' u, v>, in float32, where "auto" is another backend otherwise."""
    case = CASES[name]
    inputs, directions = case.inputs(), tuple(case.inputs(seed=1))
    value, forwards = torch.func.jvp(case.run, tuple(inputs), directions)
    torch.testing.assert_close(value, case.run(*inputs))
    upstream = torch.rand_like(value)
    backwards = torch.func.vjp(case.run, *inputs)[1](upstream)
    assert dot([upstream], [forwards]) == pytest.approx(dot(backwards, directions), rel=1e-4)
    with forward_ad.dual_level():
        out = case.run(*map(forward_ad.make_dual, inputs, directions))
        torch.testing.assert_close(forward_ad.unpack_dual(out).tangent, forwards)


@pytest.mark.parametrize("backend", ["cpu", "triton", "cuda"])
@each_operator
def test_a_named_backend_without_forward_mode_says_so(name: str, backend: str) -> None:
    runs(backend, name)
    case, inputs = CASES[name], CASES[name].inputs()
    message = f"backend '{backend}' cannot run .*forward-mode"
    for k in range(len(inputs)):  # a tangent on any one of the arguments

        def one(x: Tensor, k: int = k) -> Tensor:
            return case.run(*inputs[:k], x, *inputs[k + 1 :], backend=backend)

        with pytest.raises(BackendUnavailable, match=message):
            torch.func.jvp(one, (inputs[k],), (torch.ones_like(inputs[k]),))
        with pytest.raises(BackendUnavailable, match=message), forward_ad.dual_level():
            one(forward_ad.make_dual(inputs[k], torch.ones_like(inputs[k])))


BACKENDS = pytest.mark.parametrize("backend", ["torch", "cpu", "triton", "cuda"])


@pytest.mark.parametrize("name", FORWARD_BY_NAME)
def test_forward_mode_of_conv3x3_is_right_where_the_torch_backend_is_named(name: str) -> None:
    case = CASES[name]
    inputs, directions = case.inputs(), tuple(case.inputs(seed=1))

    def plain(*tensors: Tensor) -> Tensor:
        return case.run(*tensors, backend="torch")

    value, forwards = torch.func.jvp(plain, tuple(inputs), directions)
    upstream = torch.rand_like(value)
    backwards = torch.func.vjp(plain, *inputs)[1](upstream)
    assert dot([upstream], [forwards]) == pytest.approx(dot(backwards, directions), rel=1e-4)
    runs("cpu", name)
    with pytest.raises(BackendUnavailable, match=r"conv3x3: forward-mode .*backend='torch'"):
        torch.func.jvp(case.run, tuple(inputs), directions)


@BACKENDS
@each_operator
def test_a_lazily_negated_input_is_resolved(name: str, backend: str) -> None:
    """`z.conj().imag` is a view whose memory holds the numbers with the other sign."""
    device = runs(backend, name).device
    inputs = [x.to(device) for x in CASES[name].inputs()]
    lazy = [torch.complex(torch.zeros_like(x), -x).conj().imag for x in inputs]
    assert all(x.is_neg() for x in lazy)
    expected = CASES[name].run(*inputs, backend=backend)
    got = CASES[name].run(*lazy, backend=backend)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@BACKENDS
@each_operator
def test_vmap_equals_a_loop(name: str, backend: str) -> None:
    """Over every argument, over a single one, along another axis, and nested."""
    device = runs(backend, name).device
    case = CASES[name]
    several = [[x.to(device) for x in case.inputs(seed=seed)] for seed in range(3)]
    stacked = [torch.stack(values) for values in zip(*several, strict=True)]

    def run(*inputs: Tensor) -> Tensor:
        return case.run(*inputs, backend=backend)

    expected = torch.stack([run(*inputs) for inputs in several])
    torch.testing.assert_close(torch.vmap(run)(*stacked), expected, rtol=0, atol=0)
    moved = [x.movedim(0, -1) for x in stacked]
    torch.testing.assert_close(torch.vmap(run, in_dims=-1)(*moved), expected, rtol=0, atol=0)
    one = torch.vmap(run, in_dims=(0, *(None for _ in several[0][1:])))
    got = one(stacked[0], *several[0][1:])
    torch.testing.assert_close(got[0], expected[0], rtol=0, atol=0)
    twice = torch.vmap(torch.vmap(run))(*(x[None] for x in stacked))
    torch.testing.assert_close(twice[0], expected, rtol=0, atol=0)


@BACKENDS
@each_operator
def test_reverse_mode_transforms_equal_the_references(name: str, backend: str) -> None:
    """torch.func's grad, jacrev (vmap over backward), per-sample gradients, and backward twice."""
    device = runs(backend, name).device
    case, results = CASES[name], []
    for where, which in (("cpu", "torch"), (device, backend)):
        inputs = [x.to(where) for x in case.inputs()]

        def run(*inputs: Tensor, which: str = which) -> Tensor:
            return case.run(*inputs, backend=which).square()

        lacking = UNWRITTEN.get((name, backend), ())
        every = tuple(k for k in range(len(inputs)) if k not in lacking)
        gradients = torch.func.grad(lambda *x: run(*x).sum(), every)(*inputs)
        jacobian = torch.func.jacrev(lambda *x: run(*x).flatten()[:3], every)(*inputs)
        samples = torch.vmap(torch.func.grad(lambda *x: run(*x).sum()))(
            *(torch.stack((x, 2 * x)) for x in inputs)
        )
        copies = [x.clone() for x in inputs]
        leaves = [copies[k].requires_grad_() for k in every]
        first = torch.autograd.grad(run(*copies).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        results.append([x.cpu() for x in (*gradients, *jacobian, samples, *second)])
    for got, expected in zip(*reversed(results), strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-4 * scale)


NO_DERIVATIVE = {
    "composite_lr": lambda x, **k: fastbg.composite_lr(x, x, PAIRS, (2, 2, 6, 6), scale=2, **k),
    "bridged_composite_lr": lambda x, **k: fastbg.composite_lr(
        x, x, PAIRS, (2, 2, 6, 6), scale=2, seam=1.5, **k
    ),
    "mosaic": lambda x, **k: fastbg.mosaic(x, [[[1, 2], [3, 7]]] * 2, **k),
}


@BACKENDS
@pytest.mark.parametrize("name", NO_DERIVATIVE)
def test_operators_without_a_derivative_say_so(name: str, backend: str) -> None:
    x = torch.rand(2, 3, 8, 8, device=runs(backend, name).device)

    def run(x: Tensor) -> Tensor:
        return NO_DERIVATIVE[name](x, backend=backend)

    with pytest.raises(NoDerivative, match=f"{name} has no derivative: pass .*detach"):
        run(x.clone().requires_grad_()).sum().backward()
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        with pytest.raises(NoDerivative, match=name):
            transform(lambda x: run(x).sum())(x)
    with pytest.raises(NoDerivative, match=name):
        torch.func.jvp(run, (x,), (x,))
    assert torch.equal(torch.vmap(run)(torch.stack((x, 1 - x))), torch.stack((run(x), run(1 - x))))


NETWORKS = {
    "edsr": lambda: EDSR(features=4, blocks=1),
    "rcan": lambda: RCAN(features=4, groups=1, blocks=1),
    "swinir": lambda: SwinIR(width=8, depths=(2,), heads=(2,), window=4),
    "wrapped": lambda: wrap(torch.nn.Upsample(scale_factor=4, mode="bicubic")),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(0)
    return NETWORKS[request.param]().eval().requires_grad_(False)


def test_forward_mode_of_a_network_is_right_or_refused(
    network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, v = torch.rand(1, 3, 8, 8), torch.randn(1, 3, 8, 8)
    if any(isinstance(m, Conv3x3) for m in network.modules()):
        with pytest.raises(BackendUnavailable, match=r"conv3x3: .*Conv3x3\.fused = False"):
            torch.func.jvp(network, (x,), (v,))
    monkeypatch.setattr(Conv3x3, "fused", False)
    value, forwards = torch.func.jvp(network, (x,), (v,))
    with forward_ad.dual_level():
        out = network(forward_ad.make_dual(x, v))
        torch.testing.assert_close(forward_ad.unpack_dual(out).tangent, forwards)
    upstream = torch.rand_like(value)
    (backwards,) = torch.func.vjp(network, x)[1](upstream)
    assert dot([upstream], [forwards]) == pytest.approx(dot([backwards], [v]), rel=1e-3)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # attention in vmap
def test_vmap_and_reverse_mode_of_a_network(network: torch.nn.Module) -> None:
    x = torch.rand(2, 1, 3, 8, 8)
    expected = torch.stack([network(one) for one in x])
    torch.testing.assert_close(torch.vmap(network)(x), expected, rtol=1e-5, atol=1e-5)

    def some(x: Tensor) -> Tensor:
        return network(x).flatten()[:3]

    rows = []
    for k in range(3):
        leaf = x[0].clone().requires_grad_()
        rows.append(torch.autograd.grad(some(leaf)[k], leaf)[0])
    expected = torch.stack(rows)
    torch.testing.assert_close(torch.func.jacrev(some)(x[0]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["torch", "cpu"])
@each_operator
def test_autocast_changes_no_bit(name: str, backend: str, dtype: torch.dtype) -> None:
    """Of the result, the gradient and the gradient's gradient."""
    runs(backend, name)
    case = CASES[name]

    def everything() -> list[Tensor]:
        leaves = [x.requires_grad_() for x in case.inputs()]
        out = case.run(*leaves, backend=backend)
        first = torch.autograd.grad(out, leaves, torch.ones_like(out), create_graph=True)
        curved = [g for g in first if g.requires_grad]  # the linear ones end here
        ones = [torch.ones_like(g) for g in curved]
        second = torch.autograd.grad(curved, leaves, ones, materialize_grads=True) if curved else ()
        return [out, *first, *second]

    expected = everything()
    with torch.autocast("cpu", dtype):
        got = everything()
    for x, y in zip(got, expected, strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


@each_operator
def test_forward_mode_under_autocast_changes_no_bit_or_is_refused(name: str) -> None:
    """torch.func applies autocast behind an operator's back; dual numbers do not."""
    case = CASES[name]
    inputs, directions = case.inputs(), case.inputs(seed=1)

    def forwards() -> tuple[Tensor, Tensor]:
        with forward_ad.dual_level():
            duals = map(forward_ad.make_dual, inputs, directions)
            return forward_ad.unpack_dual(case.run(*duals, backend="torch"))

    expected = forwards()
    with torch.autocast("cpu", torch.bfloat16):
        for got, wanted in zip(forwards(), expected, strict=True):
            assert torch.equal(got, wanted)
        with pytest.raises(NoDerivative, match="leave autocast"):
            torch.func.jvp(case.run, tuple(inputs), tuple(directions))


class TestCompiledChecks:
    """A compiled graph refuses what an eager call refuses, with the same words."""

    a = torch.rand(2, 3, 8, 8)

    @staticmethod
    def refuses(function: Callable[[Tensor], Tensor], wrong: dict[str, Any]) -> None:
        """`function`, eager and compiled, of each value as int64 and, where it fits, int32."""
        torch._dynamo.reset()
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        for message, value in wrong.items():
            whole = torch.tensor(value)
            fits = int(whole.abs().max()) < 2**31
            for given in (whole, whole.int()) if fits else (whole,):
                for run in (function, compiled):
                    with pytest.raises(InvalidArgument, match=message):
                        run(given)

    @BACKENDS
    @pytest.mark.parametrize("operator", [fastbg.composite, fastbg.composite_lr])
    def test_pairs(self, operator: Callable[..., Tensor], backend: str) -> None:
        runs(backend, operator.__name__)
        self.refuses(
            lambda p: operator(self.a, self.a, p, (2, 2, 6, 6), backend=backend),
            {
                r"pairs\[:, 0\]: got 4294967296; expected 0 <= index < 2": [[2**32, 0]],
                r"pairs\[:, 1\]: got 4294967297": [[0, 2**32 + 1]],
                r"pairs\[:, 1\]: got -4294967296": [[0, -(2**32)]],
                r"pairs\[:, 1\]: got -1": [[0, -1]],
                r"pairs\[:, 0\]: got 2": [[2, 0]],
            },
        )

    @BACKENDS
    @pytest.mark.parametrize("name", ["inner", "outer", "windows"])
    def test_boxes(self, name: str, backend: str) -> None:
        runs(backend, "gradient_detector" if name == "windows" else "composite")

        def run(box: Tensor) -> Tensor:
            if name == "windows":
                return fastbg.gradient_detector(self.a, box, backend=backend)
            given = {"inner": (2, 2, 6, 6), name: box}
            small = fastbg.composite_lr(self.a, self.a, [[0, 1]], **given, backend=backend)
            whole = fastbg.composite(self.a, self.a, [[0, 1]], **given, backend=backend)
            return whole.sum() + small.sum()

        boxes = [
            [0, 0, 9, 8],
            [0, -1, 8, 8],
            [4, 0, 2, 8],
            [0, 0, 2**32 + 8, 8],
            [0, 0, 8, -(2**32) + 8],
            [2**32, 0, 8, 8],
        ]
        wrong = {f"{name}: got {re.escape(str(box))}; expected 0 <= y0": box for box in boxes}
        self.refuses(run, wrong)

    @BACKENDS
    def test_codes(self, backend: str) -> None:
        runs(backend, "mosaic")
        codes = (8, -1, 2**32, -(2**32) + 1)
        self.refuses(
            lambda c: fastbg.mosaic(self.a, c, backend=backend),
            {f"cells: got {code};": [[[0, code], [1, 2]]] * 2 for code in codes},
        )

    def test_quarter_turns_of_oblong_tiles(self) -> None:
        tiles = torch.rand(1, 3, 4, 8)
        message = "cells: got a quarter turn"
        self.refuses(lambda c: fastbg.mosaic(tiles, c), {message: [[[3]]]})

    def test_unsigned_indices_do_not_wrap(self) -> None:
        for value in (2**63, 2**64 - 2**32, 2**32):
            pairs = torch.tensor([[0, value]], dtype=torch.uint64)
            with pytest.raises(InvalidArgument, match=r"pairs\[:, 1\]"):
                fastbg.composite(self.a, self.a, pairs, (2, 2, 6, 6))

    @BACKENDS
    def test_right_values_of_any_integer_type_are_taken(self, backend: str) -> None:
        runs(backend, "composite")
        box = torch.tensor([2, 2, 6, 6])
        expected = fastbg.composite(self.a, self.a, [[0, 1]], box, backend=backend)
        for dtype in (
            torch.uint8,
            torch.int8,
            torch.int16,
            torch.int32,
            torch.uint32,
            torch.uint64,
        ):
            pairs = torch.tensor([[0, 1]], dtype=dtype)
            got = fastbg.composite(self.a, self.a, pairs, box.to(dtype), backend=backend)
            assert torch.equal(got, expected)

    def test_the_gradient_of_the_detector_looks_at_its_windows_too(self) -> None:
        run = torch.ops.fastbg.gradient_detector_backward
        with pytest.raises(InvalidArgument, match="windows"):
            run(torch.ones(2), self.a, torch.tensor([0, 0, 2**32 + 1, 4]), "auto")

    def test_a_negative_width_shows_in_a_compiled_graph(self) -> None:
        """Widths are looked at before the operator: where they cannot be, the result is NaN."""
        compiled = torch.compile(
            lambda x, s: fastbg.blur_path(x, s, 3), fullgraph=True, backend="aot_eager"
        )
        got = compiled(self.a, torch.tensor([-1.0, 1.0]))
        assert got[:, 0].isnan().all()
        torch.testing.assert_close(got[:, 1:], fastbg.blur_path(self.a, [1.0], 3))
