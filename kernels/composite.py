"""Kernels `composite` and `mosaic`. N pairs, C channels, H x W pixels.

`composite_fwd_kernel` is bound by memory: each source is read only where it is visible, in whole
groups of 16 bytes, and the output is written with a hint to bypass the L2 cache, which the sources
need.

A pair index out of range gives an image of NaN, and nothing is read for it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch
from .launch_configs import CompositeConfig, MosaicConfig
from .workloads import Workload, dtype_name, paper_sources, workload


@triton.jit
def load_pair(pairs_ptr, n, images_a, images_b):
    """Indices into a and b as int64, and whether both exist."""
    first = tl.load(pairs_ptr + 2 * n).to(tl.int64)
    second = tl.load(pairs_ptr + 2 * n + 1).to(tl.int64)
    exists = (first >= 0) & (first < images_a) & (second >= 0) & (second < images_b)
    return first, second, exists


@triton.jit
def load_box(ptr):
    return tl.load(ptr), tl.load(ptr + 1), tl.load(ptr + 2), tl.load(ptr + 3)


@triton.jit
def contains(start, stop, low, high):
    """Whether start..stop (half-open) holds all of low..high (ends included)."""
    return (low >= start) & (high < stop)


@triton.jit
def meets(start, stop, low, high):
    """True if start..stop (half-open) overlaps low..high (ends included), or may, being empty."""
    return (high >= start) & (low < stop)


@triton.jit
def ring(outer_y, outer_x, inner_y, inner_x):
    """Inside the outer box and outside the inner one, given what holds along each axis.

    With `contains` on all four axes: of b, for a pixel. With `contains` for outer and `meets` for
    inner: surely all of b, for a range of pixels. With `meets` and `contains`: maybe some of b.
    """
    return outer_y & outer_x & ~(inner_y & inner_x)


@triton.jit
def unit_of_level(level):
    """level / 255 for 0, 1, .. 255 in float32, rounded as a division but without one.

    1/255 = 2^-8 + 2^-16 + 2^-24 + ..: both products are exact, so that the sum is rounded once.
    """
    return (level * 65793.0 + level * (257 / 65536)) * (1 / 16777216)


@triton.jit
def to_grey_levels(value):
    """Clipped to [0,1] and rounded to a multiple of 1/255; NaN stays NaN."""
    clipped = tl.where(value < 0, 0.0, tl.where(value > 1, 1.0, value))
    return unit_of_level(tl.floor(clipped * 255 + 0.5))


@triton.jit
def as_float(value):
    """8-bit grey levels as [0,1]; floats unchanged."""
    if value.dtype == tl.uint8:
        value = unit_of_level(value.to(tl.float32))
    return value


@triton.jit
def or_nan(exists, value, dtype: tl.constexpr):
    """`value` as `dtype` where `exists`, else NaN (made in float32: bfloat16 has no scalars)."""
    return tl.where(exists, value.to(dtype), tl.full([1], float("nan"), tl.float32).to(dtype))


@triton.jit
def tile_of(program, tiles_y, tiles_x, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr):
    """Image (int64) of a program, rows [BLOCK_Y, 1] and columns [1, BLOCK_X] of its tile."""
    tiles = tiles_y * tiles_x
    tile = program % tiles
    y = tile // tiles_x * BLOCK_Y + tl.arange(0, BLOCK_Y)[:, None]
    x = tile % tiles_x * BLOCK_X + tl.arange(0, BLOCK_X)[None, :]
    return (program // tiles).to(tl.int64), y, x


@triton.jit
def composite_fwd_kernel(
    a_ptr,
    b_ptr,
    pairs_ptr,
    inner_ptr,
    outer_ptr,
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
    GROUP: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """out[n] = b[pairs[n, 1]] inside outer and outside inner, a[pairs[n, 0]] elsewhere."""
    n, y, x = tile_of(tl.program_id(0), tiles_y, tiles_x, BLOCK_Y, BLOCK_X)
    first, second, exists = load_pair(pairs_ptr, n, images_a, images_b)
    inner_y0, inner_x0, inner_y1, inner_x1 = load_box(inner_ptr + n * inner_stride)
    outer_y0, outer_x0, outer_y1, outer_x1 = load_box(outer_ptr + n * outer_stride)
    inner_y = contains(inner_y0, inner_y1, y, y)
    outer_y = contains(outer_y0, outer_y1, y, y)
    inner_x = contains(inner_x0, inner_x1, x, x)
    outer_x = contains(outer_x0, outer_x1, x, x)
    of_b = ring(outer_y, outer_x, inner_y, inner_x)

    # Loads are masked by groups of 16 bytes, so that they stay vectors where a box cuts a group.
    low = x // GROUP * GROUP
    high = low + GROUP - 1
    whole_inner_x = contains(inner_x0, inner_x1, low, high)
    whole_outer_x = contains(outer_x0, outer_x1, low, high)
    some_inner_x = meets(inner_x0, inner_x1, low, high)
    some_outer_x = meets(outer_x0, outer_x1, low, high)
    in_image = (y < height) & (x < width)
    need_a = in_image & exists & ~ring(outer_y, whole_outer_x, inner_y, some_inner_x)
    need_b = in_image & exists & ring(outer_y, some_outer_x, inner_y, whole_inner_x)

    row, column = y.to(tl.int64), x.to(tl.int64)
    a_ptr += first * a_stride_n + (row * a_stride_y + column * a_stride_x)
    b_ptr += second * b_stride_n + (row * b_stride_y + column * b_stride_x)
    plane = tl.cast(height, tl.int64) * width
    out_ptr += n * channels * plane + (row * width + column)
    for _channel in range(channels):
        pixel_a = as_float(tl.load(a_ptr, mask=need_a))
        pixel_b = as_float(tl.load(b_ptr, mask=need_b))
        pixel = or_nan(exists, tl.where(of_b, pixel_b, pixel_a), out_ptr.dtype.element_ty)
        tl.store(out_ptr, pixel, mask=in_image, cache_modifier=".cs")
        a_ptr += a_stride_c
        b_ptr += b_stride_c
        out_ptr += plane


@triton.jit
def mosaic_fwd_kernel(
    tiles_ptr,
    cells_ptr,
    out_ptr,
    channels,
    height,
    width,
    side,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    tiles_y,
    tiles_x,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Cell (r,c) of out[n] is tiles[n] under the code cells[n,r,c] (fastbg.Transform).

    NaN where there is no such code, or where a quarter turn leaves a tile that is not square.
    """
    cell, y, x = tile_of(tl.program_id(0), tiles_y, tiles_x, BLOCK_Y, BLOCK_X)
    code = tl.load(cells_ptr + cell)
    n, place = cell // (side * side), cell % (side * side)

    zoom = tl.where(code == 6, 2, tl.where(code == 7, 4, 1))
    zoomed_y = (y + height * (zoom - 1) // 2) // zoom
    zoomed_x = (x + width * (zoom - 1) // 2) // zoom
    turned = (code == 3) | (code == 5)
    from_below = (code == 2) | (code == 4)
    from_right = (code == 1) | (code == 4)
    row = tl.where(turned, x, tl.where(from_below, height - 1 - y, zoomed_y))
    column = tl.where(turned, y, tl.where(from_right, width - 1 - x, zoomed_x))
    row = tl.where(code == 5, width - 1 - x, row)
    column = tl.where(code == 3, height - 1 - y, column)

    in_cell = (y < height) & (x < width)
    readable = in_cell & (row < height) & (column < width) & (code >= 0) & (code <= 7)
    tiles_ptr += n * stride_n + (row.to(tl.int64) * stride_y + column.to(tl.int64) * stride_x)
    out_row = place // side * height + y
    plane = tl.cast(side * height, tl.int64) * (side * width)
    out_ptr += n * channels * plane
    out_ptr += out_row.to(tl.int64) * (side * width) + (place % side * width + x)
    for _channel in range(channels):
        pixel = or_nan(readable, tl.load(tiles_ptr, mask=readable), out_ptr.dtype.element_ty)
        tl.store(out_ptr, pixel, mask=in_cell, cache_modifier=".cs")
        tiles_ptr += stride_c
        out_ptr += plane


def strides(prefix: str, images: Tensor) -> dict[str, Tensor | int]:
    return dict(zip((f"{prefix}stride_{axis}" for axis in "ncyx"), images.stride(), strict=True))


def box_stride(boxes: Tensor) -> int:
    """Step from one pair's box to the next: none where all pairs share one (4)."""
    return 4 if boxes.dim() == 2 else 0


def group_of(images: Tensor) -> int:
    """Pixels in 16 bytes, the widest memory access."""
    return 16 // images.element_size()


def plan_composite(
    a: Tensor, b: Tensor, pairs: Tensor, inner: Tensor, outer: Tensor, out: Tensor
) -> Launch:
    """The launch that fills `out` (N,C,H,W), contiguous; integers are int32 and contiguous."""
    n, channels, height, width = out.shape
    config = CompositeConfig()
    block = config.tile(height, width)
    tiles_y, tiles_x = block.count(height, width)
    arguments: dict[str, Tensor | int] = {
        "a_ptr": a,
        "b_ptr": b,
        "pairs_ptr": pairs,
        "inner_ptr": inner,
        "outer_ptr": outer,
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
        "tiles_y": tiles_y,
        "tiles_x": tiles_x,
    }
    constants = {"GROUP": group_of(a), **block.constants}
    programs = n * tiles_y * tiles_x if channels else 0
    return Launch(composite_fwd_kernel, programs, arguments, constants, block.num_warps)


def launch_composite(
    a: Tensor, b: Tensor, pairs: Tensor, inner: Tensor, outer: Tensor, out: Tensor
) -> None:
    """Fill `out`; arguments as for `plan_composite`."""
    plan_composite(a, b, pairs, inner, outer, out).run()


def plan_mosaic(tiles: Tensor, cells: Tensor, out: Tensor) -> Launch:
    """The launch that fills `out` (N,C,g*h,g*w), contiguous; `cells` is int32 and contiguous."""
    n, channels, height, width = tiles.shape
    side = cells.shape[1]
    config = MosaicConfig()
    block = config.tile(height, width)
    tiles_y, tiles_x = block.count(height, width)
    arguments: dict[str, Tensor | int] = {
        "tiles_ptr": tiles,
        "cells_ptr": cells,
        "out_ptr": out,
        "channels": channels,
        "height": height,
        "width": width,
        "side": side,
        **strides("", tiles),
        "tiles_y": tiles_y,
        "tiles_x": tiles_x,
    }
    constants = block.constants
    programs = n * side * side * tiles_y * tiles_x if channels else 0
    return Launch(mosaic_fwd_kernel, programs, arguments, constants, block.num_warps)


def launch_mosaic(tiles: Tensor, cells: Tensor, out: Tensor) -> None:
    """Fill `out`; arguments as for `plan_mosaic`."""
    plan_mosaic(tiles, cells, out).run()


def workloads() -> list[Workload]:
    """The paper's composites, and mosaics of 200 LR regions of 16x16 (sections 3.2 and 6.2)."""
    found = []
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.uint8):
        a, b, pairs, box = paper_sources(dtype)
        kept = torch.float32 if dtype == torch.uint8 else dtype
        out = a.new_empty((len(pairs), *a.shape[1:]), dtype=kept)
        launch = plan_composite(a, b, pairs, box, box, out)
        found.append(workload(launch, dtype_name(a), [a, b, pairs, out]))
    tiles = torch.empty((200, 3, 16, 16), device="meta")
    cells = torch.empty((200, 5, 5), dtype=torch.int32, device="meta")
    out = tiles.new_empty((200, 3, 80, 80))
    launch = plan_mosaic(tiles, cells, out)
    found.append(workload(launch, dtype_name(tiles), [tiles, cells, out]))
    return found
