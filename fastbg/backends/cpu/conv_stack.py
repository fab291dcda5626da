"""Stacks of 3x3 convolutions in C++ (csrc/cpu/conv_stack.cpp, conv_stack_plan.cpp)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastbg.backends.cpu import native
from fastbg.backends.cpu.conv_weight import NOTHING, KnownWeight, known_weight, learn
from fastbg.backends.stack_layers import images_at_once, result_shape, sign_bytes, split
from fastbg.backends.tensor_view import view


def conv_stack(
    x: Tensor,
    parameters: Sequence[Tensor],
    layers: Sequence[int],
    scales: Sequence[float],
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The last layer's box, and where each ReLU let values through, if `keep`."""
    signs = torch.empty(sign_bytes(len(x), parameters, layers) if keep else 0, dtype=torch.uint8)
    out = torch.empty(result_shape(x, parameters, layers))
    if len(x) == 0:
        return out, signs
    described, _owners = describe(parameters, layers, scales)
    threads, some = torch.get_num_threads(), images_at_once(parameters, layers)
    each = len(signs) // len(x) * some
    for i, part, to in zip(range(len(x)), x.split(some), out.split(some), strict=False):
        kept = view(signs[i * each : (i + 1) * each]) if keep else None
        native().conv_stack(view(part), described, kept, view(to), threads)
    return out, signs


def conv_stack_gradient(
    grad: Tensor,
    x: Tensor,
    kept: Tensor | None,
    parameters: Sequence[Tensor],
    layers: Sequence[int],
    scales: Sequence[float],
) -> Tensor:
    """Gradient to x; what the forward pass has not kept is computed again."""
    to_x = torch.zeros(x.shape)
    if len(x) == 0:
        return to_x
    if kept is None or len(kept) != sign_bytes(len(x), parameters, layers):
        kept = conv_stack(x, parameters, layers, scales, True)[1]
    # What was kept is of a forward pass, which has looked at the weights' contents.
    weights = parameters[::2]
    known = [known_weight(weight)[0] for weight in weights] if len(kept) else _known(weights)
    described, _owners = _described(known, parameters, layers, scales, True)
    threads, some = torch.get_num_threads(), images_at_once(parameters, layers)
    each = len(kept) // len(x) * some
    for i, part, to in zip(range(len(x)), grad.split(some), to_x.split(some), strict=False):
        signs = view(kept[i * each : (i + 1) * each])
        native().conv_stack_gradient(view(part), described, signs, view(to), threads)
    return to_x


def describe(
    parameters: Sequence[Tensor], layers: Sequence[int], scales: Sequence[float]
) -> tuple[tuple[tuple[Any, ...], ...], list[Any]]:
    """Each layer of a forward pass for the kernel, and what owns the memory that it points to."""
    return _described(_known(parameters[::2]), parameters, layers, scales, False)


def _described(
    known: list[KnownWeight],
    parameters: Sequence[Tensor],
    layers: Sequence[int],
    scales: Sequence[float],
    transposed: bool,
) -> tuple[tuple[tuple[Any, ...], ...], list[Any]]:
    """Each layer for the kernel, and what owns the memory that it points to."""
    weights, biases = parameters[::2], [bias.contiguous() for bias in parameters[1::2]]
    owners: list[Any] = [known, biases]
    described = []
    rows = zip(split(layers), scales, weights, biases, known, strict=True)
    for layer, scale, weight, bias, of_weight in rows:
        relu, upscale, residual, *box = layer
        factors = of_weight.factors(transposed, upscale)
        owners.append(factors)
        addresses = factors.data_ptr(), 0 if transposed else bias.data_ptr()
        channels = len(weight) // upscale**2
        described.append((tuple(box), relu, upscale, residual, scale, channels, *addresses))
    return tuple(described), owners


def _known(weights: Sequence[Tensor]) -> list[KnownWeight]:
    """What is kept of each weight, learnt again where its contents have changed."""
    found = [known_weight(weight) for weight in weights]
    known = [one for one, _ in found]
    doubtful = [i for i, (_, contents) in enumerate(found) if contents != NOTHING]
    contents = tuple(found[i][1] for i in doubtful)
    for number in native().conv_contents_changed(contents, torch.get_num_threads()):
        i = doubtful[number]
        known[i] = learn(weights[i])
    return known
