"""Gram family on Triton kernels: allocate, then launch on the tensors' device."""

import torch
from torch import Tensor

from fastbg.kernels.gram import launch_conv_gram, launch_gram


def gram(features: Tensor, mask: Tensor | None) -> Tensor:
    """sum over pixels of mask * f f^T: (B,M,C,C)."""
    channels = features.shape[1]
    out = features.new_empty((len(features), _regions(mask), channels, channels))
    with torch.cuda.device_of(features):
        launch_gram(features, mask, out)
    return out


def conv_gram(images: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """Gram matrices of relu(conv 3x3 (images)), which is not stored: (B,M,64,64)."""
    channels = len(weight)
    taps = weight.permute(1, 2, 3, 0).reshape(-1, channels).float().contiguous()  # [27,64]
    out = images.new_empty((len(images), _regions(mask), channels, channels))
    with torch.cuda.device_of(images):
        launch_conv_gram(images, taps, bias.float().contiguous(), mask, out)
    return out


def _regions(mask: Tensor | None) -> int:
    return 1 if mask is None else mask.shape[1]
