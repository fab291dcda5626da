"""Registration of the path family."""

from typing import Any

import torch
from torch import Tensor

from fastbg.backends.torch_reference import path as reference
from fastbg.backends.torch_reference.path import path_derivative, separable_filter_adjoint
from fastbg.registration.dispatch import implementation
from fastbg.registration.indices import boxes_inside
from fastbg.registration.operator import Operator


@Operator
def blur_path(image: Tensor, taps: Tensor, backend: str) -> Tensor:
    """(B,K,C,H,W): image (B,C,H,W) filtered with taps (K,k) along both axes, reflect-101."""
    result: Tensor = implementation("blur_path", backend, image)(image, taps)
    return result


@blur_path.register_fake
def _(image: Tensor, taps: Tensor, backend: str) -> Tensor:
    return image.new_empty((image.shape[0], taps.shape[0], *image.shape[1:]))


def _keep_taps(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _blur_path_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (taps,) = ctx.saved_tensors
    return separable_filter_adjoint(grad, taps, taps).to(grad.dtype), None, None


blur_path.register_autograd(_blur_path_backward, setup_context=_keep_taps)


@Operator
def path_integral(
    gradients: Tensor, image: Tensor, change: Tensor, level: Tensor, backend: str
) -> Tensor:
    """(B,C,H,W): sum over k of gradients (B,K,C,H,W) times the path's step k.

    Step k is `image` under the kernel change[k] x level[k] + level[k] x change[k].
    """
    run = implementation("path_integral", backend, image)
    result: Tensor = run(gradients, image, change, level)
    return result


@path_integral.register_fake
def _(gradients: Tensor, image: Tensor, change: Tensor, level: Tensor, backend: str) -> Tensor:
    return image.new_empty(image.shape)


def _keep_for_integral(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])


def _path_integral_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    gradients, image, change, level = ctx.saved_tensors
    to_gradients = to_image = None
    if ctx.needs_input_grad[0]:
        steps = path_derivative(image, change, level)
        to_gradients = (grad[:, None] * steps).to(gradients.dtype)
    if ctx.needs_input_grad[1]:
        inner = grad[:, None] * gradients
        to_image = separable_filter_adjoint(inner, change, level)
        to_image = (to_image + separable_filter_adjoint(inner, level, change)).to(image.dtype)
    return to_gradients, to_image, None, None, None


path_integral.register_autograd(_path_integral_backward, setup_context=_keep_for_integral)


def _windows(windows: Tensor, sr: Tensor) -> Tensor:
    height, width = sr.shape[-2:]
    return boxes_inside("windows", windows, height, width, sr.device)


@Operator
def gradient_detector(sr: Tensor, windows: Tensor, backend: str) -> Tensor:
    """(B), at least float32: sum of the gradient lengths of sr (B,C,H,W) in windows (4), (B,4)."""
    run = implementation("gradient_detector", backend, sr)
    result: Tensor = run(sr, _windows(windows, sr))
    return result


@gradient_detector.register_fake
def _(sr: Tensor, windows: Tensor, backend: str) -> Tensor:
    wide = torch.float64 if sr.dtype == torch.float64 else torch.float32
    return sr.new_empty((sr.shape[0],), dtype=wide)


@Operator
def gradient_detector_backward(grad: Tensor, sr: Tensor, windows: Tensor, backend: str) -> Tensor:
    """(B,C,H,W): gradient to `sr` of the dot product of grad (B) and `gradient_detector`."""
    run = implementation("gradient_detector_backward", backend, sr)
    result: Tensor = run(grad, sr, _windows(windows, sr))
    return result


@gradient_detector_backward.register_fake
def _(grad: Tensor, sr: Tensor, windows: Tensor, backend: str) -> Tensor:
    return sr.new_empty(sr.shape)


def _keep_for_detector(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    sr, windows, ctx.backend = inputs
    ctx.save_for_backward(sr, windows)


def _gradient_detector_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return gradient_detector_backward(grad, *ctx.saved_tensors, ctx.backend), None, None


def _keep_for_detector_again(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def _gradient_detector_backward_again(ctx: Any, again: Tensor) -> tuple[Tensor | None, ...]:
    """The second derivative is that of the reference, whatever backend gave the first."""
    grad, sr, windows = ctx.saved_tensors
    box = _windows(windows, sr)

    def derivative(grad: Tensor, sr: Tensor) -> Tensor:
        return reference.gradient_detector_backward(grad, sr, box)

    to_grad, to_sr = torch.func.vjp(derivative, grad, sr)[1](again)
    return to_grad, to_sr, None, None


gradient_detector_backward.register_autograd(
    _gradient_detector_backward_again, setup_context=_keep_for_detector_again
)
gradient_detector.register_autograd(_gradient_detector_backward, setup_context=_keep_for_detector)
