"""3x3 convolution in C++ (csrc/cpu/conv.cpp)."""

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.weak import WeakTensorKeyDictionary

from fastbg.backends.cpu import native
from fastbg.backends.tensor_view import optional_view, view

LANES = 16  # kConvLanes in csrc/cpu/conv.h: channels come in multiples of it

# Weight -> its version and place, and its factors by (transposed, upscale). Frozen networks are
# used many times.
_FACTORS = WeakTensorKeyDictionary()


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
        bias = _padded(_by_place(bias.float(), places), 1).flatten()
    return _run(
        _channels_last(x),
        None,
        1,
        _factors(weight, False, upscale),
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
        _factors(weight, True, upscale),
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
    sums = torch.zeros(native().conv_weight_parts, 36 * ci * co + co)
    weight, bias = torch.empty(ci, 3, 3, co), torch.empty(co)
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
    factors: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    residual_scale: float,
    relu: bool,
    channels: int,
    upscale: int,
) -> Tensor:
    batch, _, height, width = x.shape
    size = (height // x_upscale * upscale, width // x_upscale * upscale)
    out = torch.empty((batch, *size, channels)).permute(0, 3, 1, 2)
    native().conv3x3(
        view(x),
        optional_view(gate),
        x_upscale,
        view(factors),
        optional_view(bias),
        optional_view(residual),
        residual_scale,
        relu,
        view(out),
        upscale,
        torch.get_num_threads(),
    )
    return out


def _channels_last(x: Tensor, multiple: int = LANES) -> Tensor:
    """`x` (B,C,H,W) in float32, channels side by side in memory and a `multiple` of them."""
    if x.shape[1] % multiple:
        x = pad(x, (0, 0, 0, 0, 0, -x.shape[1] % multiple))
    if x.dtype == torch.float32 and x.stride(1) == 1:
        return x
    return x.permute(0, 2, 3, 1).float().contiguous().permute(0, 3, 1, 2)


def _by_place(x: Tensor, places: int) -> Tensor:
    """Output channels (C * places, ...) in pixel-shuffle order as (places, C, ...)."""
    return x.unflatten(0, (-1, places)).transpose(0, 1)


def _padded(x: Tensor, dim: int) -> Tensor:
    """`x` with zeros at the end of `dim`, up to whole vectors."""
    return pad(x, (0, 0) * (x.dim() - 1 - dim) + (0, -x.shape[dim] % LANES))


def _factors(weight: Tensor, transposed: bool, upscale: int) -> Tensor:
    """Winograd factors of `weight` (Co,Ci,3,3), or of the transposed convolution's weight."""
    # Inference tensors carry no version, and some optimizers step through .data, which leaves it.
    if weight.is_inference() or weight.requires_grad:
        return _make_factors(weight.detach(), transposed, upscale)
    state = weight._version, weight.data_ptr()
    known, made = _FACTORS.get(weight, (None, {}))
    if known != state:
        made = {}
        _FACTORS[weight] = state, made
    if (transposed, upscale) not in made:
        made[transposed, upscale] = _make_factors(weight, transposed, upscale)
    factors: Tensor = made[transposed, upscale]
    return factors


def _make_factors(weight: Tensor, transposed: bool, upscale: int) -> Tensor:
    taps = _padded(_by_place(weight.float(), upscale**2), 1)  # [r*r, C, Ci, 3, 3]
    taps = _padded(taps, 2)
    group = taps.shape[1]
    if transposed:
        group = taps.shape[2]
        taps = taps.flip(3, 4).flatten(0, 1).permute(0, 2, 3, 1)
    else:
        taps = taps.flatten(0, 1).permute(1, 2, 3, 0)
    taps = taps.contiguous()  # [in, 3, 3, out]
    factors = torch.empty(36 * taps.shape[0] * taps.shape[3])
    native().conv_factors(view(taps), group, view(factors), torch.get_num_threads())
    return factors
