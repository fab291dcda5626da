"""Registration of the 3x3 convolution. B images, Ci and Co channels, H x W pixels."""

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from fastbg.backends.torch_reference import conv as reference
from fastbg.registration.dispatch import implementation
from fastbg.registration.operator import Operator, has_tangent

plain = reference.conv3x3  # the same without an operator, where the networks want PyTorch's


def _channels_last(y: Tensor) -> Tensor:
    if is_functorch_wrapped_tensor(y) or has_tangent(y):  # vmap knows no memory formats
        return y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return y.contiguous(memory_format=torch.channels_last)


@Operator
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
    return _channels_last(result)


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


@Operator
def conv3x3_input_gradient(
    grad: Tensor, weight: Tensor, gate: Tensor | None, upscale: int, backend: str
) -> Tensor:
    """Gradient (B,Ci,H,W) to x, of the gradient to the shuffled relu (conv 3x3 (x)), or `gate`."""
    run = implementation("conv3x3_input_gradient", backend, grad)
    result: Tensor = run(grad, weight, gate, upscale)
    return _channels_last(result)


@conv3x3_input_gradient.register_fake
def _(grad: Tensor, weight: Tensor, gate: Tensor | None, upscale: int, backend: str) -> Tensor:
    batch, _, height, width = grad.shape
    size = (batch, weight.shape[1], height // upscale, width // upscale)
    return torch.empty(
        size, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last
    )


@Operator
def conv3x3_weight_gradient(
    grad: Tensor, x: Tensor, gate: Tensor | None, upscale: int, backend: str
) -> tuple[Tensor, Tensor]:
    """Gradients to weight (Co,Ci,3,3) and bias (Co) of the same."""
    run = implementation("conv3x3_weight_gradient", backend, grad)
    result: tuple[Tensor, Tensor] = run(grad, x, gate, upscale)
    return result


@conv3x3_weight_gradient.register_fake
def _(
    grad: Tensor, x: Tensor, gate: Tensor | None, upscale: int, backend: str
) -> tuple[Tensor, Tensor]:
    channels = grad.shape[1] * upscale**2
    return grad.new_empty(channels, x.shape[1], 3, 3), grad.new_empty(channels)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, residual, scale, relu, ctx.upscale, ctx.backend = inputs
    ctx.residual_scale = 1.0 if residual is None else scale
    # x is for the weights only, which are mostly frozen.
    wants_weights = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
    ctx.save_for_backward(x if wants_weights else None, weight, output if relu else None)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, gate = ctx.saved_tensors
    wants_x, wants_weight, wants_bias, wants_residual = ctx.needs_input_grad[:4]
    through = grad if ctx.residual_scale == 1.0 else grad * ctx.residual_scale
    to_x = to_weight = to_bias = None
    if wants_x:
        to_x = conv3x3_input_gradient(through, weight, gate, ctx.upscale, ctx.backend)
    if wants_weight or wants_bias:
        both = conv3x3_weight_gradient(through, x, gate, ctx.upscale, ctx.backend)
        to_weight, to_bias = (
            g if wanted else None
            for g, wanted in zip(both, (wants_weight, wants_bias), strict=True)
        )
    return to_x, to_weight, to_bias, grad if wants_residual else None, None, None, None, None


conv3x3.register_autograd(_backward, setup_context=_keep)


def _gated(grad: Tensor, gate: Tensor | None) -> Tensor:
    return grad if gate is None else torch.where(gate <= 0, 0, grad)


# Both gradients are linear in each of their arguments but the gate, whose own gradient is zero.


def _keep_input_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, weight, gate, ctx.upscale, ctx.backend = inputs
    ctx.save_for_backward(grad if ctx.needs_input_grad[1] else None, weight, gate)


def _input_gradient_backward(ctx: Any, again: Tensor) -> tuple[Tensor | None, ...]:
    grad, weight, gate = ctx.saved_tensors
    to_grad = to_weight = None
    if ctx.needs_input_grad[0]:
        through = conv3x3(again, weight, None, None, 1.0, False, ctx.upscale, ctx.backend)
        to_grad = _gated(through, gate)
    if ctx.needs_input_grad[1]:
        to_weight, _ = conv3x3_weight_gradient(grad, again, gate, ctx.upscale, ctx.backend)
    return to_grad, to_weight, None, None, None


def _keep_weight_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    grad, x, gate, ctx.upscale, ctx.backend = inputs
    ctx.save_for_backward(grad if ctx.needs_input_grad[1] else None, x, gate)


def _weight_gradient_backward(ctx: Any, weight: Tensor, bias: Tensor) -> tuple[Tensor | None, ...]:
    grad, x, gate = ctx.saved_tensors
    to_grad = to_x = None
    if ctx.needs_input_grad[0]:
        through = conv3x3(x, weight, bias, None, 1.0, False, ctx.upscale, ctx.backend)
        to_grad = _gated(through, gate)
    if ctx.needs_input_grad[1]:
        to_x = conv3x3_input_gradient(grad, weight, gate, ctx.upscale, ctx.backend)
    return to_grad, to_x, None, None, None


conv3x3_input_gradient.register_autograd(
    _input_gradient_backward, setup_context=_keep_input_gradient
)
conv3x3_weight_gradient.register_autograd(
    _weight_gradient_backward, setup_context=_keep_weight_gradient
)
