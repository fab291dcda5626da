"""Kernels of channel attention (Zhang et al., ECCV 2018): B images, C channels, S hidden values.

The preceding convolution stores each channel's sums over blocks of pixels in `sums`. From these
every program computes its image's channel weights, which takes less time than a separate launch,
and multiplies some of the pixels by them. Sums are added in a fixed order without atomics, so that
every run gives the same bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .conv import pixel_blocks, strides
from .launch import Launch
from .launch_configs import AttentionConfig
from .workloads import Workload, workload


@triton.jit
def added(sums_ptr, blocks, stride, lane, mask):
    """Each channel's sum over the blocks of an image, added in order."""
    total = tl.zeros_like(lane).to(tl.float32)
    for _ in range(blocks):
        total += tl.load(sums_ptr + lane, mask=mask, other=0.0)
        sums_ptr += stride
    return total


@triton.jit
def hidden_value(mean, squeeze_ptr, squeeze_bias_ptr, s, channels, lane, mask):
    """Value s of the hidden layer, before its ReLU."""
    row = tl.load(squeeze_ptr + s * channels + lane, mask=mask, other=0.0).to(tl.float32)
    return tl.sum(row * mean, 0) + tl.load(squeeze_bias_ptr + s).to(tl.float32)


@triton.jit
def channel_weights(
    mean, squeeze_ptr, squeeze_bias_ptr, excite_ptr, excite_bias_ptr, channels, squeezed, lane, mask
):
    """sigmoid(excite relu(squeeze mean + squeeze_bias) + excite_bias), for each channel."""
    total = tl.load(excite_bias_ptr + lane, mask=mask, other=0.0).to(tl.float32)
    for s in range(squeezed):
        hidden = hidden_value(mean, squeeze_ptr, squeeze_bias_ptr, s, channels, lane, mask)
        hidden = tl.where(hidden < 0, 0.0, hidden)
        column = tl.load(excite_ptr + lane * squeezed + s, mask=mask, other=0.0).to(tl.float32)
        total += column * hidden
    return 1 / (1 + tl.exp(-total))


