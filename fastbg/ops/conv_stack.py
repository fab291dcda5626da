"""Stacks of 3x3 convolutions, with ReLUs, residuals and pixel shuffles, on a part of a map."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from fastbg.errors import BackendUnavailable, InvalidArgument
from fastbg.geometry import Box
from fastbg.ops import frozen
from fastbg.ops.checks import check_images
from fastbg.precision import current
from fastbg.registration import conv_stack as registered
from fastbg.registration.dispatch import Place, select


class ChannelAttention(NamedTuple):
    """Weights (B,C,1,1) of the channels of `y`, by Zhang et al. (ECCV 2018), eq. 10:
    ``sigmoid(conv2d(relu(conv2d(y.mean((2, 3)), squeeze, ...)), excite, ...))``.

    squeeze, squeeze_bias: (S,C,1,1) and (S). excite, excite_bias: (C,S,1,1) and (C).
    """

    squeeze: Tensor
    squeeze_bias: Tensor
    excite: Tensor
    excite_bias: Tensor


class StackLayer(NamedTuple):
    """One layer: ``maps[residual] + residual_scale * pixel_shuffle(relu(conv2d(before, ...)))``.

    weight, bias: (Co,C,3,3) and (Co) or None, as in `conv3x3`.
    relu: whether negative sums become 0; not together with `residual`.
    upscale: r of the pixel shuffle.
    residual: number of the map that is added; map 0 is the input, map i the result of layer i.
    residual_scale: factor of the convolution; without `residual` it has no effect.
    box: y0, x0, y1, x1 to compute, in pixels of the map that the convolution reads; None: all of
        it. Grown by one pixel on each side, it must lie inside the box of the layer before.
    attention: weights the channels of the convolution by their means over the whole map, before
        the residual is added. So the layer before must compute all of its map. Needs a `residual`;
        not together with `upscale`.
    """

    weight: Tensor
    bias: Tensor | None
    relu: bool = False
    upscale: int = 1
    residual: int | None = None
    residual_scale: float = 1.0
    box: Sequence[int] | None = None
    attention: ChannelAttention | None = None


def conv_stack(
    x: Tensor, layers: Sequence[StackLayer], *, backend: str = "auto", sure: bool = False
) -> Tensor:
    """`layers` one after the other, as `conv3x3` would, in one call.

    On CPUs in float32 intermediate maps are stored in cells of 4x4 pixels, the tiles of Winograd's
    F(4x4, 3x3), aligned to the whole map. Boxes made of whole cells of the input (on larger maps,
    of the corresponding pixels) therefore equal the whole map bit for bit, if every layer computes
    all that the next layer's cells read; other boxes differ by rounding. On GPUs each layer is
    one launch of a CUDA or Triton kernel, in the precision of `fastbg.use_precision`. In the cases
    that `why_plain` names, PyTorch's own functions are used. As with `conv3x3`, a NaN spreads to
    whole cells.

    Args:
        x: (B,C,H,W) float, any strides.
        layers: at least one.
        backend: "auto", "torch", "cpu", "triton" or "cuda".
        sure: whether the caller has already checked that `why_plain` is None.

    Returns:
        (B,C,h,w), the last layer's result for its box. Twice differentiable in `x`; in the
        parameters by PyTorch's own functions.

    Raises:
        InvalidArgument: type, shape, dtype, device, or a box that needs more than there is.
        BackendUnavailable: the named backend cannot run here, or not on these arguments.
    """
    check_images("x", x)
    if 0 in x.shape[1:]:
        raise InvalidArgument("x", f"shape {tuple(x.shape)}", "at least one channel and pixel")
    if not layers:
        raise InvalidArgument("layers", list(layers), "at least one")
    rows, parameters = _checked(x, layers)
    numbers, scales = list(chain.from_iterable(rows)), [float(s.residual_scale) for s in layers]
    if not sure:
        reason = why_plain(x, parameters, rows, backend)
        if reason is not None:
            if backend not in ("auto", "torch"):
                raise BackendUnavailable(f"backend {backend!r} cannot run conv_stack: {reason}")
            return registered.plain(x, parameters, numbers, scales)
    keep = torch.is_grad_enabled() and x.requires_grad
    result: Tensor = registered.conv_stack(x, parameters, numbers, scales, keep, backend)[0]
    return result


def why_plain(
    x: Tensor,
    parameters: Sequence[Tensor],
    rows: Sequence[registered.Layer] = (),
    backend: str = "auto",
) -> str | None:
    """Why PyTorch's own functions must compute it; None where the kernel can."""
    reason = frozen.why_plain("conv_stack", x, parameters, backend)
    if reason is None and torch.is_autocast_enabled(x.device.type):
        place = Place(x.device, x.dtype)
        if current() != "bf16" or select("conv_stack", place, backend) not in ("cuda", "triton"):
            reason = "autocast is for PyTorch's own functions"
    if reason is not None:
        return reason
    used = [row.residual for row in rows if row.residual >= 0]
    if any(used.count(number) > registered.MOST_ADDED for number in set(used)):
        return f"a map is a residual more than {registered.MOST_ADDED} times"
    return None


