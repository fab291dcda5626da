"""Arguments that the GPU backends of the 3x3 convolution share."""

import torch
from torch import Tensor


def gated(grad: Tensor, gate: Tensor | None) -> Tensor:
    """`grad`, but 0 where the ReLU's result `gate` is 0; unchanged if `gate` is None."""
    return grad if gate is None else torch.where(gate <= 0, 0, grad)


def empty_maps(like: Tensor, batch: int, channels: int, height: int, width: int) -> Tensor:
    """Uninitialised maps (B,C,H,W), channels_last."""
    return like.new_empty((batch, height, width, channels)).permute(0, 3, 1, 2)
