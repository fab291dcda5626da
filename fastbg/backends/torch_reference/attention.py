"""Swin Transformer layers in plain PyTorch: the reference of csrc/cpu/attention.cpp."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, pad

from fastbg.backends.attention_steps import Step, split
from fastbg.errors import BackendUnavailable
from fastbg.precision import in_precision


@in_precision
def swin_layers(
    x: Tensor,
    parameters: Sequence[Tensor],
    steps: Sequence[int],
    height: int,
    width: int,
    eps: float,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The steps on `x` (B,C,h,w), the first one's box of a (height, width) map; keeps nothing."""
    given = list(parameters)
    y = x.permute(0, 2, 3, 1)
    top, left = split(steps)[0].box[:2]
    for step in split(steps):
        mine, given = given[: step.parameters], given[step.parameters :]
        y = y[:, step.y0 - top : step.y1 - top, step.x0 - left : step.x1 - left]
        top, left = step.y0, step.x0
        normal = layer_norm(y, y.shape[-1:], mine[0], mine[1], eps)
        if step.heads:
            y = y + _attention(normal, mine[2:], step, height, width)
        else:
            fc1, fc1_bias, fc2, fc2_bias = mine[2:]
            y = y + linear(gelu(linear(normal, fc1, fc1_bias)), fc2, fc2_bias)
    return y.permute(0, 3, 1, 2), x.new_empty(0)


def swin_layers_gradient(*_: object) -> Tensor:
    """Not computed here: PyTorch derives `swin_layers`."""
    raise BackendUnavailable("backend 'torch' has no swin_layers_gradient: derive swin_layers")


def _attention(
    x: Tensor, parameters: Sequence[Tensor], step: Step, height: int, width: int
) -> Tensor:
    """Attention in a box (B,h,w,C) of whole windows; those at the border are padded, masked."""
    qkv, qkv_bias, table, proj, proj_bias = parameters
    n, (batch, down, across, channels) = step.window, x.shape
    before = [n - step.shift if step.shift and start == 0 else 0 for start in (step.x0, step.y0)]
    size = across + before[0], down + before[1]
    after = [-length % n for length in size]
    padding = [p for pair in zip(before, after, strict=True) for p in pair]
    x = pad(x, (0, 0, *padding))
    filled = pad(x.new_zeros(down, across), padding, value=1.0)
    rows, columns = (length // n for length in filled.shape)

    def windows(t: Tensor) -> Tensor:
        t = t.reshape(-1, rows, n, columns, n, t.shape[-1])
        return t.transpose(2, 3).reshape(-1, rows * columns, n * n, t.shape[-1])

    inside = windows(filled[None, ..., None])[0, ..., 0]  # [window, pixel]
    apart = inside[:, None, :, None] != inside[:, None, None, :]
    place = torch.arange(n, device=x.device)
    offset = place[:, None] - place + n - 1
    position = offset[:, None, :, None] * (2 * n - 1) + offset[None, :, None, :]
    bias = table[position.reshape(-1)].view(n * n, n * n, step.heads).permute(2, 0, 1)
    q, k, v = (
        t.unflatten(-1, (step.heads, -1)).transpose(-3, -2)
        for t in linear(windows(x), qkv, qkv_bias).chunk(3, -1)
    )  # each (B, windows, heads, pixels, C / heads)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
    y = logits.masked_fill(apart, float("-inf")).softmax(-1) @ v
    y = linear(y.transpose(-3, -2).flatten(-2), proj, proj_bias)
    y = y.view(batch, rows, columns, n, n, channels).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return y[:, before[1] : before[1] + down, before[0] : before[0] + across]
