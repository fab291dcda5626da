"""The layers of a stack of convolutions as integers, one row for each, to pass to a backend."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from fastbg.geometry import Box

CELL = 4  # kStackSide in csrc/cpu/conv_stack.h: maps are computed in cells of 4x4 pixels
LANES = 16  # and channels come in multiples of it
MOST_ADDED = 4  # kMaxAdded: how often a map may be a residual


class Layer(NamedTuple):
    """Layer i (from 1) reads map i - 1 and computes map i; map 0 is the input."""

    relu: int
    upscale: int
    residual: int  # number of the map that is added, -1 for none
    attention: int  # number of the attention that weighs what is added to it, -1 for none
    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def box(self) -> Box:
        """The box to compute, in pixels of the map that is read."""
        return Box(self.y0, self.x0, self.y1, self.x1)


def split(numbers: Sequence[int]) -> list[Layer]:
    """The layers in a flat list of their numbers."""
    n = len(Layer._fields)
    return [Layer(*numbers[i : i + n]) for i in range(0, len(numbers), n)]


class Attention(NamedTuple):
    """Parameters of a channel attention: 1x1 convolutions to (S) and back to (C) channels."""

    squeeze: Tensor
    squeeze_bias: Tensor
    excite: Tensor
    excite_bias: Tensor


class Parameters(NamedTuple):
    """Parameters of all layers, and of the attentions by number."""

    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    attentions: list[Attention]


def parted(parameters: Sequence[Tensor], layers: int) -> Parameters:
    """`parameters`: weight and bias of each layer in turn, and then those of each attention."""
    own, rest = parameters[: 2 * layers], parameters[2 * layers :]
    n = len(Attention._fields)
    attentions = [Attention(*rest[i : i + n]) for i in range(0, len(rest), n)]
    return Parameters(own[::2], own[1::2], attentions)


def result_shape(
    x: Tensor, parameters: Sequence[Tensor], numbers: Sequence[int]
) -> tuple[int, int, int, int]:
    """(B,C,h,w) of the last layer's box."""
    layers = split(numbers)
    last, weights = layers[-1], parted(parameters, len(layers)).weights
    box = last.box.refine(last.upscale)
    return len(x), len(weights[-1]) // last.upscale**2, box.y1 - box.y0, box.x1 - box.x0


def kept_bytes(images: int, parameters: Sequence[Tensor], numbers: Sequence[int]) -> int:
    """Bytes that a forward pass of the cpu backend stores for the gradient.

    For a ReLU: a mask of the values it passed. For an attention: its convolution's values, its
    weights, and its hidden layer.
    """
    total, layers = 0, split(numbers)
    of_layers = parted(parameters, len(layers))
    for layer, weight in zip(layers, of_layers.weights, strict=True):
        cells = layer.box.coarsen(CELL)
        count = (cells.y1 - cells.y0) * (cells.x1 - cells.x0) * layer.upscale**2
        channels = _in_lanes(len(weight) // layer.upscale**2)
        if layer.relu:
            total += count * CELL**2 * channels // 4
        if layer.attention >= 0:
            squeezed = _in_lanes(len(of_layers.attentions[layer.attention].squeeze))
            total += 4 * (count * CELL**2 * channels + channels + squeezed)
    return images * total


def _in_lanes(channels: int) -> int:
    return -(-channels // LANES) * LANES


class KeptMap(NamedTuple):
    """What the GPU backends store of a layer for the gradient.

    map: (B,C,h,w), channels_last: a ReLU's result, or the whole map whose channels an attention
        weights.
    means: (B,C) float32 of that map; None for a ReLU.
    """

    map: Tensor
    means: Tensor | None


def kept_maps(
    kept: Tensor, x: Tensor, parameters: Sequence[Tensor], numbers: Sequence[int]
) -> list[KeptMap | None]:
    """Each layer's `KeptMap`, as views of the memory `kept`; None for layers that store nothing."""
    found: list[KeptMap | None] = []
    start = 0
    for shapes in _kept_shapes(x, parameters, numbers):
        tensors = []
        for shape, dtype in zip(shapes, (x.dtype, torch.float32), strict=False):
            size = prod(shape) * dtype.itemsize
            tensors.append(kept[start : start + size].view(dtype).view(shape))
            start += -(-size // KEPT_ALIGNMENT) * KEPT_ALIGNMENT
        means = tensors[1] if len(tensors) > 1 else None
        found.append(KeptMap(tensors[0].permute(0, 3, 1, 2), means) if tensors else None)
    return found


def kept_maps_bytes(x: Tensor, parameters: Sequence[Tensor], numbers: Sequence[int]) -> int:
    """Bytes that `kept_maps` needs."""
    return sum(
        -(-prod(shape) * dtype.itemsize // KEPT_ALIGNMENT) * KEPT_ALIGNMENT
        for shapes in _kept_shapes(x, parameters, numbers)
        for shape, dtype in zip(shapes, (x.dtype, torch.float32), strict=False)
    )


KEPT_ALIGNMENT = 16  # bytes; size of the widest memory access


def _kept_shapes(
    x: Tensor, parameters: Sequence[Tensor], numbers: Sequence[int]
) -> list[list[tuple[int, ...]]]:
    """Shapes that each layer stores: none, a map (B,h,w,C), or a map and its means (B,C)."""
    layers, (batch, _, height, width) = split(numbers), x.shape
    found: list[list[tuple[int, ...]]] = []
    for layer, weight in zip(layers, parted(parameters, len(layers)).weights, strict=True):
        channels = len(weight) // layer.upscale**2
        box = layer.box.refine(layer.upscale)
        if layer.attention >= 0:
            found.append([(batch, height, width, channels), (batch, channels)])
        elif layer.relu:
            found.append([(batch, box.y1 - box.y0, box.x1 - box.x0, channels)])
        else:
            found.append([])
        height, width = height * layer.upscale, width * layer.upscale
    return found


SCRATCH = 32 << 20  # bytes of maps at once; larger batches are split, with the same results


def images_at_once(parameters: Sequence[Tensor], numbers: Sequence[int]) -> int:
    """Number of images per call, so that memory does not grow with the batch."""
    sizes, layers = [0], split(numbers)
    for layer, weight in zip(layers, parted(parameters, len(layers)).weights, strict=True):
        y0, x0, y1, x1 = layer.box.grow(CELL, layer.y1 + CELL, layer.x1 + CELL)
        channels = _in_lanes(len(weight) // layer.upscale**2)
        sizes.append(4 * channels * (y1 - y0) * (x1 - x0) * layer.upscale**2)
    return max(1, SCRATCH // (2 * max(sizes)))
