"""Registration of the Gram family. B images, C channels, M masks, H x W pixels.

A mask arrives as (B,M,H,W) weights, in float32, or float64 for float64 features; without one
M is 1 and every pixel has weight 1.
"""

from typing import Any

import torch
from torch import Tensor

from fastbg.backends.gram_arguments import empty_grams
from fastbg.filters.dtypes import accumulation_dtype
from fastbg.precision import in_precision
from fastbg.registration.conv import (
    conv3x3,
    conv3x3_input_gradient,
    conv3x3_weight_gradient,
)
from fastbg.registration.dispatch import implementation
from fastbg.registration.operator import Operator


@Operator
def gram(features: Tensor, mask: Tensor | None, backend: str) -> Tensor:
    """(B,M,C,C): sum over pixels of mask * f f^T of features (B,C,H,W)."""
    result: Tensor = implementation("gram", backend, features)(features, mask)
    return result


@gram.register_fake
def _(features: Tensor, mask: Tensor | None, backend: str) -> Tensor:
    return empty_grams(features, mask, features.shape[1])


@Operator
def product(a: Tensor, b: Tensor, backend: str) -> Tensor:
    """(B,m,n): a (B,m,k) times b (B,k,n), in plain PyTorch.

    An operator, so that autocast leaves a backward formula alone, and its derivative too; and what
    PyTorch's flags say when backward() is called does not lower it.
    """
    return _multiply(a, b)


@in_precision
def _multiply(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


@product.register_fake
def _(a: Tensor, b: Tensor, backend: str) -> Tensor:
    return a.new_empty(a.shape[0], a.shape[1], b.shape[2])


def _keep_factors(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _product_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    a, b = ctx.saved_tensors
    wants_a, wants_b = ctx.needs_input_grad[:2]
    to_a = product(grad, b.mT, "torch") if wants_a else None
    return to_a, product(a.mT, grad, "torch") if wants_b else None, None


product.register_autograd(_product_backward, setup_context=_keep_factors)


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
        return product(both[:, 0], flat, "torch").view_as(features), None
    weights = mask.flatten(2)  # [B,M,HW]
    to_features: Tensor | None = None
    to_mask: list[Tensor] = []
    for region in range(weights.shape[1]):
        through = product(both[:, region], flat, "torch")
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
    dtype = accumulation_dtype(grad.dtype)
    images, weight, bias = (saved.to(dtype) for saved in ctx.saved_tensors[:3])
    features = conv3x3(images, weight, bias, None, 1.0, True, 1, "torch")
    wants_images, wants_weight, wants_bias, wants_mask = ctx.needs_input_grad[:4]
    to_features, to_mask = _gradients(features, mask, grad.to(dtype), wants_mask)
    grads: list[Tensor | None] = [None, None, None]
    if wants_images:
        grads[0] = conv3x3_input_gradient(to_features, weight, features, 1, "torch")
    if wants_weight or wants_bias:
        both = conv3x3_weight_gradient(to_features, images, features, 1, "torch")
        grads[1:] = (
            g if wanted else None
            for g, wanted in zip(both, (wants_weight, wants_bias), strict=True)
        )
    return *(None if g is None else g.to(grad.dtype) for g in grads), to_mask, None


conv_gram.register_autograd(_conv_gram_backward, setup_context=_keep_images)
