"""Stacks of 3x3 convolutions in C++ (csrc/cpu/conv_stack.cpp, conv_stack_plan.cpp)."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from fastbg.backends.cpu import floats, native
from fastbg.backends.cpu.conv_tail import described as described_tail
from fastbg.backends.cpu.conv_tail import tail_of, tail_start
from fastbg.backends.cpu.conv_weight import NOTHING, KnownWeight, known_weight, learn
from fastbg.backends.stack_layers import (
    Attention,
    Layer,
    images_at_once,
    kept_bytes,
    parted,
    result_shape,
    split,
)
from fastbg.backends.tensor_view import view


def conv_stack(
    x: Tensor,
    parameters: Sequence[Tensor],
    layers: Sequence[int],
    scales: Sequence[float],
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The last layer's box, and what the gradient needs (`kept_bytes`), if `keep`."""
    size = kept_bytes(len(x), parameters, layers) if keep else 0
    kept = torch.empty(size, dtype=torch.uint8, device="cpu")
    out = floats(*result_shape(x, parameters, layers))
    if len(x) == 0:
        return out, kept
    stack, _owners = described(x, parameters, layers, scales, False)
    threads, some = torch.get_num_threads(), images_at_once(parameters, layers)
    each = len(kept) // len(x) * some
    for i, part, to in zip(range(len(x)), x.split(some), out.split(some), strict=False):
        own = view(kept[i * each : (i + 1) * each]) if keep else None
        native().conv_stack(view(part), *stack, own, view(to), threads)
    return out, kept


def conv_stack_gradient(
    grad: Tensor,
    x: Tensor,
    kept: Tensor | None,
    parameters: Sequence[Tensor],
    layers: Sequence[int],
    scales: Sequence[float],
) -> Tensor:
    """Gradient to x; what the forward pass has not stored is computed again."""
    to_x = floats(*x.shape).zero_()
    if len(x) == 0:
        return to_x
    if kept is None or len(kept) != kept_bytes(len(x), parameters, layers):
        kept = conv_stack(x, parameters, layers, scales, True)[1]
    # `kept` comes from a forward pass, which has checked the weights' contents.
    weights = parted(parameters, len(scales)).weights
    known = [known_weight(weight)[0] for weight in weights] if len(kept) else None
    stack, _owners = described(x, parameters, layers, scales, True, known)
    threads, some = torch.get_num_threads(), images_at_once(parameters, layers)
    each = len(kept) // len(x) * some
    for i, part, to in zip(range(len(x)), grad.split(some), to_x.split(some), strict=False):
        own = view(kept[i * each : (i + 1) * each])
        native().conv_stack_gradient(view(part), *stack, own, view(to), threads)
    return to_x


def described(
    x: Tensor,
    parameters: Sequence[Tensor],
    layers: Sequence[int],
    scales: Sequence[float],
    transposed: bool,
    known: list[KnownWeight] | None = None,
) -> tuple[tuple[tuple[tuple[Any, ...], ...], tuple[Any, ...] | None], list[Any]]:
    """Layers and tail for the kernel, and the tensors that own the memory they point to.

    `known`: data of the weights whose contents are known to be unchanged; None: they are checked.
    """
    weights, biases, _ = parted(parameters, len(scales))
    known = _known(weights) if known is None else known
    rows = split(layers)
    start = tail_start(rows, weights)
    stack, owners = _described_layers(known, rows[:start], parameters, scales, transposed)
    tail = None
    if start < len(rows):
        tail, owned = _described_tail(known[start:], x, biases[start:], rows, start, transposed)
        owners += owned
    return (stack, tail), owners


def _described_layers(
    known: list[KnownWeight],
    rows: Sequence[Layer],
    parameters: Sequence[Tensor],
    scales: Sequence[float],
    transposed: bool,
) -> tuple[tuple[tuple[Any, ...], ...], list[Any]]:
    """The layers before a tail for the kernel, and the tensors that own their memory."""
    weights, biases, attentions = parted(parameters, len(scales))
    owners: list[Any] = [known]
    described: list[tuple[Any, ...]] = []
    for layer, scale, weight, given, of_weight in zip(
        rows, scales, weights, biases, known, strict=False
    ):
        relu, upscale, residual, attention, *box = layer
        factors, bias = of_weight.factors(transposed, upscale), given.contiguous()
        owners += (factors, bias)
        addresses = factors.data_ptr(), 0 if transposed else bias.data_ptr()
        weighing = None
        if attention >= 0:
            weighing, owned = _described_attention(of_weight, attentions[attention])
            owners += owned
        channels = len(weight) // upscale**2
        described.append(
            (tuple(box), relu, upscale, residual, scale, channels, *addresses, weighing)
        )
    return tuple(described), owners


def _described_tail(
    known: list[KnownWeight],
    x: Tensor,
    biases: Sequence[Tensor],
    rows: list[Layer],
    start: int,
    transposed: bool,
) -> tuple[tuple[Any, ...], list[Tensor]]:
    factors = [row.upscale for row in rows[start:]]
    before = prod(row.upscale for row in rows[:start])
    channels = len(known[-1].weight) // factors[-1] ** 2
    height, width = (before * size for size in x.shape[-2:])
    tail, box = tail_of(known, biases, factors), rows[-1].box.refine(factors[-1])
    return described_tail(tail, box, prod(factors), channels, height, width, transposed)


def _described_attention(
    of_weight: KnownWeight, attention: Attention
) -> tuple[tuple[int, ...], list[Tensor]]:
    """The attention after the convolution with this weight, and the tensors that own its memory."""
    owners = [of_weight.taps(), *(parameter.contiguous() for parameter in attention)]
    return (len(attention.squeeze), *(owner.data_ptr() for owner in owners)), owners


def _known(weights: Sequence[Tensor]) -> list[KnownWeight]:
    """The cached data of each weight, computed again if its contents have changed."""
    found = [known_weight(weight) for weight in weights]
    known = [one for one, _ in found]
    doubtful = [i for i, (_, contents) in enumerate(found) if contents != NOTHING]
    contents = tuple(found[i][1] for i in doubtful)
    for number in native().conv_contents_changed(contents, torch.get_num_threads()):
        i = doubtful[number]
        known[i] = learn(weights[i])
    return known
