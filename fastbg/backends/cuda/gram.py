"""CUDA C++ backend of the Gram family (csrc/cuda/gram.cu)."""

import torch
from torch import Tensor

from fastbg.backends.cuda import launching_on, native
from fastbg.backends.tensor_view import View, view


def gram(features: Tensor, mask: Tensor | None) -> Tensor:
    """sum over pixels of mask * f f^T: (B,M,C,C)."""
    channels = features.shape[1]
    out = features.new_empty((len(features), _regions(mask), channels, channels))
    arguments = view(features), _view(mask)
    scratch = _workspace(native().gram_workspace(*arguments, view(out)), out)
    with launching_on(features.device) as stream:
        native().gram(*arguments, view(scratch), view(out), stream)
    return out


def conv_gram(images: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """Gram matrices of relu(conv 3x3 (images)), which is not stored: (B,M,64,64)."""
    channels = len(weight)
    taps = weight.permute(1, 2, 3, 0).reshape(-1, channels).float().contiguous()  # [27,64]
    offsets = bias.float().contiguous()
    out = images.new_empty((len(images), _regions(mask), channels, channels))
    arguments = *map(view, (images, taps, offsets)), _view(mask)
    scratch = _workspace(native().conv_gram_workspace(*arguments, view(out)), out)
    with launching_on(images.device) as stream:
        native().conv_gram(*arguments, view(scratch), view(out), stream)
    return out


def _regions(mask: Tensor | None) -> int:
    return 1 if mask is None else mask.shape[1]


def _view(mask: Tensor | None) -> View | None:
    return None if mask is None else view(mask)


def _workspace(floats: int, like: Tensor) -> Tensor:
    """Partial sums: freed with this call, used again by the stream's next one."""
    return torch.empty(floats, dtype=torch.float32, device=like.device)
