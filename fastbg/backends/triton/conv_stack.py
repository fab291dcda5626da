"""Stacks of 3x3 convolutions with Triton kernels; maps are channels_last."""

from collections.abc import Sequence
from dataclasses import replace

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
from fastbg.backends.triton.conv import pack, run
from fastbg.geometry import Box, Patch
from fastbg.kernels.conv import Ending, Filter, Packed, Placed, pixel_blocks
from fastbg.kernels.conv_stack import plan_attention, plan_attention_gradient


def conv_stack(
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
    packed = pack([Filter(w, row.upscale, False) for w, row in zip(weights, rows, strict=True)])
    last_use = {i: i for i in range(len(rows))}
    last_use |= {row.residual: i for i, row in enumerate(rows) if row.residual >= 0}
    height, width = x.shape[-2:]
    maps = {0: Patch(x, Box(0, 0, height, width))}
    for i, (row, scale, bias, place) in enumerate(zip(rows, scales, biases, places, strict=True)):
        end = Ending(bias.contiguous(), bool(row.relu))
        if row.attention >= 0:
            whole = row._replace(y0=0, x0=0, y1=height, x1=width)
            sums = _empty_sums(x, packed[i], height, width)
            y = _convolved(maps[i], packed[i], replace(end, sums=sums), whole, place)
            attention = attentions[row.attention]
            maps[i + 1] = _attended(y, maps[row.residual], sums, attention, scale, row.box, place)
        else:
            if row.residual >= 0:
                placed = _placed(maps[row.residual], row.box.refine(row.upscale))
                end = replace(end, residual=placed, scale=scale)
            maps[i + 1] = _convolved(maps[i], packed[i], end, row, place)
        for number in [n for n in maps if last_use.get(n) == i]:
            del maps[number]  # so that later maps can use their memory
        height, width = height * row.upscale, width * row.upscale
    return maps[len(rows)].data, kept


def conv_stack_gradient(
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
        kept = conv_stack(x, parameters, layers, scales, True)[1]
    places = kept_maps(kept, x, parameters, layers)
    gates = [None if p is None or p.means is not None else p.map for p in places]
    weights, _, attentions = parted(parameters, len(rows))
    packed = pack([Filter(w, row.upscale, True) for w, row in zip(weights, rows, strict=True)])
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
            made = _weighed(made, place.map, place.means, attention, scale)
            scale = 1.0
        grid = made.box.coarsen(row.upscale)
        if i:
            box = rows[i - 1].box.refine(rows[i - 1].upscale)
            out = empty_maps(x, len(x), packed[i].filter.outputs, *_sides(box))
        else:
            box = grid.grow(1, *x.shape[-2:])
            out = to_x[(..., *box.slices())]
        more = _sum(arrived.pop(i, []), box)
        residual = None if more is None else _placed(more, box)
        end = Ending(scale=scale, residual=residual, gate=gates[i - 1] if i else None)
        start = Placed(made.data, box.y0 - grid.y0, box.x0 - grid.x0)
        arrived[i] = [Patch(run(start, packed[i], end, out), box)]
    return to_x


def _convolved(
    before: Patch, packed: Packed, end: Ending, row: Layer, place: KeptMap | None
) -> Patch:
    """The convolution of the row's box, written to `place` if it is stored for the gradient."""
    box = row.box.refine(row.upscale)
    if place is None:
        channels = packed.filter.outputs
        out = empty_maps(before.data, len(before.data), channels, *_sides(box))
    else:
        out = place.map
    return Patch(run(_placed(before, row.box), packed, end, out), box)


def _empty_sums(x: Tensor, packed: Packed, height: int, width: int) -> Tensor:
    """Memory for the sums of a map's channels over each block of pixels."""
    size = len(x), pixel_blocks(height, width), packed.filter.padded(packed.precision)[0]
    return torch.empty(size, dtype=torch.float32, device=x.device)


def _attended(
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
    values = _contiguous(attention)
    seen, added = y.cut(box).data, residual.cut(box).data
    with torch.cuda.device_of(out):
        plan_attention(seen, added, sums, values, scale, height * width, means, out).run()
    return Patch(out, box)


def _weighed(grad: Patch, y: Tensor, means: Tensor, attention: Attention, scale: float) -> Patch:
    """Gradient to all of `y`, whose channels were weighted, from `grad` to a box of the result."""
    out = empty_maps(y, len(y), y.shape[1], *y.shape[2:])
    values = _contiguous(attention)
    with torch.cuda.device_of(out):
        for launch in plan_attention_gradient(
            grad.data, grad.box.y0, grad.box.x0, y, means, values, scale, out
        ):
            launch.run()
    return Patch(out, Box(0, 0, *y.shape[2:]))


def _contiguous(attention: Attention) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    squeeze, squeeze_bias, excite, excite_bias = (p.contiguous() for p in attention)
    return squeeze, squeeze_bias, excite, excite_bias


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
