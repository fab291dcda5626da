"""Reference of the Gram family. B images, C channels, M masks, H x W pixels."""

import torch
from torch import Tensor

from fastbg.backends.torch_reference.composite import ACCUMULATE


def gram(features: Tensor, mask: Tensor | None) -> Tensor:
    """sum over pixels of mask * f f^T: (B,M,C,C)."""
    wide = features.to(ACCUMULATE.get(features.dtype, torch.float32)).flatten(2)  # [B,C,HW]
    weighted = wide[:, None] if mask is None else wide[:, None] * mask.flatten(2)[:, :, None]
    upper = (weighted @ wide.mT[:, None]).triu()  # [B,M,C,C]
    return (upper + upper.triu(1).mT).to(features.dtype)


def conv_gram(images: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """Gram matrices of relu(conv 3x3 (images)), borders padded with zeros: (B,M,64,64)."""
    dtype = ACCUMULATE.get(images.dtype, torch.float32)
    wide = torch.conv2d(images.to(dtype), weight.to(dtype), bias.to(dtype), padding=1).relu()
    return gram(wide, mask).to(images.dtype)
