"""Kernels of window attention (Liu et al., ICCV 2021) on maps (B,h,w), heads of D channels each.

Queries, keys and values are read where the layer before stored them, (B,h,w,3 heads D), and results
are written to (B,h,w,heads D): a window finds its pixels by their addresses, so that maps are
neither rolled nor partitioned into windows. Which pixels of a shifted window see each other follows
from their positions, so that there is no mask in memory. The gradient computes softmax again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gram import tf32_parts
from .launch import Launch
from .launch_configs import WindowAttentionConfig
from .workloads import Workload, workload

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def window_pixels(
    window, height, width, down, across, first_y, first_x, wraps_y, wraps_x,
    WINDOW: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The first pixel of a window's image; of each token its pixel there, its region, its place.

    Tokens of one window see each other where their regions agree. Region 4 has no pixels: those
    are tokens outside of the box, and those which fill up the block. `place` is such that the
    difference of two tells their row in the bias table.
    """
    token = tl.arange(0, BLOCK)
    exists = token < WINDOW * WINDOW
    if WINDOW * WINDOW < BLOCK:
        token = tl.minimum(token, WINDOW * WINDOW - 1)
    row = token // WINDOW
    column = token % WINDOW
    y = first_y + window // across % down * WINDOW + row
    x = first_x + window % across * WINDOW + column
    over_y = (y >= height) & (wraps_y != 0)
    over_x = (x >= width) & (wraps_x != 0)
    y = tl.where(over_y, y - height, y)
    x = tl.where(over_x, x - width, x)
    inside = exists & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    region = tl.where(inside, 2 * over_y.to(tl.int32) + over_x.to(tl.int32), 4)
    image = (window // (across * down)).to(tl.int64) * height * width
    if WIDE:
        y, x = y.to(tl.int64), x.to(tl.int64)
    return image, y * width + x, region, row * (2 * WINDOW - 1) + column


@triton.jit
def chunk(ptr, rows, region, first, DEPTH: tl.constexpr, BLOCK_D: tl.constexpr):
    """BLOCK_D channels from `first` on, of each pixel of a window; 0 where there are none."""
    d = first + tl.arange(0, BLOCK_D)[None, :]
    kept = (region < 4)[:, None] & (d < DEPTH)
    return tl.load(ptr + rows[:, None] + d, mask=kept, other=0.0)


@triton.jit
def put(ptr, rows, region, first, value, DEPTH: tl.constexpr, BLOCK_D: tl.constexpr):
    """Stores what `chunk` loads."""
    d = first + tl.arange(0, BLOCK_D)[None, :]
    tl.store(ptr + rows[:, None] + d, value, mask=(region < 4)[:, None] & (d < DEPTH))


@triton.jit
def added_product(a, b, total, PRECISION: tl.constexpr):
    """total + a b.

    Shorter than tl.dot's own tf32x3, which also looks for the NaN that an infinity leaves.
    """
    if PRECISION == "tf32x3":
        a_most, a_rest = tf32_parts(a)
        b_most, b_rest = tf32_parts(b)
        total = tl.dot(a_rest, b_most, total, input_precision="tf32")
        total = tl.dot(a_most, b_rest, total, input_precision="tf32")
        total = tl.dot(a_most, b_most, total, input_precision="tf32")
    else:
        total = tl.dot(a, b, total, input_precision="tf32")
    return total


@triton.jit
def softmax_of(
    q_ptr, k_ptr, rows, table_ptr, scale, place, region,
    HEADS: tl.constexpr, DEPTH: tl.constexpr, WINDOW: tl.constexpr, MASKED: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """exp(logit - the row's largest), and the sums of the rows."""
    logits = tl.zeros([BLOCK, BLOCK], tl.float32)
    for first in tl.range(0, DEPTH, BLOCK_D, num_stages=1):
        q = chunk(q_ptr, rows, region, first, DEPTH, BLOCK_D) * scale
        k = chunk(k_ptr, rows, region, first, DEPTH, BLOCK_D)
        logits = added_product(q, tl.trans(k), logits, PRECISION)
    middle = (WINDOW - 1) * 2 * WINDOW
    bias = (table_ptr + (place + middle) * HEADS)[:, None] - (place * HEADS)[None, :]
    logits += tl.load(bias)
    if MASKED:
        logits = tl.where(region[:, None] == region[None, :], logits, float("-inf"))
    # In powers of two, which take one instruction; rounding of the largest cancels out.
    largest = tl.max(logits, 1) * LOG2_E
    weights = tl.exp2(logits * LOG2_E - largest[:, None])
    return weights, tl.sum(weights, 1)


@triton.jit
def window_attention_fwd_kernel(
    qkv_ptr, table_ptr, out_ptr, scale, height, width, down, across,
    first_y, first_x, wraps_y, wraps_x,
    HEADS: tl.constexpr, DEPTH: tl.constexpr, WINDOW: tl.constexpr, MASKED: tl.constexpr,
    WIDE: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """softmax(scale q k^T + bias) v of a window and head."""
    head = tl.program_id(0) % HEADS
    image, pixel, region, place = window_pixels(
        tl.program_id(0) // HEADS, height, width, down, across, first_y, first_x, wraps_y, wraps_x,
        WINDOW, WIDE, BLOCK,
    )  # fmt: skip
    channels = HEADS * DEPTH
    rows = pixel * (3 * channels)
    q_ptr = qkv_ptr + image * (3 * channels) + head * DEPTH
    out_ptr += image * channels + head * DEPTH
    weights, total = softmax_of(
        q_ptr, q_ptr + channels, rows, table_ptr + head, scale, place, region,
        HEADS, DEPTH, WINDOW, MASKED, PRECISION, BLOCK, BLOCK_D,
    )  # fmt: skip
    for first in tl.range(0, DEPTH, BLOCK_D, num_stages=1):
        v = chunk(q_ptr + 2 * channels, rows, region, first, DEPTH, BLOCK_D)
        out = added_product(weights, v, tl.zeros([BLOCK, BLOCK_D], tl.float32), PRECISION)
        out /= total[:, None]
        put(out_ptr, pixel * channels, region, first, out, DEPTH, BLOCK_D)


@triton.jit
def window_attention_bwd_kernel(
    qkv_ptr, table_ptr, grad_ptr, out_ptr, scale, height, width, down, across,
    first_y, first_x, wraps_y, wraps_x,
    HEADS: tl.constexpr, DEPTH: tl.constexpr, WINDOW: tl.constexpr, MASKED: tl.constexpr,
    WIDE: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):  # fmt: skip
    """Gradient to q, k and v of a window and head, BLOCK_OUT channels at once.

    Each product has a loop of its own: operands of several at once would not fit into registers,
    nor those of the last one on sm_90 with num_stages=1.
    """
    head = tl.program_id(0) % HEADS
    image, pixel, region, place = window_pixels(
        tl.program_id(0) // HEADS, height, width, down, across, first_y, first_x, wraps_y, wraps_x,
        WINDOW, WIDE, BLOCK,
    )  # fmt: skip
    channels = HEADS * DEPTH
    rows = pixel * (3 * channels)
    grad_rows = pixel * channels
    q_ptr = qkv_ptr + image * (3 * channels) + head * DEPTH
    grad_ptr += image * channels + head * DEPTH
    out_ptr += image * (3 * channels) + head * DEPTH
    weights, total = softmax_of(
        q_ptr, q_ptr + channels, rows, table_ptr + head, scale, place, region,
        HEADS, DEPTH, WINDOW, MASKED, PRECISION, BLOCK, BLOCK_D,
    )  # fmt: skip
    weights /= total[:, None]
    none = tl.zeros([BLOCK, BLOCK_OUT], tl.float32)
    to_weights = tl.zeros([BLOCK, BLOCK], tl.float32)
    for first in tl.range(0, DEPTH, BLOCK_OUT, num_stages=1):
        grad = chunk(grad_ptr, grad_rows, region, first, DEPTH, BLOCK_OUT)
        to_v = added_product(tl.trans(weights), grad, none, PRECISION)
        put(out_ptr + 2 * channels, rows, region, first, to_v, DEPTH, BLOCK_OUT)
    for first in tl.range(0, DEPTH, BLOCK_D, num_stages=1):
        grad = chunk(grad_ptr, grad_rows, region, first, DEPTH, BLOCK_D)
        v = chunk(q_ptr + 2 * channels, rows, region, first, DEPTH, BLOCK_D)
        to_weights = added_product(grad, tl.trans(v), to_weights, PRECISION)
    mean = tl.sum(weights * to_weights, 1)
    to_logits = weights * (to_weights - mean[:, None])
    for first in tl.range(0, DEPTH, BLOCK_OUT, num_stages=1):
        k = chunk(q_ptr + channels, rows, region, first, DEPTH, BLOCK_OUT)
        to_q = added_product(to_logits, k, none, PRECISION) * scale
        put(out_ptr, rows, region, first, to_q, DEPTH, BLOCK_OUT)
    to_logits *= scale  # a new matrix: the TF32 parts of the old one need not be held
    for first in tl.range(0, DEPTH, BLOCK_OUT, num_stages=2):
        q = chunk(q_ptr, rows, region, first, DEPTH, BLOCK_OUT)
        to_k = added_product(tl.trans(to_logits), q, none, PRECISION)
        put(out_ptr + channels, rows, region, first, to_k, DEPTH, BLOCK_OUT)


@dataclass(frozen=True)
class Axis:
    """The windows along one side of a box: how many, and where the first one starts in the box.

    Shifted windows at the border of the map hold pixels of both sides of it, or are not full.
    """

    count: int
    first: int
    wraps: bool  # the last window goes on at the box's start

    @classmethod
    def of(cls, start: int, stop: int, size: int, window: int, shift: int) -> "Axis":
        """For pixels start..stop, made of whole windows, of a map with `size` pixels."""
        length = stop - start
        if shift and (start, stop) == (0, size):
            return cls(length // window, shift, True)
        first = shift - window if shift and start == 0 else 0
        return cls(-(-(length - first) // window), first, False)


@dataclass(frozen=True)
class Windows:
    """The attention windows of a step, and its heads."""

    rows: Axis
    columns: Axis
    heads: int
    window: int
    shifted: bool

    @property
    def count(self) -> int:
        """Windows of one image."""
        return self.rows.count * self.columns.count


Arguments = Mapping[str, Tensor | int | float]


def products(precision: str) -> str:
    """How the kernels multiply float32: as networks do, but never in bfloat16."""
    return "tf32" if precision == "tf32" else "tf32x3"


def plan_window_attention(
    qkv: Tensor, table: Tensor, windows: Windows, precision: str, out: Tensor
) -> Launch:
    """The launch that fills `out` (B,h,w,C) from `qkv` (B,h,w,3C); all are contiguous float32."""
    return Launch(
        window_attention_fwd_kernel,
        len(out) * windows.count * windows.heads,
        {"qkv_ptr": qkv, "out_ptr": out, **arguments_of(table, windows, out)},
        constants_of(windows, qkv, precision),
        WindowAttentionConfig().warps(windows.window),
    )


def plan_window_attention_gradient(
    qkv: Tensor, table: Tensor, grad: Tensor, windows: Windows, precision: str, out: Tensor
) -> Launch:
    """The launch that fills `out` (B,h,w,3C): gradient to `qkv` of `grad` (B,h,w,C)."""
    constants = constants_of(windows, qkv, precision)
    constants["BLOCK_OUT"] = WindowAttentionConfig().block_out(grad.shape[-1] // windows.heads)
    return Launch(
        window_attention_bwd_kernel,
        len(out) * windows.count * windows.heads,
        {"qkv_ptr": qkv, "grad_ptr": grad, "out_ptr": out, **arguments_of(table, windows, grad)},
        constants,
        WindowAttentionConfig().warps(windows.window),
    )


def arguments_of(table: Tensor, windows: Windows, like: Tensor) -> Arguments:
    """What both kernels need to know of the windows of a box `like` (B,h,w,C)."""
    _, height, width, channels = like.shape
    return {
        "table_ptr": table,
        "scale": (channels // windows.heads) ** -0.5,
        "height": height,
        "width": width,
        "down": windows.rows.count,
        "across": windows.columns.count,
        "first_y": windows.rows.first,
        "first_x": windows.columns.first,
        "wraps_y": int(windows.rows.wraps),
        "wraps_x": int(windows.columns.wraps),
    }


def constants_of(windows: Windows, qkv: Tensor, precision: str) -> dict[str, int | bool | str]:
    """The constants that both kernels are compiled with."""
    config = WindowAttentionConfig()
    block = config.block(windows.window)
    return {
        "HEADS": windows.heads,
        "DEPTH": qkv.shape[-1] // (3 * windows.heads),
        "WINDOW": windows.window,
        "MASKED": windows.shifted or windows.window**2 != block,
        "WIDE": qkv[:1].numel() >= 2**31,
        "PRECISION": products(precision),
        "BLOCK": block,
        "BLOCK_D": config.block_d,
    }


def workloads() -> list[Workload]:
    """SwinIR on 100 LR images of 32x32: the shipped network, both published ones, other windows."""
    cases = {
        "fp32": Case(64, 4),
        "tf32": Case(64, 4, precision="tf32"),
        "fp32 lightweight": Case(60, 6),
        "fp32 classical": Case(180, 6),
        "fp32 window 4": Case(60, 6, 4),
        "fp32 window 7": Case(96, 3, 7, side=28),
        "fp32 head 64": Case(64, 1),
    }
    return [one for name, case in cases.items() for one in case.works(name)]


@dataclass(frozen=True)
class Case:
    """A shifted step on whole maps for `workloads`, without data."""

    channels: int
    heads: int
    window: int = 8
    precision: str = "ieee"
    side: int = 32

    def works(self, name: str) -> list[Workload]:
        """Both launches."""
        qkv = torch.empty((100, self.side, self.side, 3 * self.channels), device="meta")
        out = qkv[..., : self.channels]
        table = qkv.new_empty((2 * self.window - 1) ** 2, self.heads)
        axis = Axis.of(0, self.side, self.side, self.window, self.window // 2)
        windows = Windows(axis, axis, self.heads, self.window, True)
        forward = plan_window_attention(qkv, table, windows, self.precision, out)
        backward = plan_window_attention_gradient(qkv, table, out, windows, self.precision, qkv)
        product = 2 * out.numel() * self.window**2  # of queries and keys, for one
        return [
            workload(forward, name, [qkv, out], 2 * product),
            workload(backward, name, [qkv, out, qkv], 5 * product),
        ]
