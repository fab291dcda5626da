"""A fuzzed case of an operator, how it is checked, and random tensors, sizes and boxes for it.

`check` runs a `Case` on a backend and on the reference, forward and backward, and wants the same
from both: the same numbers up to rounding, NaN and infinities in the same places, or the same
error, which must be one of fastbg's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

import fastbg
from fastbg.errors import FastbgError
from fastbg.testing import BackendUnderTest, moved

# Nothing, one, primes, and both sides of what kernels cut images into.
EDGES = (0, 1, 2, 3, 5, 7, 13, 15, 16, 17, 31, 32, 33, 61, 63, 64, 65, 127, 128, 129)
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
# Of the largest entry: long float32 sums in another order; two units in the last place.
ROUNDING = {torch.float32: 1e-5, torch.float16: 2**-9, torch.bfloat16: 2**-6}
PIXELS = {"cpu": 20_000}  # values in a case; interpreters and emulators get fewer
FEW_PIXELS = 3_000
GPU = ("triton", "cuda")
SPECIAL = (float("nan"), float("inf"), -float("inf"), -0.0, 1e-30)


@dataclass
class Case:
    """One call of an operator."""

    op: str
    tensors: dict[str, Tensor | None]
    options: dict[str, Any] = field(default_factory=dict)
    exact: bool = False  # nothing is rounded
    differentiable: tuple[str, ...] = ()
    # By backend: gradients that are not written for it; it refuses them, see its own tests.
    unwritten: dict[str, tuple[str, ...]] = field(default_factory=dict)
    spreads: bool = False  # an infinity may make NaN of any entry
    # Backends whose other order of sums may give NaN for inf or the other way: inf - inf, 0 inf.
    reordered: tuple[str, ...] = ()
    cancels: bool = False  # gradients are sums over all pixels, small beside their summands
    call: Callable[..., Tensor] | None = None  # in place of the function that `op` names
    gradient_rounding: float | None = None  # in place of the usual one
    # Extra error per entry of the result, from the reference's.
    slack: Callable[["Case"], Tensor | float] = lambda case: 0.0

    def run(
        self, backend: str, device: torch.device, change: Callable[[Tensor], Tensor] = Tensor.detach
    ) -> tuple[Tensor, list[Tensor]] | FastbgError:
        """Result and gradients, or the error; `change` is made to all tensors beforehand."""
        tensors = {
            n: None if t is None else change(moved(t, device)) for n, t in self.tensors.items()
        }
        for name in self.differentiable:
            value = tensors[name]
            if value is not None:
                tensors[name] = value.detach().requires_grad_()
        wanted = [t for t in tensors.values() if t is not None and t.requires_grad]
        try:
            function = self.call or getattr(fastbg, self.op)
            result = function(**tensors, **self.options, backend=backend)
        except FastbgError as error:
            return error
        if not wanted:
            return result, []
        cotangent = torch.linspace(-1, 1, result.numel(), dtype=torch.float32).reshape(result.shape)
        gradients = torch.autograd.grad(result, wanted, change(cotangent).to(result))
        return result.detach(), list(gradients)

    def gradients(self, change: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Those of the reference in float64, after a `change` of all tensors."""
        found = self.run("torch", torch.device("cpu"), lambda t: change(t.double()))
        assert not isinstance(found, FastbgError)
        return found[1]


def check(case: Case, backend: BackendUnderTest) -> None:
    """AssertionError unless the backend gives what the reference gives."""
    lacking = case.unwritten.get(backend.name, ())
    case = replace(case, differentiable=tuple(n for n in case.differentiable if n not in lacking))
    got, expected = case.run(backend.name, backend.device), case.run("torch", torch.device("cpu"))
    if isinstance(expected, FastbgError) or isinstance(got, FastbgError):
        assert (type(got), str(got)) == (type(expected), str(expected))
        return
    result, reference = got[0].cpu(), expected[0]
    infinite = any(t is not None and bool(t.isinf().any()) for t in case.tensors.values())
    if case.spreads and infinite:
        reference = torch.where(result.isnan(), result, reference)
    if backend.name in case.reordered and infinite:
        reference = torch.where(result.isfinite() | reference.isfinite(), reference, result)
    compare(result, reference, 0.0 if case.exact else None, case.slack(case))
    if not case.cancels or result.dtype != torch.float32:
        for ours, theirs in zip(got[1], expected[1], strict=True):
            compare(ours.cpu(), theirs, case.gradient_rounding)
        return
    # A float32 sum errs by about a unit in the last place of what its summands add up to without
    # their signs; PyTorch's own errs by ten times as much, so float64 says what is right.
    for ours, exact, size in zip(
        got[1], case.gradients(Tensor.detach), case.gradients(Tensor.abs), strict=True
    ):
        compare(ours.cpu(), exact.float(), None, 2**-23 * size)


