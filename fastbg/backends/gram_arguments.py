"""Arguments that all compiled backends of the Gram family share."""

from torch import Tensor


def empty_grams(images: Tensor, mask: Tensor | None, channels: int) -> Tensor:
    """Memory for the result (B,M,C,C), M = 1 without a mask."""
    regions = 1 if mask is None else mask.shape[1]
    return images.new_empty((images.shape[0], regions, channels, channels))


def taps_of(weight: Tensor) -> Tensor:
    """Weights (C,3,3,3) as (27,C) float32: tap (channel, row, column) outermost."""
    return weight.permute(1, 2, 3, 0).reshape(-1, weight.shape[0]).float().contiguous()
