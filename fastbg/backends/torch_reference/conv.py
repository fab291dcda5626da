"""3x3 convolution in plain PyTorch: the reference of csrc/cpu/conv.cpp."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, pixel_shuffle

from fastbg.precision import in_precision


@in_precision
def conv3x3(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    residual_scale: float,
    relu: bool,
    upscale: int,
    padding: int = 1,
) -> Tensor:
    """residual + residual_scale * shuffled (relu (conv 3x3 (x) + bias))."""
    y = conv2d(x, weight, bias, padding=padding)
    if relu:
        y = torch.relu(y)
    if upscale > 1:
        y = pixel_shuffle(y, upscale)
    return y if residual is None else residual + residual_scale * y


@in_precision
def conv3x3_input_gradient(
    grad: Tensor, weight: Tensor, gate: Tensor | None, upscale: int
) -> Tensor:
    """Gradient to x of the shuffled relu (conv 3x3 (x)), whose result is `gate`."""
    dtype, grad = grad.dtype, _before(grad, gate, upscale)
    if grad.device.type == "cpu" and dtype in (torch.float16, torch.bfloat16):
        grad, weight = grad.float(), weight.float()  # there PyTorch rounds partial sums
    return conv_transpose2d(grad, weight, padding=1).to(dtype)


@in_precision
def conv3x3_weight_gradient(
    grad: Tensor, x: Tensor, gate: Tensor | None, upscale: int
) -> tuple[Tensor, Tensor]:
    """Gradients to weight (Co,Ci,3,3) and bias (Co) of the same."""
    grad = _before(grad, gate, upscale)
    weight = x.new_empty(grad.shape[1], x.shape[1], 3, 3)
    one, none, wanted = [1, 1], [0, 0], [False, True, False]
    to_weight: Tensor = torch.ops.aten.convolution_backward(
        grad, x, weight, None, one, one, one, False, none, 1, wanted
    )[1]
    return to_weight, grad.sum((0, 2, 3))


def _before(grad: Tensor, gate: Tensor | None, upscale: int) -> Tensor:
    """Gradient with respect to the convolution's output, from that of the fused output."""
    if gate is not None:
        grad = torch.where(gate <= 0, 0, grad)
    return grad if upscale == 1 else unshuffled(grad, upscale)


def unshuffled(y: Tensor, upscale: int) -> Tensor:
    """(B,C*r*r,H,W) of `y` (B,C,r*H,r*W); PyTorch's own does not change an empty batch."""
    batch, channels, height, width = y.shape
    r, down, across = upscale, height // upscale, width // upscale
    blocks = y.reshape(batch, channels, down, r, across, r)
    return blocks.permute(0, 1, 3, 5, 2, 4).reshape(batch, channels * r * r, down, across)
