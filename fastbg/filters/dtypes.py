"""Number formats: the dtype of accumulation, and 8-bit images as floats."""

import torch
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64; everything else accumulates in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def as_float(source: Tensor) -> Tensor:
    """8-bit grey levels as [0,1]; floats unchanged."""
    return source.float() / 255 if source.dtype == torch.uint8 else source


def as_uint8(image: Tensor) -> Tensor:
    """[0,1] as 8-bit grey levels, clipped and rounded in float32; 8-bit ones unchanged."""
    if image.dtype == torch.uint8:
        return image
    return (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
