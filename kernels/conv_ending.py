"""What a launch of the 3x3 convolution reads, and what it does after its product.

Without Triton: the CUDA backend describes its launches so, too.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Placed:
    """A map (B,C,h,w), any strides, and the position in it of the first computed pixel.

    Pixels outside of the map count as 0.
    """

    map: Tensor
    down: int = 0
    right: int = 0


@dataclass(frozen=True)
class Ending:
    """Operations after the product: ``gated(residual + scale * relu(product + bias))``."""

    bias: Tensor | None = None  # contiguous
    relu: bool = False
    scale: float = 1.0
    residual: Placed | None = None
    gate: Tensor | None = None  # shape of the result, which is set to 0 where `gate` <= 0
    sums: Tensor | None = None  # each channel's sums over blocks of pixels, float32, to be filled
