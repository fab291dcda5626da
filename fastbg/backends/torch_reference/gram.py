"""Reference of the Gram family. B images, C channels, M masks, H x W pixels."""

import torch
from torch import Tensor

from fastbg.filters.dtypes import accumulation_dtype
from fastbg.precision import in_precision


@in_precision
def gram(features: Tensor, mask: Tensor | None) -> Tensor:
    """sum over pixels of mask * f f^T: (B,M,C,C); pixels of weight 0 may hold NaN."""
    dtype = accumulation_dtype(features.dtype)
    counted = weighted = features.to(dtype).flatten(2)[:, None]  # [B,1,C,HW]
    if mask is not None:
        weights = mask.flatten(2)[:, :, None]  # [B,M,1,HW]
        counted = counted.where(weights != 0, 0)
        weighted = counted * weights
    upper = (weighted @ counted.mT).triu()  # [B,M,C,C]
    return (upper + upper.triu(1).mT).to(features.dtype)


@in_precision
def conv_gram(images: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """Gram matrices of relu(conv 3x3 (images)), borders padded with zeros: (B,M,64,64)."""
    dtype = accumulation_dtype(images.dtype)
    wide = torch.conv2d(images.to(dtype), weight.to(dtype), bias.to(dtype), padding=1).relu()
    return gram(wide, mask).to(images.dtype)
