"""Passes through stacks of 3x3 convolutions on GPUs, layer by layer; maps are channels_last.

A backend gives the launches (`StackKernels`); which layer reads what, and when memory is free
again, is decided here.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Generic, TypeVar

import torch
from torch import Tensor

from fastbg.backends.conv_arguments import empty_maps, gated
from fastbg.backends.stack_layers import (
    Attention,
    KeptMap,
    Layer,
    kept_maps,
    kept_maps_bytes,
    parted,
    split,
)
from fastbg.geometry import Box, Patch
from fastbg.kernels.conv_ending import Ending, Placed

Weight = TypeVar("Weight")  # a weight as a backend has packed it


class StackKernels(ABC, Generic[Weight]):
    """The launches of one pass."""

    @abstractmethod
    def pack(
        self, weights: Sequence[Tensor], rows: Sequence[Layer], transposed: bool
    ) -> Sequence[Weight]:
        """The weights of all layers; `transposed`: for the gradient to their inputs."""

    @abstractmethod
    def convolve(self, x: Placed, weight: Weight, end: Ending, out: Tensor) -> None:
        """Fills `out`, the result after its pixel shuffle; a gradient's `x` is still shuffled."""

    @abstractmethod
    def empty_sums(self, x: Tensor, weight: Weight, height: int, width: int) -> Tensor:
        """Memory for each channel's sums over the blocks of a map (height, width)."""

    @abstractmethod
    def attend(
        self,
        y: Tensor,
        residual: Tensor,
        sums: Tensor,
        attention: Attention,
        scale: float,
        map_pixels: int,
        means: Tensor,
        out: Tensor,
    ) -> None:
        """Fills ``out = residual + scale * weights * y``, and `means` (B,C) float32.

        `y`, `residual` and `out` (B,C,h,w) are on one box of a map with `map_pixels` pixels, whose
        `sums` give the means, and these the weights. Parameters are contiguous.
        """

    @abstractmethod
    def attend_gradient(
        self,
        grad: Tensor,
        down: int,
        right: int,
        y: Tensor,
        means: Tensor,
        attention: Attention,
        scale: float,
        out: Tensor,
    ) -> None:
        """Fills `out`, the gradient to the whole map `y` (B,C,H,W).

        `grad` (B,C,h,w) is the gradient to a box of the result; its first pixel is (down, right).
        """


