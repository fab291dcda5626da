"""Kernels of composites with a bridged seam. N pairs, C channels, H x W pixels (HR), h x w (LR).

A foreign pixel is corrected by the step across each rim, times a weight that decays with the
distance from it (fastbg.composite, seam=tau). Steps are computed on use, as the pixels of a rim
stay in L1 or L2. For down-sampling, the pixels under each LR pixel's taps are corrected one by one:
a bridged pixel is clipped, so that down-sampling cannot be split into a sum of parts.

Only pixels that are visible in the composite are read. A pair index out of range gives an image of
NaN.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .composite import (
    as_float,
    box_stride,
    contains,
    load_box,
    load_pair,
    or_nan,
    ring,
    strides,
    tile_of,
    to_grey_levels,
)
from .composite_lr import AxisTaps
from .down_sample import lines_of_image, taps_of_columns
from .launch import Launch
from .launch_configs import BridgedConfig, BridgedLrConfig
from .workloads import Workload, dtype_name, paper_sources, workload


@triton.jit
def read_pixel(plane_ptr, y, x, stride_y, stride_x, needed):
    """Float32 pixels of one channel; 0 where none is needed."""
    at = plane_ptr + (y.to(tl.int64) * stride_y + x.to(tl.int64) * stride_x)
    return as_float(tl.load(at, mask=needed, other=0)).to(tl.float32)


@triton.jit
def decayed(decay_ptr, distance, needed):
    """Weight at `distance` from a rim; 0 where none is needed."""
    return tl.load(decay_ptr + (distance - 1), mask=needed & (distance >= 1), other=0.0)


@triton.jit
def bridged_pixel(
    a_ptr,
    b_ptr,
    decay_ptr,
    y,
    x,
    needed,
    height,
    width,
    inner_y0,
    inner_x0,
    inner_y1,
    inner_x1,
    outer_y0,
    outer_x0,
    outer_y1,
    outer_x1,
    a_stride_y,
    a_stride_x,
    b_stride_y,
    b_stride_x,
):
    """Pixels (y, x) of a pair's channel, float32, where `needed`; all of one shape."""
    inner_y0 = tl.maximum(inner_y0, outer_y0)  # the visible part of the inner box
    inner_x0 = tl.maximum(inner_x0, outer_x0)
    inner_y1 = tl.minimum(inner_y1, outer_y1)
    inner_x1 = tl.minimum(inner_x1, outer_x1)
    exists = (inner_y0 < inner_y1) & (inner_x0 < inner_x1)
    in_rows = exists & contains(inner_y0, inner_y1, y, y)
    in_columns = exists & contains(inner_x0, inner_x1, x, x)
    of_b = ring(
        contains(outer_y0, outer_y1, y, y),
        contains(outer_x0, outer_x1, x, x),
        in_rows,
        in_columns,
    )
    foreign = needed & of_b
    pixel_a = read_pixel(a_ptr, y, x, a_stride_y, a_stride_x, needed & ~of_b)
    pixel_b = read_pixel(b_ptr, y, x, b_stride_y, b_stride_x, foreign)

    kept_y = tl.minimum(tl.maximum(y, inner_y0), inner_y1 - 1)
    kept_x = tl.minimum(tl.maximum(x, inner_x0), inner_x1 - 1)
    beside_y = tl.minimum(tl.maximum(y, inner_y0 - 1), inner_y1)
    beside_x = tl.minimum(tl.maximum(x, inner_x0 - 1), inner_x1)
    away = tl.maximum(tl.abs(y - kept_y), tl.abs(x - kept_x))
    weight = decayed(decay_ptr, away, foreign & exists)
    reached = weight > 0
    step = read_pixel(a_ptr, kept_y, kept_x, a_stride_y, a_stride_x, reached)
    step -= read_pixel(b_ptr, beside_y, beside_x, b_stride_y, b_stride_x, reached)
    total = tl.where(reached, weight * step, 0.0)

    # The sides of the outer box, except those at the image's border, which have no rim.
    far = height + width
    up = tl.where(outer_y0 > 0, y - outer_y0 + 1, far)
    down = tl.where(outer_y1 < height, outer_y1 - y, far)
    left = tl.where(outer_x0 > 0, x - outer_x0 + 1, far)
    right = tl.where(outer_x1 < width, outer_x1 - x, far)
    vertical, horizontal = tl.minimum(up, down), tl.minimum(left, right)
    inwards = tl.minimum(vertical, horizontal)
    weight = decayed(decay_ptr, inwards, foreign & (inwards < far))
    rim = weight > 0
    rows, columns = rim & (vertical == inwards), rim & (horizontal == inwards)
    same = y * 0
    # The step is 0 where the pixel inside the side belongs to the inner box.
    shown = rows & (up == vertical) & ~((inner_y0 == outer_y0) & in_columns)
    of_rows = read_pixel(a_ptr, same + (outer_y0 - 1), x, a_stride_y, a_stride_x, shown)
    of_rows -= read_pixel(b_ptr, same + outer_y0, x, b_stride_y, b_stride_x, shown)
    shown = rows & (down == vertical) & ~((inner_y1 == outer_y1) & in_columns)
    of_rows += read_pixel(a_ptr, same + outer_y1, x, a_stride_y, a_stride_x, shown)
    of_rows -= read_pixel(b_ptr, same + (outer_y1 - 1), x, b_stride_y, b_stride_x, shown)
    shown = columns & (left == horizontal) & ~((inner_x0 == outer_x0) & in_rows)
    of_columns = read_pixel(a_ptr, y, same + (outer_x0 - 1), a_stride_y, a_stride_x, shown)
    of_columns -= read_pixel(b_ptr, y, same + outer_x0, b_stride_y, b_stride_x, shown)
    shown = columns & (right == horizontal) & ~((inner_x1 == outer_x1) & in_rows)
    of_columns += read_pixel(a_ptr, y, same + outer_x1, a_stride_y, a_stride_x, shown)
    of_columns -= read_pixel(b_ptr, y, same + (outer_x1 - 1), b_stride_y, b_stride_x, shown)
    of_rows *= tl.where(up == down, 0.5, 1.0)
    of_columns *= tl.where(left == right, 0.5, 1.0)
    step = (of_rows + of_columns) * tl.where(vertical == horizontal, 0.5, 1.0)
    total += tl.where(rim, weight * step, 0.0)

    value = pixel_b + total
    value = tl.where(value < 0, 0.0, tl.where(value > 1, 1.0, value))  # keeps NaN
    return tl.where(of_b, tl.where(reached | rim, value, pixel_b), pixel_a)


