"""CUDA C++ backend of the Gram family (csrc/cuda/gram.cu)."""

import torch
from torch import Tensor

from fastbg.backends.cuda import launching_on, native
from fastbg.backends.gram_arguments import empty_grams, taps_of
from fastbg.backends.tensor_view import optional_view, view


def gram(features: Tensor, mask: Tensor | None) -> Tensor:
    """sum over pixels of mask * f f^T: (B,M,C,C)."""
    out = empty_grams(features, mask, features.shape[1])
    arguments = view(features), optional_view(mask)
    scratch = _workspace(native().gram_workspace(*arguments, view(out)), out)
    with launching_on(features.device) as stream:
        native().gram(*arguments, view(scratch), view(out), stream)
    return out


def conv_gram(images: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """Gram matrices of relu(conv 3x3 (images)), which is not stored: (B,M,64,64)."""
    taps = taps_of(weight)
    offsets = bias.float().contiguous()
    out = empty_grams(images, mask, len(weight))
    arguments = *map(view, (images, taps, offsets)), optional_view(mask)
    scratch = _workspace(native().conv_gram_workspace(*arguments, view(out)), out)
    with launching_on(images.device) as stream:
        native().conv_gram(*arguments, view(scratch), view(out), stream)
    return out


def _workspace(floats: int, like: Tensor) -> Tensor:
    """Partial sums: freed with this call, used again by the stream's next one."""
    return torch.empty(floats, dtype=torch.float32, device=like.device)
