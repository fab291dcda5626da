"""The 3x3 convolution of the networks, with the ReLU, sum or pixel shuffle that follows it."""

import torch
from torch import Tensor, nn

from fastbg.ops.conv import conv3x3
from fastbg.registration.conv import plain


class Conv3x3(nn.Conv2d):
    """``nn.Conv2d(inputs, outputs, 3, padding=1)`` and what follows it, see `fastbg.conv3x3`.

    In float32 on CPUs one Winograd kernel computes it, elsewhere cuDNN or oneDNN.
    `fused` False runs PyTorch's own functions everywhere.
    """

    fused = True

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(
        self,
        x: Tensor,
        *,
        relu: bool = False,
        residual: Tensor | None = None,
        residual_scale: float = 1.0,
        upscale: int = 1,
    ) -> Tensor:
        """(B,Co/r^2,r*H,r*W) of `x` (B,Ci,H,W)."""
        fast = self.fused and x.device.type == "cpu" and x.dtype == torch.float32
        if not fast or torch.is_autocast_enabled("cpu"):
            return plain(x, self.weight, self.bias, residual, residual_scale, relu, upscale)
        return conv3x3(
            x,
            self.weight,
            self.bias,
            relu=relu,
            residual=residual,
            residual_scale=residual_scale,
            upscale=upscale,
        )
