"""3x3 convolution in C++ (csrc/cpu/conv.cpp)."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from fastbg.backends.cpu import floats, native
from fastbg.backends.cpu.conv_weight import (
    LANES,
    NOTHING,
    Contents,
    KnownWeight,
    by_place,
    known_weight,
    learn,
    padded,
)
from fastbg.backends.tensor_view import optional_view, view


def conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    residual_scale: float,
    relu: bool,
    upscale: int,
) -> Tensor:
    """residual + residual_scale * shuffled (relu (conv 3x3 (x) + bias))."""
    channels, places = len(weight) // upscale**2, upscale**2
    if bias is not None:
        by_pixel = bias.float()[None] if places == 1 else by_place(bias.float(), places)
        bias = padded(by_pixel, 1).flatten().contiguous()
    return _run(
        _channels_last(x),
        None,
        1,
        weight,
        False,
        bias,
        None if residual is None else _channels_last(residual, 1),
        residual_scale,
        relu,
        channels,
        upscale,
    ).to(x.dtype)


def conv3x3_input_gradient(
    grad: Tensor, weight: Tensor, gate: Tensor | None, upscale: int
) -> Tensor:
    """Gradient to x of the shuffled relu (conv 3x3 (x)), whose result is `gate`."""
    return _run(
        _channels_last(grad),
        None if gate is None else _channels_last(gate),
        upscale,
        weight,
        True,
        None,
        None,
        1.0,
        False,
        weight.shape[1],
        1,
    ).to(grad.dtype)


def conv3x3_weight_gradient(
    grad: Tensor, x: Tensor, gate: Tensor | None, upscale: int
) -> tuple[Tensor, Tensor]:
    """Gradients to weight (Co,Ci,3,3) and bias (Co) of the same."""
    dtype, channels, inputs, places = grad.dtype, grad.shape[1], x.shape[1], upscale**2
    grad, x = _channels_last(grad), _channels_last(x)
    gate = None if gate is None else _channels_last(gate)
    ci, co = x.shape[1], grad.shape[1] * places
    sums = floats(native().conv_weight_parts, 36 * ci * co + co).zero_()
    weight, bias = floats(ci, 3, 3, co), floats(co)
    native().conv_weight_gradient(
        view(x),
        view(grad),
        optional_view(gate),
        upscale,
        view(sums),
        view(weight),
        view(bias),
        torch.get_num_threads(),
    )
    # From (places, C) to pixel-shuffle order, without what was padded.
    by_place = weight.permute(3, 0, 1, 2).unflatten(0, (places, -1))[:, :channels, :inputs]
    to_bias = bias.view(places, -1)[:, :channels].transpose(0, 1).flatten()
    return by_place.transpose(0, 1).flatten(0, 1).contiguous().to(dtype), to_bias.to(dtype)


def _run(
    x: Tensor,
    gate: Tensor | None,
    x_upscale: int,
    weight: Tensor,
    transposed: bool,
    bias: Tensor | None,
    residual: Tensor | None,
    residual_scale: float,
    relu: bool,
    channels: int,
    upscale: int,
) -> Tensor:
    batch, _, height, width = x.shape
    size = (height // x_upscale * upscale, width // x_upscale * upscale)
    out = floats(batch, *size, channels).permute(0, 3, 1, 2)

    def compute(known: KnownWeight, contents: Contents) -> bool:
        same: bool = native().conv3x3(
            view(x),
            optional_view(gate),
            x_upscale,
            view(known.factors(transposed, x_upscale if transposed else upscale)),
            optional_view(bias),
            optional_view(residual),
            residual_scale,
            relu,
            view(out),
            upscale,
            *contents,
            torch.get_num_threads(),
        )
        return same

    if not compute(*known_weight(weight)):
        compute(learn(weight), NOTHING)
    return out


def _channels_last(x: Tensor, multiple: int = LANES) -> Tensor:
    """`x` (B,C,H,W) in float32, channels side by side in memory and a `multiple` of them."""
    if x.shape[1] % multiple:
        x = pad(x, (0, 0, 0, 0, 0, -x.shape[1] % multiple))
    if x.dtype == torch.float32 and x.stride(1) == 1:
        return x
    return x.permute(0, 2, 3, 1).float().contiguous().permute(0, 3, 1, 2)
