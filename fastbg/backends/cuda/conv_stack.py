"""Stacks of 3x3 convolutions in CUDA C++ (csrc/cuda/conv_stack.cu, channel_attention.cu)."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from fastbg.backends.cuda import launching_on, native
from fastbg.backends.cuda.conv import check_size
from fastbg.backends.stack_layers import Attention, Layer
from fastbg.backends.stack_passes import StackKernels, backward, forward
from fastbg.backends.tensor_view import View, optional_view, view
from fastbg.errors import InvalidArgument
from fastbg.kernels.conv_ending import Ending, Placed
from fastbg.precision import current

MOST_ATTENDED = 12032  # kMostAttended in csrc/cuda/channel_attention.h
MOST_PIXELS = 2**31 - 2**16  # kMostPixels: of an image whose channels are weighted


def conv_stack(
    x: Tensor,
    parameters: Sequence[Tensor],
    layers: Sequence[int],
    scales: Sequence[float],
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The last layer's box, and what the gradient needs (`kept_maps`; empty without `keep`)."""
    with launching_on(x.device) as stream:
        return forward(Kernels(stream), x, parameters, layers, scales, keep)


def conv_stack_gradient(
    grad: Tensor,
    x: Tensor,
    kept: Tensor | None,
    parameters: Sequence[Tensor],
    layers: Sequence[int],
    scales: Sequence[float],
) -> Tensor:
    """Gradient to x; what the forward pass has not stored is computed again."""
    with launching_on(x.device) as stream:
        return backward(Kernels(stream), grad, x, kept, parameters, layers, scales)


class Packed(NamedTuple):
    """A weight as packed for the kernel."""

    memory: View
    outputs: int  # channels
    read: int  # factor of the pixel shuffle that reading undoes
    written: int  # and of the one that writing applies
    owner: Tensor


class Kernels(StackKernels[Packed]):
    """Launches on a stream, in the current precision."""

    def __init__(self, stream: int) -> None:
        self.stream, self.rounded = stream, current() != "ieee"

    def pack(
        self, weights: Sequence[Tensor], rows: Sequence[Layer], transposed: bool
    ) -> list[Packed]:
        """48 weights in a launch, in each pass, so that a changed one always takes effect."""
        size = native().conv3x3_packed_size
        pairs = list(zip(weights, [row.upscale for row in rows], strict=True))
        sizes = [size(view(weight), upscale, transposed) for weight, upscale in pairs]
        starts = list(accumulate(sizes, initial=0))
        memory = weights[0].new_empty(starts[-1])
        described = tuple((view(w), r, start) for (w, r), start in zip(pairs, starts, strict=False))
        native().conv_stack_pack(described, transposed, self.rounded, view(memory), self.stream)
        packed = []
        for (weight, upscale), own in zip(pairs, memory.split(sizes), strict=True):
            outputs = weight.shape[1] if transposed else len(weight) // upscale**2
            factors = (upscale, 1) if transposed else (1, upscale)
            packed.append(Packed(view(own), outputs, *factors, memory))
        return packed

    def convolve(self, x: Placed, weight: Packed, end: Ending, out: Tensor) -> None:
        """One launch."""
        check_size(out, weight.written)
        residual = end.residual
        native().conv_stack_layer(
            (view(x.map), x.down, x.right),
            weight.read,
            weight.memory,
            optional_view(end.bias),
            end.relu,
            end.scale,
            residual and (view(residual.map), residual.down, residual.right),
            optional_view(end.gate),
            optional_view(end.sums),
            view(out),
            weight.written,
            self.rounded,
            self.stream,
        )

    def empty_sums(self, x: Tensor, weight: Packed, height: int, width: int) -> Tensor:
        """(B, blocks of pixels, padded channels)."""
        size = len(x), *native().conv_stack_sums(weight.outputs, height, width)
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
        _check_attention(attention, map_pixels)
        native().channel_attention(
            view(y),
            view(residual),
            view(sums),
            tuple(map(view, attention)),
            scale,
            map_pixels,
            view(means),
            view(out),
            self.stream,
        )

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
        """Two launches."""
        size = len(y), native().channel_attention_dots(*grad.shape[2:]), y.shape[1]
        dots = torch.empty(size, dtype=torch.float32, device=y.device)
        native().channel_attention_gradient(
            view(grad),
            down,
            right,
            view(y),
            view(means),
            tuple(map(view, attention)),
            scale,
            view(dots),
            view(out),
            self.stream,
        )


def _check_attention(attention: Attention, map_pixels: int) -> None:
    """Raises InvalidArgument for what the kernels of channel attention cannot compute."""
    squeezed, channels = attention.squeeze.shape[:2]
    if 3 * channels + squeezed > MOST_ATTENDED:
        expected = f"3 C + S of at most {MOST_ATTENDED} on the cuda backend"
        raise InvalidArgument("attention", f"{channels} channels, {squeezed} hidden", expected)
    if map_pixels > MOST_PIXELS:
        expected = f"at most {MOST_PIXELS} pixels an image with attention on the cuda backend"
        raise InvalidArgument("x", f"{map_pixels} pixels", expected)
