"""Registration of Swin Transformer layers. B images, C channels, a part (h, w) of an H x W map."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor

from fastbg.backends.attention_steps import Step as Step
from fastbg.backends.attention_steps import split
from fastbg.backends.torch_reference import attention as reference
from fastbg.registration.dispatch import Place, implementation, select
from fastbg.registration.operator import Operator, in_own_precision


@Operator
def swin_layers(
    x: Tensor,
    parameters: Sequence[Tensor],
    steps: Sequence[int],
    height: int,
    width: int,
    eps: float,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The steps on `x` (B,C,h,w), the last one's box of it; if `keep`, what the gradient needs.

    Parameters are constants: they have no gradient.
    """
    run = implementation("swin_layers", backend, x)
    result: tuple[Tensor, Tensor] = run(x, parameters, steps, height, width, eps, keep)
    return _channels_last(result[0]), result[1]


def _channels_last(y: Tensor) -> Tensor:
    return y.contiguous(memory_format=torch.channels_last)


@swin_layers.register_fake
def _(
    x: Tensor,
    parameters: Sequence[Tensor],
    steps: Sequence[int],
    height: int,
    width: int,
    eps: float,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    last = split(steps)[-1]
    size = len(x), x.shape[1], last.y1 - last.y0, last.x1 - last.x0
    kept = x.new_empty(len(split(steps)) - 1 if keep else 0, x.numel())
    layout = torch.channels_last
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout), kept


@Operator
def swin_layers_gradient(
    grad: Tensor,
    x: Tensor,
    kept: Tensor | None,
    parameters: Sequence[Tensor],
    steps: Sequence[int],
    height: int,
    width: int,
    eps: float,
    backend: str,
) -> Tensor:
    """Gradient to x (B,C,h,w) of the gradient to the result."""
    run = implementation("swin_layers_gradient", backend, x)
    result: Tensor = run(grad, x, kept, parameters, steps, height, width, eps)
    return _channels_last(result)


@swin_layers_gradient.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    kept: Tensor | None,
    parameters: Sequence[Tensor],
    steps: Sequence[int],
    height: int,
    width: int,
    eps: float,
    backend: str,
) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


@in_own_precision
def plain(
    x: Tensor,
    parameters: Sequence[Tensor],
    steps: Sequence[int],
    height: int,
    width: int,
    eps: float,
) -> Tensor:
    """The same in PyTorch's own functions, which have every derivative, parameters' too."""
    return reference.swin_layers(x, parameters, steps, height, width, eps, False)[0]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, ctx.parameters, ctx.steps, ctx.height, ctx.width, ctx.eps, _, ctx.backend = inputs
    kept = output[1]
    ctx.mark_non_differentiable(kept)
    ctx.set_materialize_grads(False)
    # Parameters too, so that PyTorch sees where one was changed before backward.
    ctx.save_for_backward(x, kept if kept.numel() else None, *ctx.parameters)


def _backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    rest = (None,) * 7
    if grad is None:
        return None, *rest
    x, kept, *_ = ctx.saved_tensors
    given = ctx.parameters, ctx.steps, ctx.height, ctx.width, ctx.eps
    again = torch.is_grad_enabled()  # the gradient is to be derived itself
    if (
        again
        or is_legacy_batchedtensor(grad)
        or select("swin_layers", Place(x.device, x.dtype), ctx.backend) == "torch"
    ):
        with torch.enable_grad():
            x = x if again else x.detach().requires_grad_()
            y = plain(x, *given)
            return torch.autograd.grad(y, x, grad, create_graph=again)[0], *rest
    return swin_layers_gradient(grad, x, kept, *given, ctx.backend), *rest


swin_layers.register_autograd(_backward, setup_context=_keep)
