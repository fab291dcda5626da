"""The first layer of VGG16; its features are those of the Gram matrices in section 6.1."""

from importlib.resources import files

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastbg.filters.constants import on_device

# Of RGB images in [0,1]: what torchvision's VGG16 was trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def conv1_1(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight (64,3,3,3) and bias (64) of conv1_1; origin in assets/weights/vgg16_conv1_1.md.

    Every caller's: do not write to them.
    """
    weight, bias = (on_device(torch.from_numpy(table), device, dtype) for table in _TABLES)
    return weight, bias


def _read() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Arrays: a tensor made under inference mode or a fake one would stay so for every caller."""
    asset = files("fastbg") / "assets" / "weights" / "vgg16_conv1_1.npz"
    with asset.open("rb") as file, np.load(file) as stored:
        return stored["weight"], stored["bias"]


_TABLES = _read()  # at once: torch.compile traces no reading of files


def imagenet_normalised(images: Tensor) -> Tensor:
    """RGB images (B,3,H,W) in [0,1], normalised as VGG16 expects."""
    mean, std = (
        on_device(
            torch.tensor(values, dtype=torch.float64, device="cpu"), images.device, images.dtype
        )
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
