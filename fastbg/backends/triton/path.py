"""Path family on Triton kernels: allocate, then launch on the tensors' device."""

import torch
from torch import Tensor

from fastbg.errors import InvalidArgument
from fastbg.kernels import path as kernels

MAX_RADIUS = 6  # from 7 on, the sums of the taps no longer fit in registers


def blur_path(image: Tensor, taps: Tensor) -> Tensor:
    """Nodes (B,K,C,H,W): `image` filtered with taps[k] along both axes."""
    check_radius(taps)
    b, *size = image.shape
    out = image.new_empty((b, taps.shape[0], *size))
    products = tap_products(taps, taps)
    with torch.cuda.device_of(image):
        kernels.plan_blur_path(image, products, taps.shape[1] // 2, out).run()
    return out


def path_integral(gradients: Tensor, image: Tensor, change: Tensor, level: Tensor) -> Tensor:
    """Sum over k of gradients[:, k] times step k, which is not stored: (B,C,H,W)."""
    check_radius(change)
    out = image.new_empty(image.shape)
    products = tap_products(change, level)
    with torch.cuda.device_of(image):
        kernels.plan_path_integral(gradients, image, products, change.shape[1] // 2, out).run()
    return out


def tap_products(rows: Tensor, columns: Tensor) -> Tensor:
    """``rows[:, i] * columns[:, j]`` of symmetric taps (K,k), from the middle on; one launch."""
    radius = rows.shape[1] // 2
    out = rows.new_empty((rows.shape[0], radius + 1, radius + 1))
    return torch.mul(rows[:, radius:, None], columns[:, None, radius:], out=out)


def check_radius(taps: Tensor) -> None:
    """Raises InvalidArgument for wider kernels than registers hold."""
    if taps.shape[1] > 2 * MAX_RADIUS + 1:
        expected = f"at most {2 * MAX_RADIUS + 1} on the triton backend"
        raise InvalidArgument("kernel_size", taps.shape[1], expected)


def gradient_detector(sr: Tensor, windows: Tensor) -> Tensor:
    """Sum of the gradient lengths in each window: (B) float32."""
    out = sr.new_empty((sr.shape[0],), dtype=torch.float32)
    with torch.cuda.device_of(sr):
        kernels.plan_gradient_detector(sr, windows, out).run()
    return out


def gradient_detector_backward(grad: Tensor, sr: Tensor, windows: Tensor) -> Tensor:
    """Gradient (B,C,H,W) to `sr`, zero outside the windows."""
    out = sr.new_empty(sr.shape)
    with torch.cuda.device_of(sr):
        kernels.plan_gradient_detector_backward(grad, sr, windows, out).run()
    return out