@triton.jit
def bridged_composite_fwd_kernel(
    a_ptr,
    b_ptr,
    pairs_ptr,
    inner_ptr,
    outer_ptr,
    decay_ptr,
    out_ptr,
    images_a,
    images_b,
    channels,
    height,
    width,
    a_stride_n,
    a_stride_c,
    a_stride_y,
    a_stride_x,
    b_stride_n,
    b_stride_c,
    b_stride_y,
    b_stride_x,
    inner_stride,
    outer_stride,
    tiles_y,
    tiles_x,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """out[n]: b[pairs[n, 1]], bridged, inside outer and outside inner, a[pairs[n, 0]] elsewhere."""
    n, y, x = tile_of(tl.program_id(0), tiles_y, tiles_x, BLOCK_Y, BLOCK_X)
    first, second, exists = load_pair(pairs_ptr, n, images_a, images_b)
    inner_y0, inner_x0, inner_y1, inner_x1 = load_box(inner_ptr + n * inner_stride)
    outer_y0, outer_x0, outer_y1, outer_x1 = load_box(outer_ptr + n * outer_stride)
    in_image = (y < height) & (x < width)
    whole_y, whole_x = y + x * 0, x + y * 0
    a_ptr += first * a_stride_n
    b_ptr += second * b_stride_n
    plane = tl.cast(height, tl.int64) * width
    out_ptr += n * channels * plane + (y.to(tl.int64) * width + x)
    for _channel in range(channels):
        pixel = bridged_pixel(
            a_ptr,
            b_ptr,
            decay_ptr,
            whole_y,
            whole_x,
            in_image & exists,
            height,
            width,
            inner_y0,
            inner_x0,
            inner_y1,
            inner_x1,
            outer_y0,
            outer_x0,
            outer_y1,
            outer_x1,
            a_stride_y,
            a_stride_x,
            b_stride_y,
            b_stride_x,
        )
        pixel = or_nan(exists, pixel, out_ptr.dtype.element_ty)
        tl.store(out_ptr, pixel, mask=in_image, cache_modifier=".cs")
        a_ptr += a_stride_c
        b_ptr += b_stride_c
        out_ptr += plane


@triton.jit
def bridged_composite_lr_kernel(
    a_ptr,
    b_ptr,
    pairs_ptr,
    inner_ptr,
    outer_ptr,
    decay_ptr,
    row_index_ptr,
    row_weight_ptr,
    column_index_ptr,
    column_weight_ptr,
    out_ptr,
    images_a,
    images_b,
    channels,
    height,
    width,
    hr_height,
    hr_width,
    a_stride_n,
    a_stride_c,
    a_stride_y,
    a_stride_x,
    b_stride_n,
    b_stride_c,
    b_stride_y,
    b_stride_x,
    inner_stride,
    outer_stride,
    row_taps,
    column_taps,
    tiles,
    tiles_x,
    QUANTIZE: tl.constexpr,
    BLOCK_TAPS: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """out (N,C,height,width), LR: each pixel summed from its taps, one row of them at a time."""
    n, line, x, in_y = lines_of_image(tiles, channels * height, tiles_x, BLOCK_Y, BLOCK_X)
    channel, y = (line // height).to(tl.int64), line % height
    in_x = x < width
    first, second, exists = load_pair(pairs_ptr, n, images_a, images_b)
    inner_y0, inner_x0, inner_y1, inner_x1 = load_box(inner_ptr + n * inner_stride)
    outer_y0, outer_x0, outer_y1, outer_x1 = load_box(outer_ptr + n * outer_stride)

    column, weight, in_table = taps_of_columns(
        column_index_ptr, column_weight_ptr, x, in_x, column_taps, BLOCK_TAPS
    )
    plane_a = a_ptr + (first * a_stride_n + channel * a_stride_c)[:, :, None]
    plane_b = b_ptr + (second * b_stride_n + channel * b_stride_c)[:, :, None]
    total = tl.zeros([BLOCK_Y, BLOCK_X], tl.float32)
    for t in range(row_taps):
        row = tl.load(row_index_ptr + y * row_taps + t, mask=in_y, other=0)[:, :, None]
        row_weight = tl.load(row_weight_ptr + y * row_taps + t, mask=in_y, other=0)
        pixel = bridged_pixel(
            plane_a,
            plane_b,
            decay_ptr,
            row + column * 0,
            column + row * 0,
            in_y[:, :, None] & in_table & exists,
            hr_height,
            hr_width,
            inner_y0,
            inner_x0,
            inner_y1,
            inner_x1,
            outer_y0,
            outer_x0,
            outer_y1,
            outer_x1,
            a_stride_y,
            a_stride_x,
            b_stride_y,
            b_stride_x,
        )
        total += row_weight * tl.sum(weight * pixel, axis=2)

    if QUANTIZE:
        total = to_grey_levels(total)
    total = or_nan(exists, total, out_ptr.dtype.element_ty)
    place = line.to(tl.int64) * width + x
    size = tl.cast(channels * height, tl.int64) * width
    tl.store(out_ptr + n * size + place, total, mask=in_y & in_x, cache_modifier=".cs")


def _sources(
    a: Tensor, b: Tensor, pairs: Tensor, inner: Tensor, outer: Tensor, decay: Tensor
) -> dict[str, Tensor | int]:
    return {
        "a_ptr": a,
        "b_ptr": b,
        "pairs_ptr": pairs,
        "inner_ptr": inner,
        "outer_ptr": outer,
        "decay_ptr": decay,
        "images_a": a.shape[0],
        "images_b": b.shape[0],
        "channels": a.shape[1],
        **strides("a_", a),
        **strides("b_", b),
        "inner_stride": box_stride(inner),
        "outer_stride": box_stride(outer),
    }


def plan_bridged_composite(
    a: Tensor,
    b: Tensor,
    pairs: Tensor,
    inner: Tensor,
    outer: Tensor,
    decay: Tensor,
    out: Tensor,
) -> Launch:
    """The launch that fills `out` (N,C,H,W), contiguous.

    `decay` (D) float32 holds the weights of the distances 1, 2, .. up to the larger side.
    """
    n, channels, height, width = out.shape
    block = BridgedConfig().tile(height, width)
    tiles_y, tiles_x = block.count(height, width)
    arguments = _sources(a, b, pairs, inner, outer, decay) | {
        "out_ptr": out,
        "height": height,
        "width": width,
        "tiles_y": tiles_y,
        "tiles_x": tiles_x,
    }
    programs = n * tiles_y * tiles_x if channels else 0
    kernel = bridged_composite_fwd_kernel
    return Launch(kernel, programs, arguments, block.constants, block.num_warps)


def plan_bridged_composite_lr(
    a: Tensor,
    b: Tensor,
    pairs: Tensor,
    inner: Tensor,
    outer: Tensor,
    decay: Tensor,
    rows: AxisTaps,
    columns: AxisTaps,
    quantize: bool,
    out: Tensor,
) -> Launch:
    """The launch that fills `out` (N,C,h,w), contiguous."""
    n, channels, height, width = out.shape
    block_taps = triton.next_power_of_2(columns.index.shape[1])
    block = BridgedLrConfig().for_taps(block_taps).tile(channels * height, width)
    tiles_y, tiles_x = block.count(channels * height, width)
    arguments = _sources(a, b, pairs, inner, outer, decay) | {
        "row_index_ptr": rows.index,
        "row_weight_ptr": rows.weight,
        "column_index_ptr": columns.index,
        "column_weight_ptr": columns.weight,
        "out_ptr": out,
        "height": height,
        "width": width,
        "hr_height": a.shape[2],
        "hr_width": a.shape[3],
        "row_taps": rows.index.shape[1],
        "column_taps": columns.index.shape[1],
        "tiles": tiles_y * tiles_x,
        "tiles_x": tiles_x,
    }
    constants = {"QUANTIZE": quantize, "BLOCK_TAPS": block_taps, **block.constants}
    programs = n * tiles_y * tiles_x
    return Launch(bridged_composite_lr_kernel, programs, arguments, constants, block.num_warps)


def workloads() -> list[Workload]:
    """The paper's composites with a bridged seam, and down-sampled by 4 (section 3.2)."""
    found = []
    for dtype in (torch.float32, torch.uint8):
        a, b, pairs, box = paper_sources(dtype)
        decay = a.new_empty(a.shape[2], dtype=torch.float32)
        out = a.new_empty((len(pairs), *a.shape[1:]), dtype=torch.float32)
        launch = plan_bridged_composite(a, b, pairs, box, box, decay, out)
        # A step, its weight, and the clipped sum.
        found.append(workload(launch, dtype_name(a), [a, b, pairs, out], 5 * out.numel()))
        size = a.shape[2] // 4
        tables = pairs.new_empty((size, 16)), a.new_empty((size, 16), dtype=torch.float32)
        taps = AxisTaps(*tables, pairs.new_empty((size, 2)))
        small = out.new_empty((*out.shape[:2], size, size))
        launch = plan_bridged_composite_lr(a, b, pairs, box, box, decay, taps, taps, True, small)
        # Separable: 16 taps of a quarter of the rows, then of the columns.
        operations = 5 * out.numel() + 2 * 16 * (out.numel() // 4 + small.numel())
        found.append(workload(launch, dtype_name(a), [a, b, pairs, small], operations))
    return found
