"""Registration of stacks of 3x3 convolutions. B images, C channels, H x W pixels, a box (h, w)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor

from fastbg.backends.stack_layers import (
    CELL,
    MOST_ADDED,
    Attention,
    Layer,
    kept_bytes,
    kept_maps_bytes,
    result_shape,
)
from fastbg.backends.torch_reference import conv_stack as reference
from fastbg.registration.dispatch import Place, implementation, select
from fastbg.registration.operator import Operator

__all__ = [
    "CELL",
    "MOST_ADDED",
    "Attention",
    "Layer",
    "conv_stack",
    "conv_stack_gradient",
    "plain",
]


@Operator
def conv_stack(
    x: Tensor,
    parameters: Sequence[Tensor],
    layers: Sequence[int],
    scales: Sequence[float],
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The last layer's box (B,C,h,w) of `x` (B,C,H,W), and what the gradient needs, if `keep`.

    Parameters (weight and bias of each layer in turn, then what `Attention` names of each of
    them) are constants: they have no gradient.
    """
    run = implementation("conv_stack", backend, x)
    result: tuple[Tensor, Tensor] = run(x, parameters, layers, scales, keep)
    return result[0].contiguous(), result[1]


@conv_stack.register_fake
def _(
    x: Tensor,
    parameters: Sequence[Tensor],
    layers: Sequence[int],
    scales: Sequence[float],
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    size = 0
    if keep and select("conv_stack", Place(x.device, x.dtype), backend) in ("cuda", "triton"):
        size = kept_maps_bytes(x, parameters, layers)
    elif keep:
        size = kept_bytes(len(x), parameters, layers)
    out = x.new_empty(result_shape(x, parameters, layers))
    return out, x.new_empty(size, dtype=torch.uint8)


@Operator
def conv_stack_gradient(
    grad: Tensor,
    x: Tensor,
    kept: Tensor | None,
    parameters: Sequence[Tensor],
    layers: Sequence[int],
    scales: Sequence[float],
    backend: str,
) -> Tensor:
    """Gradient to x (B,C,H,W) of the gradient to the result; zero where no layer looks."""
    run = implementation("conv_stack_gradient", backend, x)
    result: Tensor = run(grad, x, kept, parameters, layers, scales)
    return result.contiguous()


@conv_stack_gradient.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    kept: Tensor | None,
    parameters: Sequence[Tensor],
    layers: Sequence[int],
    scales: Sequence[float],
    backend: str,
) -> Tensor:
    return x.new_empty(x.shape)


def plain(
    x: Tensor, parameters: Sequence[Tensor], layers: Sequence[int], scales: Sequence[float]
) -> Tensor:
    """The same in PyTorch's own functions, which have every derivative, parameters' too."""
    return reference.conv_stack(x, parameters, layers, scales, False)[0]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, ctx.parameters, ctx.layers, ctx.scales, keep, ctx.backend = inputs
    kept = output[1]
    ctx.mark_non_differentiable(kept)
    ctx.set_materialize_grads(False)
    # Parameters too, so that PyTorch sees where one was changed before backward.
    ctx.save_for_backward(x, kept if keep else None, *ctx.parameters)


def _backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    rest = (None,) * 5
    if grad is None:
        return None, *rest
    x, kept, *_ = ctx.saved_tensors
    given = ctx.parameters, ctx.layers, ctx.scales
    again = torch.is_grad_enabled()  # the gradient is to be derived itself
    if again or is_legacy_batchedtensor(grad):  # of torch.autograd.grad(is_grads_batched=True)
        with torch.enable_grad():
            x = x if again else x.detach().requires_grad_()
            y = plain(x, *given)
            return torch.autograd.grad(y, x, grad, create_graph=again)[0], *rest
    if select("conv_stack", Place(x.device, x.dtype), ctx.backend) == "torch":
        kept = None
    return conv_stack_gradient(grad, x, kept, *given, ctx.backend), *rest


conv_stack.register_autograd(_backward, setup_context=_keep)
