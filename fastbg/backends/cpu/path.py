"""Path family in C++ (csrc/cpu/path.cpp, path_detector.cpp)."""

import torch
from torch import Tensor

from fastbg.backends.cpu import floats, native
from fastbg.backends.tensor_view import view


def blur_path(image: Tensor, taps: Tensor) -> Tensor:
    """Nodes (B,K,C,H,W): `image` filtered with taps[k] along both axes."""
    b, *size = image.shape
    out = torch.empty((b, len(taps), *size), dtype=image.dtype, device="cpu")
    native().blur_path(*map(view, (image, taps, out)), torch.get_num_threads())
    return out


def path_integral(gradients: Tensor, image: Tensor, change: Tensor, level: Tensor) -> Tensor:
    """Sum over k of gradients[:, k] times step k, which is not stored: (B,C,H,W)."""
    out = torch.empty(image.shape, dtype=image.dtype, device="cpu")
    native().path_integral(
        *map(view, (gradients, image, change, level, out)), torch.get_num_threads()
    )
    return out


def gradient_detector(sr: Tensor, windows: Tensor) -> Tensor:
    """Sum of the gradient lengths in each window: (B) float32."""
    out = floats(sr.shape[0])
    native().gradient_detector(*map(view, (sr, windows, out)), torch.get_num_threads())
    return out


def gradient_detector_backward(grad: Tensor, sr: Tensor, windows: Tensor) -> Tensor:
    """Gradient (B,C,H,W) to `sr`, zero outside the windows."""
    out = torch.empty(sr.shape, dtype=sr.dtype, device="cpu")
    native().gradient_detector_backward(
        *map(view, (grad, sr, windows, out)), torch.get_num_threads()
    )
    return out
