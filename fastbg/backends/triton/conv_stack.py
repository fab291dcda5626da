"""Stacks of 3x3 convolutions with Triton kernels; maps are channels_last."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastbg.backends.stack_layers import Attention, Layer
from fastbg.backends.stack_passes import StackKernels, backward, forward
from fastbg.backends.triton.conv import pack, run
from fastbg.kernels.conv import Filter, Packed, pixel_blocks
from fastbg.kernels.conv_ending import Ending, Placed
from fastbg.kernels.conv_stack import plan_attention, plan_attention_gradient


def conv_stack(
    x: Tensor,
    parameters: Sequence[Tensor],
    layers: Sequence[int],
    scales: Sequence[float],
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The last layer's box, and what the gradient needs (`kept_maps`; empty without `keep`)."""
    return forward(Kernels(), x, parameters, layers, scales, keep)


def conv_stack_gradient(
    grad: Tensor,
    x: Tensor,
    kept: Tensor | None,
    parameters: Sequence[Tensor],
    layers: Sequence[int],
    scales: Sequence[float],
) -> Tensor:
    """Gradient to x; what the forward pass has not stored is computed again."""
    return backward(Kernels(), grad, x, kept, parameters, layers, scales)


class Kernels(StackKernels[Packed]):
    """Launches in the current precision."""

    def pack(
        self, weights: Sequence[Tensor], rows: Sequence[Layer], transposed: bool
    ) -> list[Packed]:
        """All weights in one launch."""
        pairs = zip(weights, rows, strict=True)
        return pack([Filter(w, row.upscale, transposed) for w, row in pairs])

    def convolve(self, x: Placed, weight: Packed, end: Ending, out: Tensor) -> None:
        """One launch."""
        run(x, weight, end, out)

    def empty_sums(self, x: Tensor, weight: Packed, height: int, width: int) -> Tensor:
        """(B, blocks of pixels, padded channels)."""
        channels = weight.filter.padded(weight.precision)[0]
        size = len(x), pixel_blocks(height, width), channels
        return torch.empty(size, dtype=torch.float32, device=x.device)

    def attend(
        self,
        y: Tensor,
        residual: Tensor,
        sums: Tensor,
        attention: Attention,
        scale: float,
        map_pixels: int,
        means: Tensor,
        out: Tensor,
    ) -> None:
        """One launch."""
        with torch.cuda.device_of(out):
            plan_attention(y, residual, sums, attention, scale, map_pixels, means, out).run()

    def attend_gradient(
        self,
        grad: Tensor,
        down: int,
        right: int,
        y: Tensor,
        means: Tensor,
        attention: Attention,
        scale: float,
        out: Tensor,
    ) -> None:
        """Two"""
        with torch.cuda.device_of(out):
            for launch in plan_attention_gradient(
                grad, down, right, y, means, attention, scale, out
            ):
                launch.run()
