"""Stacks of 3x3 convolutions in plain PyTorch: the reference of csrc/cpu/conv_stack.cpp."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from fastbg.backends.stack_layers import Attention, kept_bytes, parted, split
from fastbg.backends.torch_reference.conv import conv3x3
from fastbg.geometry import Box, Patch


def conv_stack(
    x: Tensor,
    parameters: Sequence[Tensor],
    layers: Sequence[int],
    scales: Sequence[float],
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The last layer's box; nothing is stored for the gradient, but the buffer has its size."""
    maps = [Patch(x, Box(0, 0, *x.shape[-2:]))]
    height, width = x.shape[-2:]
    rows = split(layers)
    weights, biases, attentions = parted(parameters, len(rows))
    for layer, scale, weight, bias in zip(rows, scales, weights, biases, strict=True):
        seen = Box(0, 0, height, width) if layer.attention >= 0 else layer.box
        near = maps[-1].cut(seen.grow(1, height, width))
        y = conv3x3(near.data, weight, bias, None, 1.0, bool(layer.relu), layer.upscale)
        if layer.attention >= 0:
            y = y * channel_weights(y, attentions[layer.attention])
        patch = Patch(y, near.box.refine(layer.upscale)).cut(layer.box.refine(layer.upscale))
        if layer.residual >= 0:
            residual = maps[layer.residual].cut(patch.box)
            patch = Patch(residual.data + scale * patch.data, patch.box)
        maps.append(patch)
        height, width = height * layer.upscale, width * layer.upscale
    size = kept_bytes(len(x), parameters, layers) if keep else 0
    return maps[-1].data, torch.zeros(size, dtype=torch.uint8, device=x.device)


def channel_weights(y: Tensor, attention: Attention) -> Tensor:
    """(B,C,1,1): the sigmoid of a hidden layer of the means over the map."""
    mean = y.mean(dim=(2, 3), keepdim=True)
    hidden = torch.relu(conv2d(mean, attention.squeeze, attention.squeeze_bias))
    return torch.sigmoid(conv2d(hidden, attention.excite, attention.excite_bias))


def conv_stack_gradient(
    grad: Tensor,
    x: Tensor,
    kept: Tensor | None,
    parameters: Sequence[Tensor],
    layers: Sequence[int],
    scales: Sequence[float],
) -> Tensor:
    """Gradient to x; the forward pass is computed again."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = conv_stack(x, [p.detach() for p in parameters], layers, scales, False)[0]
        return torch.autograd.grad(y, x, grad)[0]
