"""Gram family on Triton kernels: allocate, then launch on the tensors' device."""

import torch
from torch import Tensor

from fastbg.backends.gram_arguments import empty_grams, taps_of
from fastbg.kernels.gram import launch_conv_gram, launch_gram


def gram(features: Tensor, mask: Tensor | None) -> Tensor:
    """sum over pixels of mask * f f^T: (B,M,C,C)."""
    out = empty_grams(features, mask, features.shape[1])
    with torch.cuda.device_of(features):
        launch_gram(features, mask, out)
    return out


def conv_gram(images: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """Gram matrices of relu(conv 3x3 (images)), which is not stored: (B,M,64,64)."""
    taps = taps_of(weight)
    out = empty_grams(images, mask, len(weight))
    with torch.cuda.device_of(images):
        launch_conv_gram(images, taps, bias.float().contiguous(), mask, out)
    return out
