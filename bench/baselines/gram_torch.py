"""Plain PyTorch Gram matrices, twice.

`naive_*`: as style-transfer code is written: conv2d, relu, flatten, bmm with the transpose.
`good_*`: the same channels_last, ReLU in place, whose feature map bmm takes without a copy.
"""

import torch
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
