"""Cases for every operator: awkward sizes, any strides, NaN and infinities among the values.

Each strategy gives a `Case`; `check` runs it on a backend and on the reference, forward and
backward, and wants the same from both: the same numbers up to rounding, NaN and infinities in the
same places, or the same error, which must be one of fastbg's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

import fastbg
from fastbg.errors import FastbgError
from fastbg.testing import BackendUnderTest

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
    spreads: bool = False  # an infinity may make NaN of any entry
    # Backends whose other order of sums may give NaN for inf or the other way: inf - inf, 0 inf.
    reordered: tuple[str, ...] = ()
    cancels: bool = False  # gradients are sums over all pixels, small beside their summands
    # Extra error per entry of the result, from the reference's.
    slack: Callable[["Case"], Tensor | float] = lambda case: 0.0

    def run(
        self, backend: str, device: torch.device, change: Callable[[Tensor], Tensor] = Tensor.detach
    ) -> tuple[Tensor, list[Tensor]] | FastbgError:
        """Result and gradients, or the error; `change` is made to all tensors beforehand."""
        tensors = {n: None if t is None else change(t.to(device)) for n, t in self.tensors.items()}
        for name in self.differentiable:
            value = tensors[name]
            if value is not None:
                tensors[name] = value.detach().requires_grad_()
        wanted = [t for t in tensors.values() if t is not None and t.requires_grad]
        try:
            result = getattr(fastbg, self.op)(**tensors, **self.options, backend=backend)
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
            compare(ours.cpu(), theirs, None)
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


@st.composite
def composites(draw: st.DrawFn, limit: int, scale: int = 1) -> dict[str, Any]:
    """What both composites take."""
    dtype = draw(st.sampled_from([*FLOATS, torch.uint8]))
    first, second = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2]))
    count, channels = draw(counts), draw(st.sampled_from([1, 3, 4]))
    size = draw(sizes(limit // (4 * channels), multiple=scale))
    special = draw(st.booleans())
    pairs = [[draw(st.integers(0, n - 1)) for n in (first, second)] for _ in range(count)]
    return {
        "a": draw(tensors((first, channels, *size), dtype, special)),
        "b": draw(tensors((second, channels, *size), dtype, special)),
        "pairs": torch.tensor(pairs, dtype=torch.int64).reshape(count, 2),
        "inner": draw(boxes(count, *size)),
        "outer": draw(boxes(count, *size)),
    }


@st.composite
def composite(draw: st.DrawFn, limit: int) -> Case:
    found = draw(composites(limit))
    sources = () if found["a"].dtype == torch.uint8 else ("a", "b")
    # 8-bit levels are multiplied by 1/255 or divided by 255.
    return Case("composite", found, exact=bool(sources), differentiable=sources)


bridges = st.sampled_from([0.05, 0.5, 2.0, 16.0, 1e9])  # decay lengths, pixels


@st.composite
def bridged_composite(draw: st.DrawFn, limit: int) -> Case:
    found = draw(composites(limit))
    return Case("composite", found, {"seam": draw(bridges)})


def near_edge(case: Case) -> Tensor | float:
    """One grey level where the value before rounding is about half-way between two."""
    if not case.options["quantize"]:
        return 0.0
    plain = fastbg.composite_lr(
        **case.tensors, **{**case.options, "quantize": False}, backend="torch"
    )
    level = plain.double() * 255 + 0.5
    return ((level - level.round()).abs() < 0.01).double() / 254


@st.composite
def composite_lr(draw: st.DrawFn, limit: int) -> Case:
    scale = draw(st.sampled_from([1, 2, 3, 4]))
    found = draw(composites(limit, scale))
    wide = found["a"].dtype in (torch.float32, torch.uint8)
    options = {
        "scale": scale,
        "kernel": draw(st.sampled_from(["matlab", "pil"])),
        "quantize": wide and draw(st.booleans()),
    }
    return Case("composite_lr", found, options, slack=near_edge)


@st.composite
def bridged_composite_lr(draw: st.DrawFn, limit: int) -> Case:
    case = draw(composite_lr(limit))
    case.options["seam"] = draw(bridges)
    return case


@st.composite
def mosaic(draw: st.DrawFn, limit: int) -> Case:
    count, channels = draw(counts), draw(st.sampled_from([1, 3]))
    grid = draw(st.sampled_from([0, 1, 2, 3]))
    height, width = draw(sizes(limit // (max(count * channels, 1) * max(grid, 1) ** 2)))
    codes = st.integers(0, 7) if height == width else st.sampled_from([0, 1, 2, 4, 6, 7])
    cells = [draw(codes) for _ in range(count * grid * grid)]
    tiles = draw(tensors((count, channels, height, width), draw(st.sampled_from(FLOATS)), True))
    code = torch.tensor(cells, dtype=torch.int64).reshape(count, grid, grid)
    return Case("mosaic", {"tiles": tiles, "cells": code}, exact=True)


@st.composite
def blurs(draw: st.DrawFn, limit: int) -> tuple[list[int], int, torch.dtype, bool]:
    """Shape (B,K,C,H,W), kernel size, dtype, whether values are special."""
    taps = draw(st.sampled_from([1, 3, 9, 13]))
    batch, nodes, channels = draw(counts), draw(st.sampled_from([0, 1, 2, 5])), 1
    size = draw(sizes(limit // max(batch * nodes, 1), least=taps // 2 + 1))
    dtype = draw(st.sampled_from(FLOATS))
    return [batch, nodes, channels, *size], taps, dtype, draw(st.booleans())


widths = st.sampled_from([0.0, 0.05, 0.3, 1.0, 2.5, 8.0])


@st.composite
def blur_path(draw: st.DrawFn, limit: int) -> Case:
    (batch, nodes, *size), taps, dtype, special = draw(blurs(limit))
    image = draw(tensors((batch, *size), dtype, special))
    options = {"sigmas": [draw(widths) for _ in range(nodes)], "kernel_size": taps}
    return Case("blur_path", {"image": image}, options, differentiable=("image",), reordered=GPU)


@st.composite
def path_integral(draw: st.DrawFn, limit: int) -> Case:
    shape, taps, dtype, special = draw(blurs(limit))
    found = {
        "gradients": draw(tensors(shape, dtype, special)),
        "image": draw(tensors((shape[0], *shape[2:]), dtype, special)),
    }
    options = {"sigmas": [draw(widths) for _ in range(shape[1] + 1)], "kernel_size": taps}
    names = ("gradients", "image")
    return Case("path_integral", found, options, differentiable=names, reordered=GPU)


@st.composite
def gradient_detector(draw: st.DrawFn, limit: int) -> Case:
    batch, channels = draw(counts), draw(st.sampled_from([1, 3]))
    size = draw(sizes(limit // (3 * channels)))
    sr = draw(tensors((batch, channels, *size), draw(st.sampled_from(FLOATS)), draw(st.booleans())))
    found = {"sr": sr, "windows": draw(boxes(batch, *size))}
    return Case("gradient_detector", found, differentiable=("sr",))


@st.composite
def masks(draw: st.DrawFn, batch: int, height: int, width: int) -> Tensor | None:
    """None, one region, or several; weights or bool."""
    kind = draw(st.sampled_from(["none", "one", "several"]))
    if kind == "none":
        return None
    regions = () if kind == "one" else (draw(st.sampled_from([0, 1, 3])),)
    mask = draw(
        tensors((draw(st.sampled_from([1, batch])), *regions, height, width), torch.float32)
    )
    return mask > 0 if draw(st.booleans()) else mask


@st.composite
def gram(draw: st.DrawFn, limit: int) -> Case:
    batch, channels = draw(counts), draw(st.sampled_from([0, 1, 3, 15, 16, 17, 64, 65, 129]))
    size = draw(sizes(limit // max(3 * channels, 1)))
    features = draw(
        tensors((batch, channels, *size), draw(st.sampled_from(FLOATS)), draw(st.booleans()))
    )
    found = {"features": features, "mask": draw(masks(batch, *size))}
    return Case("gram", found, differentiable=("features",), reordered=GPU)


@st.composite
def conv_gram(draw: st.DrawFn, limit: int) -> Case:
    batch, dtype = draw(st.sampled_from([0, 1, 2])), draw(st.sampled_from(FLOATS))
    size = draw(sizes(limit // 6))
    found = {
        "images": draw(tensors((batch, 3, *size), dtype, draw(st.booleans()))),
        "weight": draw(tensors((64, 3, 3, 3), dtype)),
        "bias": draw(tensors((64,), dtype)),
        "mask": draw(masks(batch, *size)),
    }
    return Case("conv_gram", found, spreads=True)


@st.composite
def conv3x3(draw: st.DrawFn, limit: int) -> Case:
    """No special values: Winograd spreads them over a tile, as its documentation says."""
    batch, dtype = draw(counts), draw(st.sampled_from(FLOATS))
    inputs, upscale = draw(st.sampled_from([0, 1, 3, 16, 17])), draw(st.sampled_from([1, 2, 3]))
    outputs = upscale**2 * draw(st.sampled_from([0, 1, 3, 16]))
    height, width = draw(sizes(limit // max(inputs + outputs, 1)))
    shape = (batch, outputs // upscale**2, upscale * height, upscale * width)
    residual = draw(tensors(shape, dtype)) if draw(st.booleans()) else None
    found = {
        "x": draw(tensors((batch, inputs, height, width), dtype)),
        "weight": draw(tensors((outputs, inputs, 3, 3), dtype)),
        "bias": draw(tensors((outputs,), dtype)) if draw(st.booleans()) else None,
        "residual": residual,
    }
    options = {
        "relu": residual is None and draw(st.booleans()),
        "residual_scale": draw(st.sampled_from([1.0, 0.1, 0.0])),
        "upscale": upscale,
    }
    return Case("conv3x3", found, options, differentiable=("x", "weight"), cancels=True)


OPERATORS: dict[str, Callable[..., st.SearchStrategy[Case]]] = {
    strategy.__name__: strategy
    for strategy in (
        composite,
        composite_lr,
        bridged_composite,
        bridged_composite_lr,
        mosaic,
        blur_path,
        path_integral,
        gradient_detector,
        gram,
        conv_gram,
        conv3x3,
    )
}
