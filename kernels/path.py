"""Kernels of the path family. B images, C channels, H x W pixels, K nodes, kernels of radius R.

A kernel that is symmetric in x, y and their exchange has (R + 1)(R + 2) / 2 different weights: 15
for 9 x 9. Pixels of equal weight are added up once per tile and stay in registers for all nodes,
so that a node costs 15 multiply-adds per pixel; a pass per axis would cost 18 and a trip through
shared memory for each.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .composite import load_box, strides, tile_of
from .launch import Launch
from .launch_configs import BlurPathConfig, DetectorConfig, DetectorGradConfig, PathIntegralConfig
from .workloads import Workload, dtype_name, workload


@triton.jit
def mirrored(place, size):
    """Reflect-101: dcb|abcd|cba."""
    place = tl.abs(place)
    return tl.minimum(place, 2 * (size - 1) - place)


@triton.jit
def pixel(ptr, y, x, height, width, stride_y, stride_x, mask):
    """float32 of the mirrored image at (y, x)."""
    row = mirrored(y, height).to(tl.int64)
    column = mirrored(x, width).to(tl.int64)
    return tl.load(ptr + (row * stride_y + column * stride_x), mask, other=0.0).to(tl.float32)


@triton.jit
def around(ptr, y, x, height, width, stride_y, stride_x, mask, DY: tl.constexpr, DX: tl.constexpr):
    """Sum of the pixels at (y +- DY, x +- DX), each once."""
    total = pixel(ptr, y + DY, x + DX, height, width, stride_y, stride_x, mask)
    if DX > 0:
        total += pixel(ptr, y + DY, x - DX, height, width, stride_y, stride_x, mask)
    if DY > 0:
        total += pixel(ptr, y - DY, x + DX, height, width, stride_y, stride_x, mask)
        if DX > 0:
            total += pixel(ptr, y - DY, x - DX, height, width, stride_y, stride_x, mask)
    return total


@triton.jit
def folded(ptr, y, x, height, width, stride_y, stride_x, mask, RADIUS: tl.constexpr):
    """Sums of the pixels at the offsets 0 <= i <= j, row after row: they share a weight."""
    sums = ()
    for i in tl.static_range(RADIUS + 1):
        for j in tl.static_range(i, RADIUS + 1):
            one = around(ptr, y, x, height, width, stride_y, stride_x, mask, i, j)
            if i != j:
                one += around(ptr, y, x, height, width, stride_y, stride_x, mask, j, i)
            # Triton has no unpacking.
            sums = sums + (one,)  # type: ignore[assignment]  # noqa: RUF005
    return sums


@triton.jit
def weighted(sums, products_ptr, RADIUS: tl.constexpr, BOTH: tl.constexpr):
    """The folded pixels under one node's kernel: `products` of two taps, and of `BOTH` orders."""
    SIDE: tl.constexpr = RADIUS + 1  # noqa: N806
    total = 0.0
    for i in tl.static_range(SIDE):
        for j in tl.static_range(i, SIDE):
            weight = tl.load(products_ptr + (i * SIDE + j))
            if BOTH:
                weight += tl.load(products_ptr + (j * SIDE + i))
            total += weight * sums[i * SIDE - i * (i + 1) // 2 + j]
    return total


@triton.jit
def blur_path_fwd_kernel(
    image_ptr,
    products_ptr,
    out_ptr,
    nodes,
    channels,
    height,
    width,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    tiles_y,
    tiles_x,
    groups,
    RADIUS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """out[b, k, c] = image[b, c] under kernel k, for GROUP nodes of one tile."""
    first = tl.program_id(0) % groups * GROUP
    plane, y, x = tile_of(tl.program_id(0) // groups, tiles_y, tiles_x, BLOCK_Y, BLOCK_X)
    b, c = plane // channels, plane % channels
    mask = (y < height) & (x < width)
    image_ptr += b * stride_n + c * stride_c
    sums = folded(image_ptr, y, x, height, width, stride_y, stride_x, mask, RADIUS)

    for k in range(first, tl.minimum(first + GROUP, nodes)):
        value = weighted(sums, products_ptr + k * (RADIUS + 1) * (RADIUS + 1), RADIUS, False)
        node = (b * nodes + k) * channels + c  # int64, as b is
        address = out_ptr + (node * height + y) * width + x
        tl.store(address, value.to(out_ptr.dtype.element_ty), mask)


@triton.jit
def path_integral_fwd_kernel(
    gradients_ptr,
    image_ptr,
    products_ptr,
    out_ptr,
    nodes,
    channels,
    height,
    width,
    gradients_stride_n,
    gradients_stride_k,
    gradients_stride_c,
    gradients_stride_y,
    gradients_stride_x,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    tiles_y,
    tiles_x,
    RADIUS: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """out[b, c] = sum over k of gradients[b, k, c] times image[b, c] under kernel k."""
    plane, y, x = tile_of(tl.program_id(0), tiles_y, tiles_x, BLOCK_Y, BLOCK_X)
    b, c = plane // channels, plane % channels
    mask = (y < height) & (x < width)
    image_ptr += b * stride_n + c * stride_c
    sums = folded(image_ptr, y, x, height, width, stride_y, stride_x, mask, RADIUS)

    row, column = y.to(tl.int64), x.to(tl.int64)
    gradients_ptr += b * gradients_stride_n + c * gradients_stride_c
    gradients_ptr += row * gradients_stride_y + column * gradients_stride_x
    total = tl.zeros([BLOCK_Y, BLOCK_X], tl.float32)
    for _ in range(nodes):
        gradient = tl.load(gradients_ptr, mask, other=0.0).to(tl.float32)
        total += gradient * weighted(sums, products_ptr, RADIUS, True)
        gradients_ptr += gradients_stride_k
        products_ptr += (RADIUS + 1) * (RADIUS + 1)
    out_ptr += (plane * height + row) * width + column
    tl.store(out_ptr, total.to(out_ptr.dtype.element_ty), mask)


@triton.jit
def measured(windows_ptr, height, width):
    """Box of the window's pixels that have a neighbour below and right of them."""
    y0, x0, y1, x1 = load_box(windows_ptr)
    y0, x0 = tl.maximum(y0, 0), tl.maximum(x0, 0)
    return y0, x0, tl.minimum(y1, height - 1), tl.minimum(x1, width - 1)


@triton.jit
def differences(ptr, y, x, stride_y, stride_x, mask):
    """Differences down and right at (y, x), 0 where masked."""
    ptr += y.to(tl.int64) * stride_y + x.to(tl.int64) * stride_x
    here = tl.load(ptr, mask, other=0.0).to(tl.float32)
    down = tl.load(ptr + stride_y, mask, other=0.0).to(tl.float32) - here
    right = tl.load(ptr + stride_x, mask, other=0.0).to(tl.float32) - here
    return down, right


@triton.jit
def gradient_detector_fwd_kernel(
    sr_ptr,
    windows_ptr,
    out_ptr,
    channels,
    height,
    width,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    windows_stride,
    BLOCK: tl.constexpr,
):
    """One program per image, so that the order of the sum never changes."""
    b = tl.program_id(0).to(tl.int64)
    y0, x0, y1, x1 = measured(windows_ptr + b * windows_stride, height, width)
    rows, columns = tl.maximum(y1 - y0, 0), tl.maximum(x1 - x0, 0)
    sr_ptr += b * stride_n
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, channels * rows * columns, BLOCK):
        index = start + tl.arange(0, BLOCK)
        mask = index < channels * rows * columns
        c = index // (rows * columns)
        y = y0 + index // columns % rows
        x = x0 + index % columns
        down, right = differences(sr_ptr + c * stride_c, y, x, stride_y, stride_x, mask)
        total += tl.sqrt(down * down + right * right)
    tl.store(out_ptr + b, tl.sum(total))


@triton.jit
def shares(ptr, y, x, y0, x0, y1, x1, upstream, stride_y, stride_x):
    """Gradients that the length at (y, x) gives to the pixels below and right of it."""
    inside = (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
    down, right = differences(ptr, y, x, stride_y, stride_x, inside)
    square = down * down + right * right
    share = upstream / tl.sqrt(tl.where(square == 0, 1.0, square))  # of a NaN it is NaN
    share = tl.where(square == 0, 0.0, share)
    return down * share, right * share


@triton.jit
def gradient_detector_bwd_kernel(
    grad_ptr,
    sr_ptr,
    windows_ptr,
    out_ptr,
    channels,
    height,
    width,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    windows_stride,
    grad_stride,
    tiles_y,
    tiles_x,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Each pixel gathers from its own length and those above and left of it: no atomics."""
    plane, y, x = tile_of(tl.program_id(0), tiles_y, tiles_x, BLOCK_Y, BLOCK_X)
    b, c = plane // channels, plane % channels
    y0, x0, y1, x1 = measured(windows_ptr + b * windows_stride, height, width)
    upstream = tl.load(grad_ptr + b * grad_stride)
    sr_ptr += b * stride_n + c * stride_c
    down, right = shares(sr_ptr, y, x, y0, x0, y1, x1, upstream, stride_y, stride_x)
    above, _ = shares(sr_ptr, y - 1, x, y0, x0, y1, x1, upstream, stride_y, stride_x)
    _, left = shares(sr_ptr, y, x - 1, y0, x0, y1, x1, upstream, stride_y, stride_x)
    gradient = above + left - (down + right)
    out_ptr += plane * height * width + y.to(tl.int64) * width + x
    mask = (y < height) & (x < width)
    tl.store(out_ptr, gradient.to(out_ptr.dtype.element_ty), mask)


def plan_blur_path(image: Tensor, products: Tensor, radius: int, out: Tensor) -> Launch:
    """The launch that fills `out` (B,K,C,H,W), contiguous.

    `products` (K,radius + 1,radius + 1) float32, contiguous: of taps i and j from the middle.
    """
    b, channels, height, width = image.shape
    config = BlurPathConfig().of_radius(radius)
    block = config.tile(height, width)
    tiles_y, tiles_x = block.count(height, width)
    groups = -(-len(products) // config.group)
    arguments: dict[str, Tensor | int] = {
        "image_ptr": image,
        "products_ptr": products,
        "out_ptr": out,
        "nodes": len(products),
        "channels": channels,
        "height": height,
        "width": width,
        **strides("", image),
        "tiles_y": tiles_y,
        "tiles_x": tiles_x,
        "groups": groups,
    }
    constants = {
        "RADIUS": radius,
        "GROUP": config.group,
        **block.constants,
    }
    programs = b * channels * tiles_y * tiles_x * groups
    return Launch(blur_path_fwd_kernel, programs, arguments, constants, block.num_warps)


def plan_path_integral(
    gradients: Tensor, image: Tensor, products: Tensor, radius: int, out: Tensor
) -> Launch:
    """The launch that fills `out` (B,C,H,W), contiguous.

    `products` as above, of changes and levels: both orders are added.
    """
    b, channels, height, width = image.shape
    block = PathIntegralConfig().of_radius(radius).tile(height, width)
    tiles_y, tiles_x = block.count(height, width)
    names = [f"gradients_stride_{axis}" for axis in "nkcyx"]
    arguments: dict[str, Tensor | int] = {
        "gradients_ptr": gradients,
        "image_ptr": image,
        "products_ptr": products,
        "out_ptr": out,
        "nodes": len(products),
        "channels": channels,
        "height": height,
        "width": width,
        **dict(zip(names, gradients.stride(), strict=True)),
        **strides("", image),
        "tiles_y": tiles_y,
        "tiles_x": tiles_x,
    }
    constants = {
        "RADIUS": radius,
        **block.constants,
    }
    programs = b * channels * tiles_y * tiles_x
    return Launch(path_integral_fwd_kernel, programs, arguments, constants, block.num_warps)


def plan_gradient_detector(sr: Tensor, windows: Tensor, out: Tensor) -> Launch:
    """The launch that fills `out` (B) float32; `windows` int32, contiguous."""
    b, channels, height, width = sr.shape
    config = DetectorConfig()
    arguments: dict[str, Tensor | int] = {
        "sr_ptr": sr,
        "windows_ptr": windows,
        "out_ptr": out,
        "channels": channels,
        "height": height,
        "width": width,
        **strides("", sr),
        "windows_stride": 4 if windows.dim() == 2 else 0,
    }
    constants = {"BLOCK": config.block}
    return Launch(gradient_detector_fwd_kernel, b, arguments, constants, config.num_warps)


def plan_gradient_detector_backward(
    grad: Tensor, sr: Tensor, windows: Tensor, out: Tensor
) -> Launch:
    """The launch that fills `out` (B,C,H,W), contiguous; `grad` (B) float32."""
    b, channels, height, width = sr.shape
    block = DetectorGradConfig().tile(height, width)
    tiles_y, tiles_x = block.count(height, width)
    arguments: dict[str, Tensor | int] = {
        "grad_ptr": grad,
        "sr_ptr": sr,
        "windows_ptr": windows,
        "out_ptr": out,
        "channels": channels,
        "height": height,
        "width": width,
        **strides("", sr),
        "windows_stride": 4 if windows.dim() == 2 else 0,
        "grad_stride": grad.stride(0),
        "tiles_y": tiles_y,
        "tiles_x": tiles_x,
    }
    constants = block.constants
    programs = b * channels * tiles_y * tiles_x
    return Launch(gradient_detector_bwd_kernel, programs, arguments, constants, block.num_warps)


def workloads() -> list[Workload]:
    """LAM of 150 sub-images of 32x32 with 50 nodes; its objective on their SR windows."""
    image = torch.empty((150, 3, 32, 32), device="meta")
    nodes, products = image.new_empty((150, 50, 3, 32, 32)), image.new_empty((50, 7, 7))
    widest = plan_blur_path(image, products, 6, nodes)  # 13 x 13 taps, the most there are
    operations = 2 * 28 * nodes.numel()
    found = [workload(widest, "fp32 13 taps", [image, products, nodes], operations)]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        image = torch.empty((150, 3, 32, 32), dtype=dtype, device="meta")
        nodes = image.new_empty((150, 50, 3, 32, 32))
        products = torch.empty((50, 5, 5), device="meta")
        name, operations = dtype_name(image), 2 * 15 * nodes.numel()
        launch = plan_blur_path(image, products, 4, nodes)
        found.append(workload(launch, name, [image, products, nodes], operations))
        launch = plan_path_integral(nodes, image, products, 4, torch.empty_like(image))
        touched = [nodes, image, products, image]
        found.append(workload(launch, name, touched, operations + 2 * nodes.numel()))
        sr = image.new_empty((50, 3, 17, 17))
        windows = torch.empty(4, dtype=torch.int32, device="meta")
        values = torch.empty(50, device="meta")
        launch = plan_gradient_detector(sr, windows, values)
        found.append(workload(launch, name, [sr, values], 6 * sr.numel()))
        launch = plan_gradient_detector_backward(values, sr, windows, torch.empty_like(sr))
        found.append(workload(launch, name, [values, sr, sr], 30 * sr.numel()))
    return found
