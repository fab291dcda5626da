"""Kernels `gram` and `conv_gram`. B images, M regions (masks), C channels, P pixels.

Pixels are split over programs, so that one small image still fills a GPU. Each program sums a
block of the matrix over its pixels on tensor cores (TF32 three times: float32 to about 21 bits)
and stores it; a second kernel adds the splits in order, without atomics: the same bits in every
run. Only blocks on and above the diagonal are computed; the rest is mirrored from them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch
from .launch_configs import ConvGramConfig, GramConfig, GramReduceConfig
from .workloads import Workload, dtype_name, workload

CONV_CHANNELS = 64
CONV_TAPS = 27


@triton.jit
def block_pair(index):
    """Row and column (row <= column) of pair `index` of 00, 01, 11, 02, 12, 22, ..."""
    column = 0
    first = 0  # pairs before this column
    while first + column + 1 <= index:
        first += column + 1
        column += 1
    return index - first, column


@triton.jit
def pixel_weights(mask_ptr, p, valid, width, stride_y, stride_x):
    offset = (p // width).to(tl.int64) * stride_y + (p % width).to(tl.int64) * stride_x
    return tl.load(mask_ptr + offset, mask=valid, other=0.0)


@triton.jit
def tf32_parts(value):
    """`value` as the sum of a TF32 number, rounded, and a rest of which TF32 holds 11 bits more.

    A NaN stays one in the rest, whatever the addition makes of its bits.
    """
    bits = value.to(tl.int32, bitcast=True)
    high = ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return high, value - high


@triton.jit
def gram_partial_kernel(
    features_ptr,
    mask_ptr,
    sums_ptr,
    channels,
    pixels,
    width,
    regions,
    splits,
    split_pixels,
    pairs,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    mask_stride_n,
    mask_stride_m,
    mask_stride_y,
    mask_stride_x,
    HAS_MASK: tl.constexpr,
    PRECISION: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """sums[image, region, split, pair] = one BLOCK_C x BLOCK_C block over a split's pixels."""
    program = tl.program_id(0)
    row, column = block_pair(program % pairs)
    split = program // pairs % splits
    region = program // (pairs * splits) % regions
    image = (program // (pairs * splits * regions)).to(tl.int64)
    lanes = tl.arange(0, BLOCK_C)
    left = row * BLOCK_C + lanes
    right = column * BLOCK_C + lanes
    features_ptr += image * stride_n
    mask_ptr += image * mask_stride_n + region * mask_stride_m
    begin = split * split_pixels
    end = tl.minimum(begin + split_pixels, pixels)
    total = tl.zeros([BLOCK_C, BLOCK_C], tl.float32)
    for start in range(begin, end, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        valid = p < end
        if HAS_MASK:
            weights = pixel_weights(mask_ptr, p, valid, width, mask_stride_y, mask_stride_x)
            valid = valid & (weights != 0)  # pixels of weight 0 may be NaN
        at = (p // width).to(tl.int64) * stride_y + (p % width).to(tl.int64) * stride_x
        a = tl.load(
            features_ptr + left.to(tl.int64)[:, None] * stride_c + at[None, :],
            mask=(left < channels)[:, None] & valid[None, :],
            other=0.0,
        ).to(tl.float32)
        if ONE_BLOCK:
            b = tl.trans(a)  # read once, not once for each operand
        else:
            b = tl.load(
                features_ptr + right.to(tl.int64)[None, :] * stride_c + at[:, None],
                mask=valid[:, None] & (right < channels)[None, :],
                other=0.0,
            ).to(tl.float32)
        if HAS_MASK:
            a *= weights[None, :]
        total = tl.dot(a, b, total, input_precision=PRECISION)
    inside = lanes[:, None] * BLOCK_C + lanes[None, :]
    tl.store(sums_ptr + program.to(tl.int64) * (BLOCK_C * BLOCK_C) + inside, total)


@triton.jit
def conv_gram_partial_kernel(
    images_ptr,
    weight_ptr,
    bias_ptr,
    mask_ptr,
    sums_ptr,
    height,
    width,
    regions,
    splits,
    split_pixels,
    stride_n,
    stride_c,
    stride_y,
    stride_x,
    mask_stride_n,
    mask_stride_m,
    mask_stride_y,
    mask_stride_x,
    HAS_MASK: tl.constexpr,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """The same of relu(conv 3x3 (images)): features live in registers and shared memory only."""
    program = tl.program_id(0)
    split = program % splits
    region = program // splits % regions
    image = (program // (splits * regions)).to(tl.int64)
    images_ptr += image * stride_n
    mask_ptr += image * mask_stride_n + region * mask_stride_m
    lanes = tl.arange(0, CHANNELS)
    tap = tl.arange(0, BLOCK_T)  # channel, row, column, as `weight` has them
    is_tap = tap < TAPS
    dy = tap // 3 % 3 - 1
    dx = tap % 3 - 1
    tap_offset = (tap // 9).to(tl.int64) * stride_c
    tap_offset += dy.to(tl.int64) * stride_y + dx.to(tl.int64) * stride_x
    taps = tl.load(
        weight_ptr + tap[:, None] * CHANNELS + lanes[None, :], mask=is_tap[:, None], other=0.0
    )
    # The bias is one tap more, of pixels that exist: the features of others are 0.
    bias = tl.load(bias_ptr + lanes)
    taps_high, taps_low = tf32_parts(tl.where((tap == TAPS)[:, None], bias[None, :], taps))
    begin = split * split_pixels
    end = tl.minimum(begin + split_pixels, height * width)
    total = tl.zeros([CHANNELS, CHANNELS], tl.float32)
    mixed = tl.zeros([CHANNELS, CHANNELS], tl.float32)  # high^T low, whose mirror is low^T high
    for start in range(begin, end, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        valid = p < end
        counted = BLOCK_P
        if HAS_MASK:
            weights = pixel_weights(mask_ptr, p, valid, width, mask_stride_y, mask_stride_x)
            valid = valid & (weights != 0)
            counted = tl.sum(valid.to(tl.int32))
        if counted > 0:  # regions share few tiles: features are seldom computed twice
            row = p // width
            column = p % width
            y = row[:, None] + dy[None, :]
            x = column[:, None] + dx[None, :]
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            pixel = row.to(tl.int64) * stride_y + column.to(tl.int64) * stride_x
            source = pixel[:, None] + tap_offset[None, :]
            patch = tl.load(
                images_ptr + source, mask=inside & valid[:, None] & is_tap[None, :], other=0.0
            ).to(tl.float32)
            patch = tl.where((tap == TAPS)[None, :] & valid[:, None], 1.0, patch)
            high, low = tf32_parts(patch)
            features = tl.dot(low, taps_high, input_precision="tf32")
            features = tl.dot(high, taps_low, features, input_precision="tf32")
            features = tl.dot(high, taps_high, features, input_precision="tf32")
            features = tl.maximum(features, 0.0, propagate_nan=tl.PropagateNan.ALL)
            if HAS_MASK:
                weighted = tl.trans(features * weights[:, None])
                total = tl.dot(weighted, features, total, input_precision="tf32x3")
            else:
                high, low = tf32_parts(features)
                rows = tl.trans(high)
                mixed = tl.dot(rows, low, mixed, input_precision="tf32")
                total = tl.dot(rows, high, total, input_precision="tf32")
    total += mixed + tl.trans(mixed)
    at = lanes[:, None] * CHANNELS + lanes[None, :]
    tl.store(sums_ptr + program.to(tl.int64) * (CHANNELS * CHANNELS) + at, total)


@triton.jit
def gram_reduce_kernel(
    sums_ptr,
    out_ptr,
    channels,
    splits,
    pairs,
    BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr,
):
    """out[matrix] = sum over splits, in order; ROWS rows of one block and of its mirror image."""
    program = tl.program_id(0)
    strips: tl.constexpr = BLOCK_C // ROWS
    strip = program % strips
    pair = program // strips % pairs
    matrix = (program // (strips * pairs)).to(tl.int64)
    row, column = block_pair(pair)
    r = strip * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.arange(0, BLOCK_C)[None, :]
    diagonal = row == column
    # Within a block on the diagonal, the upper triangle gives both halves.
    low = tl.where(diagonal, tl.minimum(r, c), r)
    high = tl.where(diagonal, tl.maximum(r, c), c)
    block = BLOCK_C * BLOCK_C
    at = sums_ptr + (matrix * splits * pairs + pair) * block + low * BLOCK_C + high
    total = tl.zeros([ROWS, BLOCK_C], tl.float32)
    for _ in range(0, splits):
        total += tl.load(at)
        at += pairs * block
    value = total.to(out_ptr.dtype.element_ty)
    y = row * BLOCK_C + r
    x = column * BLOCK_C + c
    inside = (y < channels) & (x < channels)
    out_ptr += matrix * channels * channels
    tl.store(out_ptr + y * channels + x, value, mask=inside)
    tl.store(out_ptr + x * channels + y, value, mask=inside & (row != column))


def strides(prefix: str, maps: Tensor, names: str) -> dict[str, Tensor | int]:
    """The strides of a 4-dimensional tensor as arguments."""
    return {f"{prefix}stride_{n}": s for n, s in zip(names, maps.stride(), strict=True)}


def mask_arguments(mask: Tensor | None, like: Tensor) -> dict[str, Tensor | int]:
    """Without a mask, a pointer and strides that are never used."""
    if mask is None:
        return {"mask_ptr": like, **{f"mask_stride_{n}": 0 for n in "nmyx"}}
    return {"mask_ptr": mask, **strides("mask_", mask, "nmyx")}


def plan_reduce(sums: Tensor, out: Tensor) -> Launch:
    """The launch that fills `out` (B,M,C,C) from sums (B,M,splits,pairs,block,block)."""
    batch, regions, splits, pairs, block, _ = sums.shape
    config = GramReduceConfig()
    arguments: dict[str, Tensor | int] = {
        "sums_ptr": sums,
        "out_ptr": out,
        "channels": out.shape[-1],
        "splits": splits,
        "pairs": pairs,
    }
    rows = min(config.rows, block)
    programs = batch * regions * pairs * (block // rows)
    constants = {"BLOCK_C": block, "ROWS": rows}
    return Launch(gram_reduce_kernel, programs, arguments, constants, config.num_warps)


def plan_gram(features: Tensor, mask: Tensor | None, out: Tensor) -> tuple[Launch, Launch]:
    """The launches that fill `out` (B,M,C,C), contiguous, from any strides."""
    batch, channels, height, width = features.shape
    regions = out.shape[1]
    config = GramConfig()
    block = config.block(channels)
    blocks = -(-channels // block)
    pairs = blocks * (blocks + 1) // 2
    splits, split_pixels = config.split(height * width)
    sums = torch.empty(
        (batch, regions, splits, pairs, block, block), dtype=torch.float32, device=out.device
    )
    arguments: dict[str, Tensor | int] = {
        "features_ptr": features,
        **mask_arguments(mask, sums),
        "sums_ptr": sums,
        "channels": channels,
        "pixels": height * width,
        "width": max(width, 1),
        "regions": regions,
        "splits": splits,
        "split_pixels": split_pixels,
        "pairs": pairs,
        **strides("", features, "ncyx"),
    }
    # TF32 holds half types exactly, as long as no weight multiplies them.
    exact = features.dtype != torch.float32 and mask is None
    whole = channels % block == 0
    constants = {
        "HAS_MASK": mask is not None,
        "PRECISION": "tf32" if exact else "tf32x3",
        "ONE_BLOCK": pairs == 1 and whole,  # of 20 channels it spilled on sm_100
        "BLOCK_C": block,
        "BLOCK_P": config.block_p if whole else config.partial_block_p,
    }
    programs = batch * regions * splits * pairs
    warps = config.num_warps if mask is None else config.masked_warps
    partial = Launch(gram_partial_kernel, programs, arguments, constants, warps)
    return partial, plan_reduce(sums, out)


def plan_conv_gram(
    images: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None, out: Tensor
) -> tuple[Launch, Launch]:
    """The same from images (B,3,H,W), weight (27,64) and bias (64), both float32, contiguous."""
    batch, _, height, width = images.shape
    regions = out.shape[1]
    config = ConvGramConfig()
    splits, split_pixels = config.split(height * width)
    sums = torch.empty(
        (batch, regions, splits, 1, CONV_CHANNELS, CONV_CHANNELS),
        dtype=torch.float32,
        device=out.device,
    )
    arguments: dict[str, Tensor | int] = {
        "images_ptr": images,
        "weight_ptr": weight,
        "bias_ptr": bias,
        **mask_arguments(mask, sums),
        "sums_ptr": sums,
        "height": height,
        "width": max(width, 1),
        "regions": regions,
        "splits": splits,
        "split_pixels": split_pixels,
        **strides("", images, "ncyx"),
    }
    constants = {
        "HAS_MASK": mask is not None,
        "CHANNELS": CONV_CHANNELS,
        "TAPS": CONV_TAPS,
        "BLOCK_T": config.block_t,
        "BLOCK_P": config.block_p if mask is None else config.masked_block_p,
    }
    programs = batch * regions * splits
    partial = Launch(conv_gram_partial_kernel, programs, arguments, constants, config.num_warps)
    return partial, plan_reduce(sums, out)


def launch_gram(features: Tensor, mask: Tensor | None, out: Tensor) -> None:
    """Fill `out`; arguments as for `plan_gram`."""
    for launch in plan_gram(features, mask, out):
        launch.run()


def launch_conv_gram(
    images: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None, out: Tensor
) -> None:
    """Fill `out`; arguments as for `plan_conv_gram`."""
    for launch in plan_conv_gram(images, weight, bias, mask, out):
        launch.run()


def workloads() -> list[Workload]:
    """Gram matrices of 150 sources' conv1_1 features, stored or not (section 6.1)."""
    found = []
    images = torch.empty((150, 3, 128, 128), device="meta")
    weight = torch.empty((CONV_TAPS, CONV_CHANNELS), device="meta")
    mask = torch.empty((150, 2, 128, 128), device="meta")
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        features = torch.empty((150, CONV_CHANNELS, 128, 128), dtype=dtype, device="meta")
        name, out = dtype_name(features), features.new_empty((150, 1, CONV_CHANNELS, CONV_CHANNELS))
        partial, reduce = plan_gram(features, None, out)
        triangle = features.shape[0] * 128 * 128 * CONV_CHANNELS * (CONV_CHANNELS + 1)
        found.append(workload(partial, name, [features], triangle))
        found.append(workload(reduce, name, [out]))
        of_regions = features.new_empty((150, 2, CONV_CHANNELS, CONV_CHANNELS))
        partial, _ = plan_gram(features, mask, of_regions)
        found.append(workload(partial, f"{name} mask", [features, mask], 2 * triangle))
        few = features.new_empty((150, 20, 17, 19))  # no whole block, no whole pack
        sums = 150 * 17 * 19 * 20 * 21
        partial, _ = plan_gram(few, None, few.new_empty((150, 1, 20, 20)))
        found.append(workload(partial, f"{name} 20 channels", [few], sums))
        region = mask[:, :, :17, :19]
        partial, _ = plan_gram(few, region, few.new_empty((150, 2, 20, 20)))
        found.append(workload(partial, f"{name} 20 channels mask", [few, region], 2 * sums))
        operations = 150 * 128 * 128 * CONV_CHANNELS * (2 * CONV_TAPS + CONV_CHANNELS + 1)
        pictures = images.to(dtype)
        partial, _ = plan_conv_gram(pictures, weight, weight[0], None, out)
        found.append(workload(partial, name, [pictures, out], operations))
        partial, _ = plan_conv_gram(pictures, weight, weight[0], mask, of_regions)
        found.append(workload(partial, f"{name} mask", [pictures, mask, of_regions], operations))
    return found
