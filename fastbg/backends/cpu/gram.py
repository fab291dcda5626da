"""Gram family in C++ (csrc/cpu/gram*.cpp, conv_gram.cpp)."""

import torch
from torch import Tensor

from fastbg.backends.cpu import native
from fastbg.backends.gram_arguments import empty_grams, taps_of
from fastbg.backends.tensor_view import optional_view, view


def gram(features: Tensor, mask: Tensor | None) -> Tensor:
    """sum over pixels of mask * f f^T: (B,M,C,C)."""
    out = empty_grams(features, mask, features.shape[1])
    native().gram(view(features), optional_view(mask), view(out), torch.get_num_threads())
    return out


def conv_gram(images: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """Gram matrices of relu(conv 3x3 (images)), which is not stored: (B,M,64,64)."""
    taps = taps_of(weight)
    offsets = bias.float().contiguous()
    out = empty_grams(images, mask, len(weight))
    native().conv_gram(
        *map(view, (images, taps, offsets)), optional_view(mask), view(out), torch.get_num_threads()
    )
    return out
