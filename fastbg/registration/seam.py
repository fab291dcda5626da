"""Registration of composites with a bridged seam."""

from typing import Any

from torch import Tensor

from fastbg.backends.torch_reference.seam import bridged_composite_gradients
from fastbg.registration.composite import float_dtype, regions
from fastbg.registration.dispatch import implementation
from fastbg.registration.operator import Operator


@Operator
def bridged_composite(
    a: Tensor, b: Tensor, pairs: Tensor, inner: Tensor, outer: Tensor, tau: float, backend: str
) -> Tensor:
    """(N,C,H,W): `composite`, whose foreign content meets its rims and decays to b with tau."""
    run = implementation("bridged_composite", backend, a)
    result: Tensor = run(a, b, *regions(a, b, pairs, inner, outer), tau)
    return result


@bridged_composite.register_fake
def _(
    a: Tensor, b: Tensor, pairs: Tensor, inner: Tensor, outer: Tensor, tau: float, backend: str
) -> Tensor:
    return a.new_empty((pairs.shape[0], *a.shape[1:]), dtype=float_dtype(a))


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.tau, _ = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Each source receives the gradients of its pixels, and through the bridge of its rims."""
    a, b, *integers = ctx.saved_tensors
    pairs, inner, outer = (x.to(grad.device, non_blocking=True) for x in integers)
    of_pairs = bridged_composite_gradients(
        grad, a.detach(), b.detach(), pairs, inner, outer, ctx.tau
    )
    grads: list[Tensor | None] = []
    for side, (source, of_pair) in enumerate(zip((a, b), of_pairs, strict=True)):
        grads.append(None)
        if ctx.needs_input_grad[side]:
            empty = of_pair.new_zeros(source.shape)
            summed = empty.index_add(0, pairs[:, side].long(), of_pair)
            grads[side] = summed.to(source.dtype)
    return (*grads, None, None, None, None, None)


bridged_composite.register_autograd(_backward, setup_context=_keep_for_backward)


@Operator
def bridged_composite_lr(
    a: Tensor,
    b: Tensor,
    pairs: Tensor,
    inner: Tensor,
    outer: Tensor,
    tau: float,
    scale: int,
    kernel: str,
    quantize: bool,
    backend: str,
) -> Tensor:
    """(N,C,H/s,W/s): `bridged_composite`, bicubically down-sampled."""
    run = implementation("bridged_composite_lr", backend, a)
    found = regions(a, b, pairs, inner, outer)
    result: Tensor = run(a, b, *found, tau, scale, kernel, quantize)
    return result


@bridged_composite_lr.register_fake
def _(
    a: Tensor,
    b: Tensor,
    pairs: Tensor,
    inner: Tensor,
    outer: Tensor,
    tau: float,
    scale: int,
    kernel: str,
    quantize: bool,
    backend: str,
) -> Tensor:
    n, (_, channels, height, width) = pairs.shape[0], a.shape
    return a.new_empty((n, channels, height // scale, width // scale), dtype=float_dtype(a))
