"""Contracts of the Gram family. B images, C channels, M masks, H x W pixels.

A mask arrives as (B,M,H,W) weights, in float32, or float64 for float64 features; without one
M is 1 and every pixel has weight 1.
"""

from typing import Any

import torch
from torch import Tensor

from fastbg.backends.gram_arguments import empty_grams
from fastbg.backends.torch_reference.composite import ACCUMULATE
from fastbg.contracts.operator import Operator
from fastbg.dispatch import implementation


@Operator
def gram(features: Tensor, mask: Tensor | None, backend: str) -> Tensor:
    """(B,M,C,C): sum over pixels of mask * f f^T of features (B,C,H,W)."""
    result: Tensor = implementation("gram", backend, features)(features, mask)
    return result


@gram.register_fake
def _(features: Tensor, mask: Tensor | None, backend: str) -> Tensor:
    return empty_grams(features, mask, features.shape[1])


def _keep_features(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, mask, _ = inputs
    ctx.save_for_backward(features, mask)


def _gram_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    features, mask = ctx.saved_tensors
    return (*_gradients(features, mask, grad, ctx.needs_input_grad[1]), None)


def _gradients(
    features: Tensor, mask: Tensor | None, grad: Tensor, wants_mask: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients to features (B,C,H,W) and mask (B,M,H,W) of a Gram's gradient (B,M,C,C).

    f_p receives mask_p (g + g^T) f_p, mask_p receives f_p^T g f_p; one region after the other, so
    that no more than one more map is alive.
    """
    both = grad + grad.mT
    flat = features.flatten(2)  # [B,C,HW]
    if mask is None:
        return (both[:, 0] @ flat).view_as(features), None
    weights = mask.flatten(2)  # [B,M,HW]
    to_features: Tensor | None = None
    to_mask: list[Tensor] = []
    for region in range(weights.shape[1]):
        through = both[:, region] @ flat
        weight = weights[:, region, None]
        part = (through * weight).where(weight != 0, 0)  # no NaN of a pixel that does not count
        to_features = part if to_features is None else to_features + part
        if wants_mask:
            to_mask.append((through * flat).sum(1, dtype=mask.dtype) / 2)
    if to_features is None:
        to_features = torch.zeros_like(flat)
    return (
        to_features.to(features.dtype).view_as(features),
        torch.stack(to_mask, 1).view_as(mask) if to_mask else None,
    )


gram.register_autograd(_gram_backward, setup_context=_keep_features)


@Operator
def conv_gram(
    images: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None, backend: str
) -> Tensor:
    """(B,M,64,64): Gram matrices of relu(conv 3x3) of images (B,3,H,W), never stored between."""
    run = implementation("conv_gram", backend, images)
    result: Tensor = run(images, weight, bias, mask)
    return result


@conv_gram.register_fake
def _(images: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None, backend: str) -> Tensor:
    return empty_grams(images, mask, weight.shape[0])


def _keep_images(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    images, weight, bias, mask, _ = inputs
    ctx.save_for_backward(images, weight, bias, mask)


def _conv_gram_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The feature map is computed again, and freed with this function."""
    mask = ctx.saved_tensors[3]
    dtype = ACCUMULATE.get(grad.dtype, torch.float32)
    images, weight, bias = (saved.to(dtype) for saved in ctx.saved_tensors[:3])
    features = torch.conv2d(images, weight, bias, padding=1).relu()
    to_features, to_mask = _gradients(features, mask, grad.to(dtype), ctx.needs_input_grad[3])
    grads = torch.ops.aten.convolution_backward(
        to_features * (features > 0),
        images,
        weight,
        [weight.shape[0]],
        [1, 1],
        [1, 1],
        [1, 1],
        False,
        [0, 0],
        1,
        list(ctx.needs_input_grad[:3]),
    )
    return *(None if g is None else g.to(grad.dtype) for g in grads), to_mask, None


conv_gram.register_autograd(_conv_gram_backward, setup_context=_keep_images)
