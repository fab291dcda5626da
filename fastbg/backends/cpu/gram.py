"""Gram family in C++ (csrc/cpu/gram*.cpp, conv_gram.cpp)."""

import torch
from torch import Tensor

from fastbg.backends.cpu import native
from fastbg.backends.tensor_view import view


def gram(features: Tensor, mask: Tensor | None) -> Tensor:
    """sum over pixels of mask * f f^T: (B,M,C,C)."""
    channels = features.shape[1]
    out = features.new_empty((len(features), _regions(mask), channels, channels))
    native().gram(view(features), _view(mask), view(out), torch.get_num_threads())
    return out


def conv_gram(images: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """Gram matrices of relu(conv 3x3 (images)), which is not stored: (B,M,64,64)."""
    channels = len(weight)
    taps = weight.permute(1, 2, 3, 0).reshape(-1, channels).float().contiguous()  # [27,64]
    offsets = bias.float().contiguous()
    out = images.new_empty((len(images), _regions(mask), channels, channels))
    native().conv_gram(
        *map(view, (images, taps, offsets)), _view(mask), view(out), torch.get_num_threads()
    )
    return out


def _regions(mask: Tensor | None) -> int:
    return 1 if mask is None else mask.shape[1]


def _view(mask: Tensor | None) -> object:
    return None if mask is None else view(mask)
