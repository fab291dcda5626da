"""Swin Transformer layers: window attention by Triton kernels, the layers around it by PyTorch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from fastbg.backends.attention_steps import Step, split
from fastbg.kernels.attention import (
    Axis,
    Windows,
    plan_window_attention,
    plan_window_attention_gradient,
)
from fastbg.precision import current, in_precision


@dataclass(frozen=True)
class Layer:
    """One step."""

    step: Step
    parameters: Sequence[Tensor]
    windows: Windows | None  # None: an MLP


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
    """The steps on `x`, and the map before each step but the first, if `keep`."""
    layers = _layers(parameters, steps, height, width)
    kept = x.new_empty(len(layers) - 1 if keep else 0, x.numel())
    return _run(x, layers, eps, kept).permute(0, 3, 1, 2), kept


@in_precision
def swin_layers_gradient(
    grad: Tensor,
    x: Tensor,
    kept: Tensor | None,
    parameters: Sequence[Tensor],
    steps: Sequence[int],
    height: int,
    width: int,
    eps: float,
) -> Tensor:
    """Gradient to x; what the forward pass has not stored is computed again."""
    layers = _layers(parameters, steps, height, width)
    if kept is None or len(kept) != len(layers) - 1:
        kept = x.new_empty(len(layers) - 1, x.numel())
        _run(x, layers[:-1], eps, kept)
    to_y = grad.permute(0, 2, 3, 1).contiguous()
    for i, layer in reversed(list(enumerate(layers))):
        before = layers[max(i - 1, 0)].step
        y = x.permute(0, 2, 3, 1) if i == 0 else _place(kept[i - 1], x, before)
        to_y = _gradient(to_y, _cut(y, before, layer.step), layer, eps)
        to_y = _uncut(to_y, before, layer.step)
    return to_y.permute(0, 3, 1, 2)


def _layers(
    parameters: Sequence[Tensor], steps: Sequence[int], height: int, width: int
) -> list[Layer]:
    given, layers = iter(parameters), []
    for step in split(steps):
        windows = None
        if step.heads:
            rows = Axis.of(step.y0, step.y1, height, step.window, step.shift)
            columns = Axis.of(step.x0, step.x1, width, step.window, step.shift)
            windows = Windows(rows, columns, step.heads, step.window, step.shift > 0)
        layers.append(Layer(step, [next(given) for _ in range(step.parameters)], windows))
    return layers


def _run(x: Tensor, layers: Sequence[Layer], eps: float, kept: Tensor) -> Tensor:
    """The result (B,h,w,C); those of the first layers are stored in the rows of `kept`."""
    y = x.permute(0, 2, 3, 1)
    for i, layer in enumerate(layers):
        y = _cut(y, layers[max(i - 1, 0)].step, layer.step)
        weight, bias, *rest = layer.parameters
        normal = layer_norm(y, y.shape[-1:], weight, bias, eps)
        change = _attention(normal, layer.windows, *rest) if layer.windows else _mlp(normal, *rest)
        y = torch.add(change, y, out=_place(kept[i], x, layer.step) if i < len(kept) else change)
    return y


def _gradient(grad: Tensor, y: Tensor, layer: Layer, eps: float) -> Tensor:
    """Gradient to the input `y` of a layer; all are (B,h,w,C)."""
    weight, bias, *rest = layer.parameters
    normal, mean, inverse = torch.native_layer_norm(y, y.shape[-1:], weight, bias, eps)
    if layer.windows:
        to_normal = _attention_gradient(grad, normal, layer.windows, *rest)
    else:
        to_normal = _mlp_gradient(grad, normal, *rest)
    to_y: Tensor = torch.ops.aten.native_layer_norm_backward(
        to_normal, y, y.shape[-1:], mean, inverse, weight, bias, [True, False, False]
    )[0]
    return to_y.add_(grad)


def _attention(
    normal: Tensor,
    windows: Windows,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    table: Tensor,
    proj: Tensor,
    proj_bias: Tensor,
) -> Tensor:
    qkv, out = _linear(normal, qkv_weight, qkv_bias), torch.empty_like(normal)
    with torch.cuda.device_of(out):
        plan_window_attention(qkv, table.contiguous(), windows, current(), out).run()
    return _linear(out, proj, proj_bias)


def _attention_gradient(
    grad: Tensor,
    normal: Tensor,
    windows: Windows,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    table: Tensor,
    proj: Tensor,
    _: Tensor,
) -> Tensor:
    """Gradient to `normal`; queries, keys and values are computed again."""
    qkv, to_out = _linear(normal, qkv_weight, qkv_bias), _linear_gradient(grad, proj)
    table, to_qkv = table.contiguous(), torch.empty_like(qkv)
    with torch.cuda.device_of(grad):
        plan_window_attention_gradient(qkv, table, to_out, windows, current(), to_qkv).run()
    return _linear_gradient(to_qkv, qkv_weight)


def _mlp(normal: Tensor, fc1: Tensor, fc1_bias: Tensor, fc2: Tensor, fc2_bias: Tensor) -> Tensor:
    return _linear(gelu(_linear(normal, fc1, fc1_bias)), fc2, fc2_bias)


def _mlp_gradient(
    grad: Tensor, normal: Tensor, fc1: Tensor, fc1_bias: Tensor, fc2: Tensor, _: Tensor
) -> Tensor:
    """Gradient to `normal`; what goes into the GELU is computed again."""
    hidden, to_hidden = _linear(normal, fc1, fc1_bias), _linear_gradient(grad, fc2)
    return _linear_gradient(torch.ops.aten.gelu_backward(to_hidden, hidden), fc1)


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Of (B,h,w,C), contiguous, in one launch: cuBLAS adds the bias to its product."""
    return torch.addmm(bias, x.view(-1, x.shape[-1]), weight.t()).view(*x.shape[:-1], -1)


def _linear_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient to the input of `_linear`."""
    return torch.mm(grad.view(-1, grad.shape[-1]), weight).view(*grad.shape[:-1], -1)


def _cut(y: Tensor, before: Step, step: Step) -> Tensor:
    """A map (B,h,w,C) of the box of the step before, cut to a step's; contiguous."""
    down, right = step.y0 - before.y0, step.x0 - before.x0
    height, width = step.y1 - step.y0, step.x1 - step.x0
    return y[:, down : down + height, right : right + width].contiguous()


def _uncut(grad: Tensor, before: Step, step: Step) -> Tensor:
    """Gradient to the input of `_cut`."""
    if step.box == before.box:
        return grad
    down, right = step.y0 - before.y0, step.x0 - before.x0
    batch, height, width, channels = grad.shape
    whole = grad.new_zeros(batch, before.y1 - before.y0, before.x1 - before.x0, channels)
    whole[:, down : down + height, right : right + width] = grad
    return whole


def _place(row: Tensor, x: Tensor, step: Step) -> Tensor:
    """A step's result (B,h,w,C) at the start of a row of what is kept."""
    batch, channels, height, width = *x.shape[:2], step.y1 - step.y0, step.x1 - step.x0
    return row[: batch * height * width * channels].view(batch, height, width, channels)