def forward(
    kernels: StackKernels[Weight],
    x: Tensor,
    parameters: Sequence[Tensor],
    layers: Sequence[int],
    scales: Sequence[float],
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The last layer's box, and what the gradient needs (`kept_maps`; empty without `keep`)."""
    rows = split(layers)
    size = kept_maps_bytes(x, parameters, layers) if keep else 0
    kept = torch.empty(size, dtype=torch.uint8, device=x.device)
    places = kept_maps(kept, x, parameters, layers) if keep else [None] * len(rows)
    weights, biases, attentions = parted(parameters, len(rows))
    packed = kernels.pack(weights, rows, False)
    last_use = {i: i for i in range(len(rows))}
    last_use |= {row.residual: i for i, row in enumerate(rows) if row.residual >= 0}
    height, width = x.shape[-2:]
    maps = {0: Patch(x, Box(0, 0, height, width))}
    for i, (row, scale, bias, place) in enumerate(zip(rows, scales, biases, places, strict=True)):
        end = Ending(bias.contiguous(), bool(row.relu))
        channels = len(weights[i]) // row.upscale**2
        weight = packed[i]
        if row.attention >= 0:
            whole = row._replace(y0=0, x0=0, y1=height, x1=width)
            sums = kernels.empty_sums(x, weight, height, width)
            end = replace(end, sums=sums)
            y = _convolved(kernels, maps[i], weight, channels, end, whole, place)
            attention = attentions[row.attention]
            maps[i + 1] = _attended(
                kernels, y, maps[row.residual], sums, attention, scale, row.box, place
            )
        else:
            if row.residual >= 0:
                placed = _placed(maps[row.residual], row.box.refine(row.upscale))
                end = replace(end, residual=placed, scale=scale)
            maps[i + 1] = _convolved(kernels, maps[i], weight, channels, end, row, place)
        for number in [n for n in maps if last_use.get(n) == i]:
            del maps[number]  # so that later maps can use their memory
        height, width = height * row.upscale, width * row.upscale
    return maps[len(rows)].data, kept


def backward(
    kernels: StackKernels[Weight],
    grad: Tensor,
    x: Tensor,
    kept: Tensor | None,
    parameters: Sequence[Tensor],
    layers: Sequence[int],
    scales: Sequence[float],
) -> Tensor:
    """Gradient to x; what the forward pass has not stored is computed again."""
    rows = split(layers)
    if kept is None or len(kept) != kept_maps_bytes(x, parameters, layers):
        kept = forward(kernels, x, parameters, layers, scales, True)[1]
    places = kept_maps(kept, x, parameters, layers)
    gates = [None if p is None or p.means is not None else p.map for p in places]
    weights, _, attentions = parted(parameters, len(rows))
    packed = kernels.pack(weights, rows, True)
    to_x = torch.zeros(x.shape, dtype=x.dtype, device=x.device)
    # Parts of the gradient to each map, by its number; filled from the last map to the first.
    arrived = {len(rows): [Patch(gated(grad, gates[-1]), rows[-1].box.refine(rows[-1].upscale))]}
    for i in reversed(range(len(rows))):
        row, scale, place = rows[i], scales[i] if rows[i].residual >= 0 else 1.0, places[i]
        (made,) = arrived.pop(i + 1)
        if row.residual >= 0:
            arrived.setdefault(row.residual, []).append(made)
        if place is not None and place.means is not None:
            attention = attentions[row.attention]
            made = _weighed(kernels, made, place.map, place.means, attention, scale)
            scale = 1.0
        grid = made.box.coarsen(row.upscale)
        if i:
            box = rows[i - 1].box.refine(rows[i - 1].upscale)
            out = empty_maps(x, len(x), weights[i].shape[1], *_sides(box))
        else:
            box = grid.grow(1, *x.shape[-2:])
            out = to_x[(..., *box.slices())]
        more = _sum(arrived.pop(i, []), box)
        residual = None if more is None else _placed(more, box)
        end = Ending(scale=scale, residual=residual, gate=gates[i - 1] if i else None)
        start = Placed(made.data, box.y0 - grid.y0, box.x0 - grid.x0)
        kernels.convolve(start, packed[i], end, out)
        arrived[i] = [Patch(out, box)]
    return to_x


def _convolved(
    kernels: StackKernels[Weight],
    before: Patch,
    weight: Weight,
    channels: int,
    end: Ending,
    row: Layer,
    place: KeptMap | None,
) -> Patch:
    """The convolution of the row's box, written to `place` if it is stored for the gradient."""
    box = row.box.refine(row.upscale)
    if place is None:
        out = empty_maps(before.data, len(before.data), channels, *_sides(box))
    else:
        out = place.map
    kernels.convolve(_placed(before, row.box), weight, end, out)
    return Patch(out, box)


def _attended(
    kernels: StackKernels[Weight],
    y: Patch,
    residual: Patch,
    sums: Tensor,
    attention: Attention,
    scale: float,
    box: Box,
    place: KeptMap | None,
) -> Patch:
    """residual + scale * weights * y on a box; the weights come from the means of all of `y`."""
    batch, channels, height, width = y.data.shape
    out = empty_maps(y.data, batch, channels, *_sides(box))
    means = None if place is None else place.means
    if means is None:
        means = torch.empty((batch, channels), dtype=torch.float32, device=out.device)
    values, seen, added = _contiguous(attention), y.cut(box).data, residual.cut(box).data
    kernels.attend(seen, added, sums, values, scale, height * width, means, out)
    return Patch(out, box)


def _weighed(
    kernels: StackKernels[Weight],
    grad: Patch,
    y: Tensor,
    means: Tensor,
    attention: Attention,
    scale: float,
) -> Patch:
    """Gradient to all of `y`, whose channels were weighted, from `grad` to a box of the result."""
    out = empty_maps(y, len(y), y.shape[1], *y.shape[2:])
    down, right = grad.box.y0, grad.box.x0
    values = _contiguous(attention)
    kernels.attend_gradient(grad.data, down, right, y, means, values, scale, out)
    return Patch(out, Box(0, 0, *y.shape[2:]))


def _contiguous(attention: Attention) -> Attention:
    return Attention(*(parameter.contiguous() for parameter in attention))


def _placed(patch: Patch, box: Box) -> Placed:
    """The patch and the position of `box` in it, for a launch that computes `box`."""
    return Placed(patch.data, box.y0 - patch.box.y0, box.x0 - patch.box.x0)


def _sum(patches: Sequence[Patch], box: Box) -> Patch | None:
    """Sum of the patches, all of which lie in `box`."""
    if len(patches) < 2:
        return patches[0] if patches else None
    if len({patch.box for patch in patches}) == 1:
        first, *others = (patch.data for patch in patches)
        return Patch(sum(others, start=first), patches[0].box)
    like = patches[0].data
    total = Patch(empty_maps(like, len(like), like.shape[1], *_sides(box)).zero_(), box)
    for patch in patches:
        total.cut(patch.box).data.add_(patch.data)
    return total


def _sides(box: Box) -> tuple[int, int]:
    return box.y1 - box.y0, box.x1 - box.x0
