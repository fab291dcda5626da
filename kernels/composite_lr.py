"""Kernels of `composite_lr`. N pairs, C channels, H x W pixels (HR), h x w pixels (LR).

The HR composite is never stored. Down-sampling R is linear and separable:
- One box for all pairs: R(composite) = R(pixels taken from a) + R(pixels taken from b). Each
  source's part is computed once (`rows`, then `columns`), so that a pair costs one sum (`sum`).
- A box per pair: an LR pixel whose taps lie in one source is that source's LR pixel, computed
  once (`rows`, `columns`); only those with taps in both are computed per pair (`mixed`).
Pixels that are not taken are left out by selection: NaN times 0 would be NaN.

A pair index out of range gives an image of NaN, and nothing is read for it.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .composite import (
    as_float,
    box_stride,
    contains,
    group_of,
    load_box,
    load_pair,
    meets,
    or_nan,
    ring,
    strides,
    to_grey_levels,
)
from .down_sample import lines_of, lines_of_image, taps_of_columns
from .launch import Launch
from .launch_configs import ColumnsConfig, MixedConfig, RowsConfig, SumConfig
from .workloads import Workload, dtype_name, paper_sources, workload


@triton.jit
def composite_lr_rows_kernel(
    source_ptr,
    inner_ptr,
    outer_ptr,
    index_ptr,
    weight_ptr,
    out_ptr,
    lines,
    channels,
    height,
    width,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    taps,
    tiles_x,
    PART: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Rows of a source down-sampled: (S,C,height,width), float32; `height` is LR, `width` HR.

    PART: "all" of its pixels, or those that composites take from it as source "a" or "b".
    """
    line, x, in_y = lines_of(tl.program_id(0), lines, tiles_x, BLOCK_Y, BLOCK_X)
    in_image = in_y & (x < width)
    plane, y = line // height, line % height
    source_ptr += (plane // channels).to(tl.int64) * stride_n
    source_ptr += (plane % channels).to(tl.int64) * stride_c
    source_ptr += x.to(tl.int64) * stride_x
    if PART != "all":
        inner_y0, inner_x0, inner_y1, inner_x1 = load_box(inner_ptr)
        outer_y0, outer_x0, outer_y1, outer_x1 = load_box(outer_ptr)
        inner_x = contains(inner_x0, inner_x1, x, x)
        outer_x = contains(outer_x0, outer_x1, x, x)
        # As in composite_fwd_kernel, loads are masked by groups of 16 bytes.
        low = x // GROUP * GROUP
        high = low + GROUP - 1
        if PART == "a":
            group_inner_x = meets(inner_x0, inner_x1, low, high)
            group_outer_x = contains(outer_x0, outer_x1, low, high)
        else:
            group_inner_x = contains(inner_x0, inner_x1, low, high)
            group_outer_x = meets(outer_x0, outer_x1, low, high)

    total = tl.zeros([BLOCK_Y, BLOCK_X], tl.float32)
    for t in range(taps):
        row = tl.load(index_ptr + y * taps + t, mask=in_y, other=0)
        weight = tl.load(weight_ptr + y * taps + t, mask=in_y, other=0)
        needed = in_image
        if PART != "all":
            inner_y = contains(inner_y0, inner_y1, row, row)
            outer_y = contains(outer_y0, outer_y1, row, row)
            taken = ring(outer_y, outer_x, inner_y, inner_x)
            group = ring(outer_y, group_outer_x, inner_y, group_inner_x)
            if PART == "a":
                taken = ~taken
                group = ~group
            needed &= group
        pixel = as_float(tl.load(source_ptr + row.to(tl.int64) * stride_y, mask=needed, other=0))
        if PART != "all":
            pixel = tl.where(taken, pixel, 0.0)
        total += weight * pixel.to(tl.float32)
    tl.store(out_ptr + (line.to(tl.int64) * width + x), total, mask=in_image)


@triton.jit
def composite_lr_columns_kernel(
    rows_ptr,
    index_ptr,
    weight_ptr,
    out_ptr,
    lines,
    width,
    rows_width,
    taps,
    tiles_x,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Columns down-sampled as well: (lines,width) from the rows (lines,rows_width)."""
    line, x, in_y = lines_of(tl.program_id(0), lines, tiles_x, BLOCK_Y, BLOCK_X)
    in_x = x < width
    rows_ptr += line.to(tl.int64) * rows_width
    total = tl.zeros([BLOCK_Y, BLOCK_X], tl.float32)
    for t in range(taps):
        column = tl.load(index_ptr + x * taps + t, mask=in_x, other=0)
        weight = tl.load(weight_ptr + x * taps + t, mask=in_x, other=0)
        total += weight * tl.load(rows_ptr + column, mask=in_y & in_x, other=0)
    tl.store(out_ptr + (line.to(tl.int64) * width + x), total, mask=in_y & in_x)


@triton.jit
def composite_lr_sum_kernel(
    a_ptr,
    b_ptr,
    pairs_ptr,
    out_ptr,
    images_a,
    images_b,
    size,
    blocks,
    QUANTIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out[n] = a[pairs[n, 0]] + b[pairs[n, 1]], images of `size` float32, contiguous."""
    program = tl.program_id(0)
    n = (program // blocks).to(tl.int64)
    at = program % blocks * BLOCK + tl.arange(0, BLOCK)
    first, second, exists = load_pair(pairs_ptr, n, images_a, images_b)
    needed = (at < size) & exists
    part_a = tl.load(a_ptr + first * size + at, mask=needed)
    part_b = tl.load(b_ptr + second * size + at, mask=needed)
    total = part_a + part_b
    if QUANTIZE:
        total = to_grey_levels(total)
    total = or_nan(exists, total, out_ptr.dtype.element_ty)
    tl.store(out_ptr + n * size + at, total, mask=at < size, cache_modifier=".cs")


@triton.jit
def composite_lr_mixed_kernel(
    a_ptr,
    b_ptr,
    small_a_ptr,
    small_b_ptr,
    pairs_ptr,
    inner_ptr,
    outer_ptr,
    row_index_ptr,
    row_weight_ptr,
    row_span_ptr,
    column_index_ptr,
    column_weight_ptr,
    column_span_ptr,
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
    row_taps,
    column_taps,
    tiles,
    tiles_x,
    QUANTIZE: tl.constexpr,
    BLOCK_TAPS: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """out (N,C,height,width), LR: copies of the small images, computed where taps are mixed.

    Computed everywhere when there are no small images (None).
    """
    n, line, x, in_y = lines_of_image(tiles, channels * height, tiles_x, BLOCK_Y, BLOCK_X)
    channel, y = (line // height).to(tl.int64), line % height
    in_x = x < width
    first, second, exists = load_pair(pairs_ptr, n, images_a, images_b)
    inner_y0, inner_x0, inner_y1, inner_x1 = load_box(inner_ptr + n * inner_stride)
    outer_y0, outer_x0, outer_y1, outer_x1 = load_box(outer_ptr + n * outer_stride)

    place = line.to(tl.int64) * width + x
    size = tl.cast(channels * height, tl.int64) * width
    total = tl.zeros([BLOCK_Y, BLOCK_X], tl.float32)
    mixed = in_y & in_x & exists
    if small_a_ptr is not None:
        low_y = tl.load(row_span_ptr + 2 * y, mask=in_y, other=0)
        high_y = tl.load(row_span_ptr + 2 * y + 1, mask=in_y, other=0)
        low_x = tl.load(column_span_ptr + 2 * x, mask=in_x, other=0)
        high_x = tl.load(column_span_ptr + 2 * x + 1, mask=in_x, other=0)
        all_b = ring(
            contains(outer_y0, outer_y1, low_y, high_y),
            contains(outer_x0, outer_x1, low_x, high_x),
            meets(inner_y0, inner_y1, low_y, high_y),
            meets(inner_x0, inner_x1, low_x, high_x),
        )
        some_b = ring(
            meets(outer_y0, outer_y1, low_y, high_y),
            meets(outer_x0, outer_x1, low_x, high_x),
            contains(inner_y0, inner_y1, low_y, high_y),
            contains(inner_x0, inner_x1, low_x, high_x),
        )
        total = tl.load(small_a_ptr + first * size + place, mask=mixed & ~some_b, other=0)
        copied_b = tl.load(small_b_ptr + second * size + place, mask=mixed & all_b, other=0)
        total = tl.where(all_b, copied_b, total)
        mixed &= some_b & ~all_b

    if tl.max(tl.max(mixed.to(tl.int32), axis=1), axis=0) > 0:
        # One row of taps at a time, all its columns at once: [BLOCK_Y, BLOCK_X, BLOCK_TAPS].
        column, weight, in_table = taps_of_columns(
            column_index_ptr, column_weight_ptr, x, in_x, column_taps, BLOCK_TAPS
        )
        inner_x = contains(inner_x0, inner_x1, column, column)
        outer_x = contains(outer_x0, outer_x1, column, column)
        plane_a = first * a_stride_n + channel * a_stride_c
        plane_b = second * b_stride_n + channel * b_stride_c
        a_columns = a_ptr + (plane_a[:, :, None] + column.to(tl.int64) * a_stride_x)
        b_columns = b_ptr + (plane_b[:, :, None] + column.to(tl.int64) * b_stride_x)
        needed = mixed[:, :, None] & in_table
        computed = tl.zeros([BLOCK_Y, BLOCK_X], tl.float32)
        for t in range(row_taps):
            row = tl.load(row_index_ptr + y * row_taps + t, mask=in_y, other=0)[:, :, None]
            row_weight = tl.load(row_weight_ptr + y * row_taps + t, mask=in_y, other=0)
            inner_y = contains(inner_y0, inner_y1, row, row)
            outer_y = contains(outer_y0, outer_y1, row, row)
            of_b = ring(outer_y, outer_x, inner_y, inner_x)
            down = row.to(tl.int64)
            pixel_a = tl.load(a_columns + down * a_stride_y, mask=needed & ~of_b, other=0)
            pixel_b = tl.load(b_columns + down * b_stride_y, mask=needed & of_b, other=0)
            pixel = as_float(tl.where(of_b, pixel_b, pixel_a)).to(tl.float32)
            computed += row_weight * tl.sum(weight * pixel, axis=2)
        total = tl.where(mixed, computed, total)

    if QUANTIZE:
        total = to_grey_levels(total)
    total = or_nan(exists, total, out_ptr.dtype.element_ty)
    tl.store(out_ptr + n * size + place, total, mask=in_y & in_x, cache_modifier=".cs")


@dataclass(frozen=True)
class AxisTaps:
    """One axis of the down-sampling: output i is sum_t weight[i,t] * input[index[i,t]]."""

    index: Tensor  # (n,T) int32, inside the image
    weight: Tensor  # (n,T) float32
    span: Tensor  # (n,2) int32: lowest and highest index of each row


def _plan_small(
    images: Tensor, inner: Tensor, outer: Tensor, part: str, rows: AxisTaps, columns: AxisTaps
) -> tuple[Tensor, list[Launch]]:
    """Scratch (S,C,h,w) float32, and the launches that fill it with R(`part` of `images`)."""
    count, channels, _, hr_width = images.shape
    height, width = len(rows.index), len(columns.index)
    half = images.new_empty((count, channels, height, hr_width), dtype=torch.float32)
    small = images.new_empty((count, channels, height, width), dtype=torch.float32)
    lines = count * channels * height
    block = RowsConfig().tile(lines, hr_width)
    tiles_y, tiles_x = block.count(lines, hr_width)
    vertical = Launch(
        composite_lr_rows_kernel,
        tiles_y * tiles_x,
        {
            "source_ptr": images,
            "inner_ptr": inner,
            "outer_ptr": outer,
            "index_ptr": rows.index,
            "weight_ptr": rows.weight,
            "out_ptr": half,
            "lines": lines,
            "channels": channels,
            "height": height,
            "width": hr_width,
            **strides("", images),
            "taps": rows.index.shape[1],
            "tiles_x": tiles_x,
        },
        {"PART": part, "GROUP": group_of(images), **block.constants},
        block.num_warps,
    )
    block = ColumnsConfig().tile(lines, width)
    tiles_y, tiles_x = block.count(lines, width)
    horizontal = Launch(
        composite_lr_columns_kernel,
        tiles_y * tiles_x,
        {
            "rows_ptr": half,
            "index_ptr": columns.index,
            "weight_ptr": columns.weight,
            "out_ptr": small,
            "lines": lines,
            "width": width,
            "rows_width": hr_width,
            "taps": columns.index.shape[1],
            "tiles_x": tiles_x,
        },
        block.constants,
        block.num_warps,
    )
    return small, [vertical, horizontal]


def _plan_sum(part_a: Tensor, part_b: Tensor, pairs: Tensor, quantize: bool, out: Tensor) -> Launch:
    config = SumConfig()
    size = part_a[0].numel()
    blocks = -(-size // config.block)
    arguments: dict[str, Tensor | int] = {
        "a_ptr": part_a,
        "b_ptr": part_b,
        "pairs_ptr": pairs,
        "out_ptr": out,
        "images_a": part_a.shape[0],
        "images_b": part_b.shape[0],
        "size": size,
        "blocks": blocks,
    }
    constants = {"QUANTIZE": quantize, "BLOCK": config.block}
    programs = out.shape[0] * blocks
    return Launch(composite_lr_sum_kernel, programs, arguments, constants, config.num_warps)


def _plan_mixed(
    a: Tensor,
    b: Tensor,
    small: tuple[Tensor, Tensor] | None,
    pairs: Tensor,
    inner: Tensor,
    outer: Tensor,
    rows: AxisTaps,
    columns: AxisTaps,
    quantize: bool,
    out: Tensor,
) -> Launch:
    n, channels, height, width = out.shape
    block_taps = triton.next_power_of_2(columns.index.shape[1])
    block = MixedConfig().for_taps(block_taps).tile(channels * height, width)
    tiles_y, tiles_x = block.count(channels * height, width)
    arguments: dict[str, Tensor | int] = {
        "a_ptr": a,
        "b_ptr": b,
        "pairs_ptr": pairs,
        "inner_ptr": inner,
        "outer_ptr": outer,
        "row_index_ptr": rows.index,
        "row_weight_ptr": rows.weight,
        "row_span_ptr": rows.span,
        "column_index_ptr": columns.index,
        "column_weight_ptr": columns.weight,
        "column_span_ptr": columns.span,
        "out_ptr": out,
        "images_a": a.shape[0],
        "images_b": b.shape[0],
        "channels": channels,
        "height": height,
        "width": width,
        **strides("a_", a),
        **strides("b_", b),
        "inner_stride": box_stride(inner),
        "outer_stride": box_stride(outer),
        "row_taps": rows.index.shape[1],
        "column_taps": columns.index.shape[1],
        "tiles": tiles_y * tiles_x,
        "tiles_x": tiles_x,
    }
    constants: dict[str, Any] = {
        "QUANTIZE": quantize,
        "BLOCK_TAPS": block_taps,
        **block.constants,
    }
    if small is None:
        constants |= {"small_a_ptr": None, "small_b_ptr": None}
    else:
        arguments |= {"small_a_ptr": small[0], "small_b_ptr": small[1]}
    programs = n * tiles_y * tiles_x
    return Launch(composite_lr_mixed_kernel, programs, arguments, constants, block.num_warps)


def plan_composite_lr(
    a: Tensor,
    b: Tensor,
    pairs: Tensor,
    inner: Tensor,
    outer: Tensor,
    rows: AxisTaps,
    columns: AxisTaps,
    quantize: bool,
    out: Tensor,
) -> list[Launch]:
    """The launches that fill `out` (N,C,h,w), contiguous; integers are int32 and contiguous."""
    if out.numel() == 0:
        return []
    # A pixel costs T^2 taps directly and 2 T through the sources' small images.
    direct_cost = out.shape[0] * rows.index.shape[1] * columns.index.shape[1]
    reuse_cost = (len(a) + len(b)) * (rows.index.shape[1] + columns.index.shape[1])
    small = None
    launches: list[Launch] = []
    if reuse_cost <= direct_cost:
        shared = inner.dim() == outer.dim() == 1
        small_a, first = _plan_small(a, inner, outer, "a" if shared else "all", rows, columns)
        small_b, second = _plan_small(b, inner, outer, "b" if shared else "all", rows, columns)
        launches = first + second
        if shared:
            return [*launches, _plan_sum(small_a, small_b, pairs, quantize, out)]
        small = small_a, small_b
    mixed = _plan_mixed(a, b, small, pairs, inner, outer, rows, columns, quantize, out)
    return [*launches, mixed]


def launch_composite_lr(
    a: Tensor,
    b: Tensor,
    pairs: Tensor,
    inner: Tensor,
    outer: Tensor,
    rows: AxisTaps,
    columns: AxisTaps,
    quantize: bool,
    out: Tensor,
) -> None:
    """Fill `out`; arguments as for `plan_composite_lr`."""
    for launch in plan_composite_lr(a, b, pairs, inner, outer, rows, columns, quantize, out):
        launch.run()


def workloads() -> list[Workload]:
    """The paper's composites (section 3.2) down-sampled by 4, with one box and with a box each."""
    found = []
    for dtype in (torch.float32, torch.uint8):
        a, b, pairs, box = paper_sources(dtype)
        boxes = pairs.new_empty((len(pairs), 4))
        size = a.shape[2] // 4
        tables = pairs.new_empty((size, 16)), a.new_empty((size, 16), dtype=torch.float32)
        taps = AxisTaps(*tables, pairs.new_empty((size, 2)))
        out = a.new_empty((len(pairs), a.shape[1], size, size), dtype=torch.float32)
        shared = plan_composite_lr(a, b, pairs, box, box, taps, taps, True, out)
        each = plan_composite_lr(a, b, pairs, boxes, box, taps, taps, True, out)
        of_a, columns, of_b, _, total = shared
        half = out.new_empty((*a.shape[:2], size, a.shape[3]))
        small = out.new_empty((*a.shape[:2], size, size))

        name, operations = dtype_name(a), 2 * 16 * half.numel()
        found.append(workload(of_a, f"{name} of a", [a, half], operations))
        found.append(workload(of_b, f"{name} of b", [b, half], operations))
        found.append(workload(each[0], f"{name} of all", [a, half], operations))
        # 12 x 12 - 4 x 4 of the 32 x 32 LR pixels have taps on both sides of a 32 x 32 box.
        operations = 2 * 16**2 * out.numel() // 8
        found.append(workload(each[-1], name, [a, b, small, small, pairs, boxes, out], operations))
        if dtype == torch.float32:  # behind the rows, all is float32
            operations = 2 * 16 * small.numel()
            found.append(workload(columns, name, [half, small], operations))
            found.append(workload(total, name, [small, small, pairs, out], out.numel()))
    return found
