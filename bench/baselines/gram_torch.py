"""Gram matrices in plain PyTorch and by BLAS's symmetric product.

`naive_*`: as style-transfer code is written: conv2d, relu, flatten, bmm with the transpose.
`good_*`: the same channels_last, ReLU in place, whose feature map bmm takes without a copy.
"""

import torch
from scipy.linalg.blas import ssyrk
from torch import Tensor


def naive_conv_gram(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B,64,64) from contiguous images (B,3,H,W)."""
    features = torch.relu(torch.conv2d(images, weight, bias, padding=1)).flatten(2)
    return torch.bmm(features, features.transpose(1, 2))


def good_conv_gram(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B,64,64) from images and weight in channels_last."""
    features = torch.conv2d(images, weight, bias, padding=1).relu_()
    flat = features.permute(0, 2, 3, 1).flatten(1, 2)  # [B,HW,64], a view
    return torch.bmm(flat.transpose(1, 2), flat)


def bmm_gram(features: Tensor) -> Tensor:
    """(B,C,C) from contiguous features (B,C,N)."""
    return torch.bmm(features, features.transpose(1, 2))


def ssyrk_gram(features: Tensor) -> Tensor:
    """(B,C,C) by BLAS's ssyrk, which computes one triangle; the other is copied from it."""
    result = torch.empty(features.shape[0], features.shape[1], features.shape[1])
    for matrix, out in zip(features, result, strict=True):
        upper = torch.from_numpy(ssyrk(1.0, matrix.numpy().T, trans=1))
        out.copy_(upper).add_(upper.triu(1).T)
    return result