@triton.jit
def offsets(image, p, c, width, stride_n, stride_c, stride_y, stride_x):
    """Offsets (pixels, channels) of the pixels p of a box, whose rows are `width` wide."""
    at = (p // width).to(tl.int64) * stride_y + (p % width).to(tl.int64) * stride_x
    return image * stride_n + at[:, None] + c[None, :].to(tl.int64) * stride_c


@triton.jit
def attention_fwd_kernel(
    y_ptr, residual_ptr, sums_ptr, means_ptr, out_ptr,
    squeeze_ptr, squeeze_bias_ptr, excite_ptr, excite_bias_ptr,
    scale, channels, squeezed, blocks, sums_stride, map_pixels, pixels, width, shares,
    y_stride_n, y_stride_c, y_stride_y, y_stride_x,
    residual_stride_n, residual_stride_c, residual_stride_y, residual_stride_x,
    out_stride_n, out_stride_c, out_stride_y, out_stride_x,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out = residual + scale * weights * y, on a box; means (B,C) of y over its whole map."""
    program = tl.program_id(0)
    image = (program // shares).to(tl.int64)
    lane = tl.arange(0, BLOCK_C)
    mask = lane < channels
    mean = added(sums_ptr + image * blocks * sums_stride, blocks, sums_stride, lane, mask)
    mean /= map_pixels
    tl.store(means_ptr + image * channels + lane, mean, mask=mask & (program % shares == 0))
    weights = scale * channel_weights(
        mean, squeeze_ptr, squeeze_bias_ptr, excite_ptr, excite_bias_ptr, channels, squeezed,
        lane, mask,
    )  # fmt: skip
    for start in range(program % shares * BLOCK_P, pixels, shares * BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        kept = (p < pixels)[:, None] & mask[None, :]
        at = offsets(image, p, lane, width, y_stride_n, y_stride_c, y_stride_y, y_stride_x)
        y = tl.load(y_ptr + at, mask=kept, other=0.0).to(tl.float32)
        at = offsets(
            image, p, lane, width,
            residual_stride_n, residual_stride_c, residual_stride_y, residual_stride_x,
        )  # fmt: skip
        residual = tl.load(residual_ptr + at, mask=kept, other=0.0).to(tl.float32)
        value = residual + weights[None, :] * y
        at = offsets(image, p, lane, width, out_stride_n, out_stride_c, out_stride_y, out_stride_x)
        tl.store(out_ptr + at, value.to(out_ptr.dtype.element_ty), mask=kept)


@triton.jit
def attention_dot_kernel(
    grad_ptr, y_ptr, sums_ptr, channels, pixels, width, blocks,
    grad_stride_n, grad_stride_c, grad_stride_y, grad_stride_x,
    y_stride_n, y_stride_c, y_stride_y, y_stride_x,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """sums[image, block, channel] of grad * y over a box: the gradient to the channel weights."""
    program = tl.program_id(0)
    image = (program // blocks).to(tl.int64)
    lane = tl.arange(0, BLOCK_C)
    mask = lane < channels
    p = program % blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    kept = (p < pixels)[:, None] & mask[None, :]
    at = offsets(image, p, lane, width, grad_stride_n, grad_stride_c, grad_stride_y, grad_stride_x)
    grad = tl.load(grad_ptr + at, mask=kept, other=0.0).to(tl.float32)
    at = offsets(image, p, lane, width, y_stride_n, y_stride_c, y_stride_y, y_stride_x)
    y = tl.load(y_ptr + at, mask=kept, other=0.0).to(tl.float32)
    tl.store(sums_ptr + program.to(tl.int64) * channels + lane, tl.sum(grad * y, 0), mask=mask)


@triton.jit
def attention_bwd_kernel(
    grad_ptr, means_ptr, sums_ptr, out_ptr,
    squeeze_ptr, squeeze_bias_ptr, excite_ptr, excite_bias_ptr,
    scale, channels, squeezed, blocks, pixels, width, shares,
    grad_height, grad_width, grad_down, grad_right,
    grad_stride_n, grad_stride_c, grad_stride_y, grad_stride_x,
    out_stride_n, out_stride_c, out_stride_y, out_stride_x,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradient to all of y, from `grad` on a box that starts at (-grad_down, -grad_right)."""
    program = tl.program_id(0)
    image = (program // shares).to(tl.int64)
    lane = tl.arange(0, BLOCK_C)
    mask = lane < channels
    mean = tl.load(means_ptr + image * channels + lane, mask=mask, other=0.0)
    weights = channel_weights(
        mean, squeeze_ptr, squeeze_bias_ptr, excite_ptr, excite_bias_ptr, channels, squeezed,
        lane, mask,
    )  # fmt: skip
    to_weights = scale * added(sums_ptr + image * blocks * channels, blocks, channels, lane, mask)
    to_excited = tl.where(mask, to_weights * weights * (1 - weights), 0.0)
    to_mean = tl.zeros([BLOCK_C], tl.float32)
    for s in range(squeezed):
        hidden = hidden_value(mean, squeeze_ptr, squeeze_bias_ptr, s, channels, lane, mask)
        column = tl.load(excite_ptr + lane * squeezed + s, mask=mask, other=0.0).to(tl.float32)
        to_hidden = tl.where(hidden <= 0, 0.0, tl.sum(column * to_excited, 0))
        row = tl.load(squeeze_ptr + s * channels + lane, mask=mask, other=0.0).to(tl.float32)
        to_mean += row * to_hidden
    to_mean /= pixels
    c = lane.to(tl.int64)[None, :]
    for start in range(program % shares * BLOCK_P, pixels, shares * BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        kept = (p < pixels)[:, None] & mask[None, :]
        y = p // width + grad_down
        x = p % width + grad_right
        there = (y >= 0) & (y < grad_height) & (x >= 0) & (x < grad_width)
        at = y.to(tl.int64) * grad_stride_y + x.to(tl.int64) * grad_stride_x
        at = image * grad_stride_n + at[:, None] + c * grad_stride_c
        grad = tl.load(grad_ptr + at, mask=kept & there[:, None], other=0.0).to(tl.float32)
        value = (scale * weights)[None, :] * grad + to_mean[None, :]
        at = offsets(image, p, lane, width, out_stride_n, out_stride_c, out_stride_y, out_stride_x)
        tl.store(out_ptr + at, value.to(out_ptr.dtype.element_ty), mask=kept)


Parameters = tuple[
    Tensor, Tensor, Tensor, Tensor
]  # squeeze (S,C), its bias, excite (C,S), its bias


def plan_attention(
    y: Tensor, residual: Tensor, sums: Tensor, parameters: Parameters, scale: float,
    map_pixels: int, means: Tensor, out: Tensor,
) -> Launch:  # fmt: skip
    """The launch that fills `out` (B,C,h,w) and means (B,C) float32.

    `y` and `residual` (B,C,h,w) are on the same box. `sums` (B,blocks,>= C) float32 are those of
    the whole map, with `map_pixels` pixels, that `y` is a part of. Parameters must be contiguous.
    """
    config, (height, width) = AttentionConfig(), out.shape[2:]
    arguments: dict[str, Tensor | int | float] = {
        "y_ptr": y,
        "residual_ptr": residual,
        "sums_ptr": sums,
        "means_ptr": means,
        "out_ptr": out,
        **named(parameters),
        "scale": scale,
        "channels": out.shape[1],
        "squeezed": len(parameters[0]),
        "blocks": sums.shape[1],
        "sums_stride": sums.shape[2],
        "map_pixels": map_pixels,
        "pixels": height * width,
        "width": width,
        "shares": config.shares(height, width),
        **strides("y_", y),
        **strides("residual_", residual),
        **strides("out_", out),
    }
    programs = len(out) * config.shares(height, width)
    constants = config.constants(out.shape[1])
    return Launch(attention_fwd_kernel, programs, arguments, constants, config.num_warps)


def plan_attention_gradient(
    grad: Tensor, down: int, right: int, y: Tensor, means: Tensor, parameters: Parameters,
    scale: float, out: Tensor,
) -> tuple[Launch, Launch]:  # fmt: skip
    """The launches that fill `out`: the gradient to the whole map `y` (B,C,H,W).

    `grad` (B,C,h,w) is the gradient to a box of the result; its first pixel is at (down, right).
    """
    config, (height, width) = AttentionConfig(), out.shape[2:]
    _, channels, grad_height, grad_width = grad.shape
    seen = y[..., down : down + grad_height, right : right + grad_width]
    blocks = -(-(grad_height * grad_width) // config.block_p)
    sums = torch.empty((len(y), blocks, channels), dtype=torch.float32, device=y.device)
    constants = config.constants(channels)
    dot: dict[str, Tensor | int | float] = {
        "grad_ptr": grad,
        "y_ptr": seen,
        "sums_ptr": sums,
        "channels": channels,
        "pixels": grad_height * grad_width,
        "width": grad_width,
        "blocks": blocks,
        **strides("grad_", grad),
        **strides("y_", seen),
    }
    arguments: dict[str, Tensor | int | float] = {
        "grad_ptr": grad,
        "means_ptr": means,
        "sums_ptr": sums,
        "out_ptr": out,
        **named(parameters),
        "scale": scale,
        "channels": channels,
        "squeezed": len(parameters[0]),
        "blocks": blocks,
        "pixels": height * width,
        "width": width,
        "shares": config.shares(height, width),
        "grad_height": grad_height,
        "grad_width": grad_width,
        "grad_down": -down,
        "grad_right": -right,
        **strides("grad_", grad),
        **strides("out_", out),
    }
    programs = len(y) * config.shares(height, width)
    return (
        Launch(attention_dot_kernel, len(y) * blocks, dot, constants, config.num_warps),
        Launch(attention_bwd_kernel, programs, arguments, constants, config.num_warps),
    )


def named(parameters: Parameters) -> dict[str, Tensor | int | float]:
    names = "squeeze_ptr", "squeeze_bias_ptr", "excite_ptr", "excite_bias_ptr"
    return dict(zip(names, parameters, strict=True))


def workloads() -> list[Workload]:
    """RCAN's attention on 100 LR images of 32x32."""
    y = torch.empty((100, 32, 32, 64), device="meta").permute(0, 3, 1, 2)
    sums, means = y.new_empty(100, pixel_blocks(32, 32), 64), y.new_empty(100, 64)
    parameters = y.new_empty(4, 64), y.new_empty(4), y.new_empty(64, 4), y.new_empty(64)
    forward = plan_attention(y, y, sums, parameters, 1.0, 32 * 32, means, y)
    dot, backward = plan_attention_gradient(y, 0, 0, y, means, parameters, 1.0, y)
    return [
        workload(forward, "fp32", [y, y, y]),
        workload(dot, "fp32", [y, y]),
        workload(backward, "fp32", [y, y]),
    ]
