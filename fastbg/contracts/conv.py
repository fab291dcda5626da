"""Contract of the 3x3 convolution. B images, Ci and Co channels, H x W pixels."""

from typing import Any

import torch
from torch import Tensor

from fastbg.backends.torch_reference.conv import unshuffled
from fastbg.dispatch import implementation


@torch.library.custom_op("fastbg::conv3x3", mutates_args=())
def conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    residual_scale: float,
    relu: bool,
    upscale: int,
    backend: str,
) -> Tensor:
    """residual + residual_scale * shuffled (relu (conv 3x3 (x) + bias)): (B,Co/r^2,r*H,r*W)."""
    run = implementation("conv3x3", backend, x)
    result: Tensor = run(x, weight, bias, residual, residual_scale, relu, upscale)
    return result.contiguous(memory_format=torch.channels_last)


@conv3x3.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    residual_scale: float,
    relu: bool,
    upscale: int,
    backend: str,
) -> Tensor:
    batch, _, height, width = x.shape
    size = (batch, len(weight) // upscale**2, height * upscale, width * upscale)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@torch.library.custom_op("fastbg::conv3x3_input_gradient", mutates_args=())
def conv3x3_input_gradient(
    grad: Tensor, weight: Tensor, gate: Tensor | None, upscale: int, backend: str
) -> Tensor:
    """Gradient (B,Ci,H,W) to x, of the gradient to the shuffled relu (conv 3x3 (x)), or `gate`."""
    run = implementation("conv3x3_input_gradient", backend, grad)
    result: Tensor = run(grad, weight, gate, upscale)
    return result.contiguous(memory_format=torch.channels_last)


@conv3x3_input_gradient.register_fake
def _(grad: Tensor, weight: Tensor, gate: Tensor | None, upscale: int, backend: str) -> Tensor:
    batch, _, height, width = grad.shape
    size = (batch, weight.shape[1], height // upscale, width // upscale)
    return torch.empty(
        size, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, residual, scale, relu, ctx.upscale, ctx.backend = inputs
    ctx.residual_scale = 1.0 if residual is None else scale
    # x is for the weights only, which are mostly frozen.
    wants_weight = ctx.needs_input_grad[1]
    ctx.save_for_backward(x if wants_weight else None, weight, output if relu else None)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, gate = ctx.saved_tensors
    wants_x, wants_weight, wants_bias, wants_residual = ctx.needs_input_grad[:4]
    through = grad if ctx.residual_scale == 1.0 else grad * ctx.residual_scale
    to_x = to_weight = to_bias = None
    if wants_x:
        to_x = conv3x3_input_gradient(through, weight, gate, ctx.upscale, ctx.backend)
    if wants_weight or wants_bias:
        if gate is not None:
            through = torch.where(gate <= 0, 0, through)
        if ctx.upscale > 1:
            through = unshuffled(through, ctx.upscale)
        to_bias = through.sum((0, 2, 3)) if wants_bias else None
    if wants_weight:
        to_weight = _weight_gradient(through, x, weight)
    return to_x, to_weight, to_bias, grad if wants_residual else None, None, None, None, None


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    wanted = [False, True, False]
    one, none = [1, 1], [0, 0]
    gradient: Tensor = torch.ops.aten.convolution_backward(
        grad, x, weight, None, one, one, one, False, none, 1, wanted
    )[1]
    return gradient


conv3x3.register_autograd(_backward, setup_context=_keep)


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, weight, gate, ctx.upscale, ctx.backend = inputs
    ctx.save_for_backward(grad if ctx.needs_input_grad[1] else None, weight, gate)


def _gradient_backward(ctx: Any, again: Tensor) -> tuple[Tensor | None, ...]:
    """The gradient is linear in `grad` and in `weight`; the gate's own gradient is zero."""
    grad, weight, gate = ctx.saved_tensors
    to_grad = to_weight = None
    if ctx.needs_input_grad[0]:
        to_grad = conv3x3(again, weight, None, None, 1.0, False, ctx.upscale, ctx.backend)
        if gate is not None:
            to_grad = torch.where(gate <= 0, 0, to_grad)
    if ctx.needs_input_grad[1]:
        if gate is not None:
            grad = torch.where(gate <= 0, 0, grad)
        if ctx.upscale > 1:
            grad = unshuffled(grad, ctx.upscale)
        to_weight = _weight_gradient(grad, again, weight)
    return to_grad, to_weight, None, None, None


conv3x3_input_gradient.register_autograd(_gradient_backward, setup_context=_keep_gradient)
