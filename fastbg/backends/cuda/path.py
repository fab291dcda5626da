"""CUDA C++ backend of the path family (csrc/cuda/path.cu)."""

import torch
from torch import Tensor

from fastbg.backends.cuda import launching_on, native
from fastbg.backends.tensor_view import view
from fastbg.errors import InvalidArgument

MAX_TAPS = 63  # kMaxRadius in path.h


def _check_taps(taps: Tensor) -> None:
    if taps.shape[1] > MAX_TAPS:
        raise InvalidArgument("kernel_size", taps.shape[1], f"at most {MAX_TAPS} on backend 'cuda'")


def blur_path(image: Tensor, taps: Tensor) -> Tensor:
    """Nodes (B,K,C,H,W): `image` filtered with taps[k] along both axes."""
    _check_taps(taps)
    b, *size = image.shape
    out = torch.empty((b, taps.shape[0], *size), dtype=image.dtype, device=image.device)
    with launching_on(image.device) as stream:
        native().blur_path(*map(view, (image, taps, out)), stream)
    return out


def path_integral(gradients: Tensor, image: Tensor, change: Tensor, level: Tensor) -> Tensor:
    """Sum over k of gradients[:, k] times step k, which is not stored: (B,C,H,W)."""
    _check_taps(change)
    out = torch.empty(image.shape, dtype=image.dtype, device=image.device)
    with launching_on(image.device) as stream:
        native().path_integral(*map(view, (gradients, image, change, level, out)), stream)
    return out


def gradient_detector(sr: Tensor, windows: Tensor) -> Tensor:
    """Sum of the gradient lengths in each window: (B) float32."""
    out = torch.empty(sr.shape[0], dtype=torch.float32, device=sr.device)
    with launching_on(sr.device) as stream:
        native().gradient_detector(*map(view, (sr, windows, out)), stream)
    return out


def gradient_detector_backward(grad: Tensor, sr: Tensor, windows: Tensor) -> Tensor:
    """Gradient (B,C,H,W) to `sr`, zero outside the windows."""
    out = torch.empty(sr.shape, dtype=sr.dtype, device=sr.device)
    with launching_on(sr.device) as stream:
        native().gradient_detector_backward(*map(view, (grad, sr, windows, out)), stream)
    return out