def compare(
    got: Tensor, expected: Tensor, rounding: float | None, slack: Tensor | float = 0.0
) -> None:
    """Same kind everywhere, same finite values up to `rounding` of the largest, plus `slack`."""
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    nan, infinite = expected.isnan(), expected.isinf()
    assert torch.equal(got.isnan(), nan), "NaN in other places"
    assert torch.equal(got.isinf(), infinite), "infinities in other places"
    assert torch.equal(got[infinite], expected[infinite]), "an infinity of another sign"
    finite = ~(nan | infinite)
    theirs = torch.where(finite, expected, 0).double()
    error = (torch.where(finite, got, 0).double() - theirs).abs()
    if not error.numel():
        return
    if rounding is None:
        rounding = ROUNDING.get(expected.dtype, 1e-5)
    allowed = rounding * max(float(theirs.abs().max()), 1.0) + slack
    assert bool((error <= allowed).all()), f"off by {float(error.max()):.3g}"


# Tensors.


def values(rng: np.random.Generator, count: int, dtype: torch.dtype, special: bool) -> Tensor:
    """Grey levels, of either sign for floats, a few of them special."""
    if dtype == torch.uint8:
        return torch.from_numpy(rng.integers(0, 256, count, dtype=np.uint8))
    numbers = rng.random(count, dtype=np.float32) * rng.choice([1, 1, 1, -1], count)
    if special and count:
        where = rng.integers(0, count, rng.integers(1, 4))
        numbers[where] = rng.choice(SPECIAL, len(where))
    return torch.from_numpy(numbers.astype(np.float32)).to(dtype)


@st.composite
def tensors(
    draw: st.DrawFn, shape: Sequence[int], dtype: torch.dtype, special: bool = False
) -> Tensor:
    """`shape` with its axes in any order in memory, gaps, and axes that share their memory."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    axes = range(len(shape))
    gap = draw(st.sampled_from([None, None, *axes]))
    strides, step = [0] * len(shape), 1
    for axis in reversed(draw(st.permutations(axes))):
        strides[axis] = step * (draw(st.sampled_from([2, 3])) if axis == gap else 1)
        step = strides[axis] * max(shape[axis], 1)
    shared = draw(st.sampled_from(["no", "no", "expanded", "overlapping"]))
    if shared != "no":
        strides[draw(st.sampled_from(axes))] = 0 if shared == "expanded" else 1
    offset = draw(st.integers(0, 3))
    span = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    size = offset + (1 + span if 0 not in shape else 0)
    return values(rng, size, dtype, special).as_strided(tuple(shape), strides, offset)


@st.composite
def sizes(draw: st.DrawFn, limit: int, least: int = 0, multiple: int = 1) -> tuple[int, int]:
    """Height and width, at most `limit` pixels."""
    edges = [multiple * edge for edge in EDGES if multiple * edge >= least]
    first = draw(st.sampled_from([n for n in edges if n * max(least, 1) <= limit]))
    second = draw(st.sampled_from([n for n in edges if n * max(first, 1) <= limit] or [least]))
    return (first, second) if draw(st.booleans()) else (second, first)


@st.composite
def boxes(draw: st.DrawFn, count: int, height: int, width: int) -> Tensor:
    """One box, or one for each of `count`; touching the border more often than not."""

    def edge(size: int) -> st.SearchStrategy[int]:
        return st.one_of(st.sampled_from([0, size]), st.integers(0, size))

    shape = draw(st.sampled_from([(4,), (count, 4)]))
    rows = []
    for _ in range(1 if len(shape) == 1 else count):
        y0, y1 = sorted((draw(edge(height)), draw(edge(height))))
        x0, x1 = sorted((draw(edge(width)), draw(edge(width))))
        rows.append([y0, x0, y1, x1])
    return torch.tensor(rows, dtype=torch.int64).reshape(shape)


counts = st.sampled_from([0, 1, 1, 2, 3])


# Operators. `limit`: values of the largest tensor.