def whole_cells(box: Box, height: int, width: int) -> Box:
    """The smallest box made of whole cells of a (height, width) map that covers `box`."""
    return box.align(registered.CELL, 0, height, width)


def _checked(
    x: Tensor, layers: Sequence[StackLayer]
) -> tuple[list[registered.Layer], list[Tensor]]:
    """The layers as rows of numbers, and their parameters, weight and bias in turn."""
    channels, height, width = x.shape[1:]
    maps = [(channels, height, width, Box(0, 0, height, width))]
    rows: list[registered.Layer] = []
    parameters: list[Tensor] = []
    attentions: list[Tensor] = []
    for i, layer in enumerate(layers):
        name = f"layers[{i}]"
        channels, height, width, there = maps[-1]
        shape = tuple(layer.weight.shape)
        if len(shape) != 4 or shape[1:] != (channels, 3, 3) or shape[0] == 0:
            raise InvalidArgument(f"{name}.weight", shape, f"shape (Co, {channels}, 3, 3)")
        bias = layer.weight.new_zeros(shape[0]) if layer.bias is None else layer.bias
        if tuple(bias.shape) != shape[:1]:
            raise InvalidArgument(f"{name}.bias", tuple(bias.shape), f"shape {shape[:1]}")
        for value in (layer.weight, bias, *(layer.attention or ())):
            if value.dtype is not x.dtype or value.device != x.device:
                wanted = f"{x.dtype} on {x.device}, as x"
                raise InvalidArgument(name, f"{value.dtype} on {value.device}", wanted)
        r = layer.upscale
        if r < 1 or shape[0] % r**2:
            raise InvalidArgument(f"{name}.upscale", r, f"r >= 1 whose square divides {shape[0]}")
        whole = Box(0, 0, height, width)
        box = whole if layer.box is None else Box(*layer.box)
        needed = box.grow(1, height, width) if layer.attention is None else whole
        if not _inside(box, whole) or not _inside(needed, there):
            wanted = f"a box, not empty, that needs no more than {tuple(there)}"
            raise InvalidArgument(f"{name}.box", tuple(box), wanted)
        made = (shape[0] // r**2, r * height, r * width, box.refine(r))
        if layer.residual is not None:
            if not 0 <= layer.residual <= i:
                raise InvalidArgument(f"{name}.residual", layer.residual, f"a map, 0 to {i}")
            if layer.relu:
                raise InvalidArgument(f"{name}.relu", True, "False, where a residual is given")
            other = maps[layer.residual]
            if other[:3] != made[:3] or not _inside(made[3], other[3]):
                wanted = f"one of {made[0]} channels with the pixels {tuple(made[3])}"
                raise InvalidArgument(f"{name}.residual", layer.residual, wanted)
        residual, attention = -1 if layer.residual is None else layer.residual, -1
        if layer.attention is not None:
            _check_attention(name, layer, layer.attention)
            attention = len(attentions) // len(layer.attention)
            attentions += layer.attention
        rows.append(registered.Layer(int(layer.relu), r, residual, attention, *box))
        parameters += (layer.weight, bias)
        maps.append(made)
    return rows, parameters + attentions


def _check_attention(name: str, layer: StackLayer, attention: ChannelAttention) -> None:
    if layer.residual is None or layer.upscale != 1:
        wanted = "None, without a residual or with an upscale"
        raise InvalidArgument(f"{name}.attention", "a ChannelAttention", wanted)
    channels, squeezed = len(layer.weight), len(attention.squeeze)
    shapes = (squeezed, channels, 1, 1), (squeezed,), (channels, squeezed, 1, 1), (channels,)
    for field, value, shape in zip(attention._fields, attention, shapes, strict=True):
        if tuple(value.shape) != shape or squeezed == 0:
            wanted = f"shape {shape}, at least one channel"
            raise InvalidArgument(f"{name}.attention.{field}", tuple(value.shape), wanted)


def _inside(box: Box, outer: Box) -> bool:
    return outer.y0 <= box.y0 < box.y1 <= outer.y1 and outer.x0 <= box.x0 < box.x1 <= outer.x1
