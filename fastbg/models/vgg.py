"""The first layer of VGG16; its features are those of the Gram matrices in section 6.1."""

from functools import cache
from importlib.resources import files

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Of RGB images in [0,1]: what torchvision's VGG16 was trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def conv1_1(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight (64,3,3,3) and bias (64) of conv1_1; origin in assets/weights/vgg16_conv1_1.md."""
    weight, bias = (torch.tensor(array, dtype=dtype, device=device) for array in _arrays())
    return weight, bias


@cache
def _arrays() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    asset = files("fastbg") / "assets" / "weights" / "vgg16_conv1_1.npz"
    with asset.open("rb") as file, np.load(file) as stored:
        return stored["weight"], stored["bias"]


def imagenet_normalised(images: Tensor) -> Tensor:
    """RGB images (B,3,H,W) in [0,1], normalised as VGG16 expects."""
    mean, std = (
        torch.tensor(values, dtype=images.dtype, device=images.device).view(3, 1, 1)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (images - mean) / std
