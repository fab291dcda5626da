"""Kernels of the 3x3 convolution, for B images, C channels and a box of H x W pixels of a map.

`conv3x3_fwd_kernel` is an implicit matrix product (without im2col) on tensor cores: for each of the
nine taps a program reads its pixels, shifted by the tap, directly from the map, and multiplies them
by that tap's weight. So a map may be a strided view, and pixels outside of it count as zero. Bias,
ReLU, residual sum and pixel shuffle are applied before the only store. The gradient to the input is
computed by the same kernel: the weight is transposed and its taps are flipped, loads undo a pixel
shuffle, and the store applies the gradient of the previous layer's ReLU.

In precision "ieee", a float32 product is computed as three TF32 products: each factor is split into
its TF32 value and the remainder. Weights are split once, by `conv3x3_pack_kernel`, which packs the
weights of many convolutions in one launch: channels are padded to whole blocks, and the positions
of a pixel shuffle are separated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from .conv_ending import Ending, Placed
from .launch import Launch, is_interpreted
from .launch_configs import ConvConfig, ConvPackConfig
from .workloads import Workload, workload


@triton.jit
def rounded_to_tf32(value):
    """`value` rounded to 10 bits of mantissa (TF32); NaN and infinity are unchanged."""
    bits = value.to(tl.int32, bitcast=True)
    nearest = ((bits + 0x1000) & -8192).to(tl.float32, bitcast=True)
    return tl.where(value == value, nearest, value)


@triton.jit
def conv3x3_pack_kernel(
    table_ptr, weight_ptr, packed_ptr, blocks, rests, SPLIT: tl.constexpr, BLOCK: tl.constexpr
):
    """Packs a block of one weight: packed[tap, place read, place written, output, input].

    A place is a position inside the block of a pixel shuffle. `weight_ptr` gives only the dtype;
    the weights' addresses are in the table, see `table_row`. With SPLIT, the remainders that TF32
    cannot represent are stored `rests` elements after the TF32 values.
    """
    program = tl.program_id(0)
    row = table_ptr + (program // blocks) * 13
    weight = tl.load(row).to(weight_ptr.dtype)
    start, count = tl.load(row + 1), tl.load(row + 2)
    outputs, inputs = tl.load(row + 3), tl.load(row + 4)
    padded_outputs, padded_inputs = tl.load(row + 5), tl.load(row + 6)
    written, read = tl.load(row + 7), tl.load(row + 8)
    stride_o, stride_i = tl.load(row + 9), tl.load(row + 10)
    stride_y, stride_x = tl.load(row + 11), tl.load(row + 12)
    at = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    i = at % padded_inputs
    o = at // padded_inputs % padded_outputs
    place = at // (padded_inputs * padded_outputs)
    tap = place // (written * read)
    source = (o * written + place % written) * stride_o
    source += (i * read + place // written % read) * stride_i
    source += tap // 3 * stride_y + tap % 3 * stride_x
    exists = (at < count) & (o < outputs) & (i < inputs)
    value = tl.load(weight + source, mask=exists, other=0.0)
    packed_ptr += start
    if SPLIT:
        most = rounded_to_tf32(value)
        rest = tl.where(tl.abs(most) == float("inf"), 0.0, value - most)
        tl.store(packed_ptr + rests + at, rounded_to_tf32(rest), mask=at < count)
        value = most
    tl.store(packed_ptr + at, value.to(packed_ptr.dtype.element_ty), mask=at < count)


@triton.jit
def conv3x3_fwd_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    residual_ptr,
    gate_ptr,
    sums_ptr,
    out_ptr,
    rests,
    residual_scale,
    channels,
    padded_channels,
    inputs,
    padded_inputs,
    height,
    width,
    blocks_p,
    x_height,
    x_width,
    x_down,
    x_right,
    residual_height,
    residual_width,
    residual_down,
    residual_right,
    x_stride_n,
    x_stride_c,
    x_stride_y,
    x_stride_x,
    residual_stride_n,
    residual_stride_c,
    residual_stride_y,
    residual_stride_x,
    gate_stride_n,
    gate_stride_c,
    gate_stride_y,
    gate_stride_x,
    out_stride_n,
    out_stride_c,
    out_stride_y,
    out_stride_x,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_GATE: tl.constexpr,
    HAS_SUMS: tl.constexpr,
    RELU: tl.constexpr,
    READ: tl.constexpr,
    WRITTEN: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDENED: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Computes BLOCK_P pixels and BLOCK_N channels, for one position in the pixel shuffle's block.

    READ: factor of the pixel shuffle that loads undo; WRITTEN: of the one that the store applies.
    Pixel (0, 0) is at (x_down, x_right) in `x`, and its shuffled block at (residual_down,
    residual_right) in `residual`; both count as zero outside. `sums` gets each channel's sum over
    each block of pixels, from which the channels' means are computed.
    """
    program = tl.program_id(0)
    blocks_n = padded_channels // BLOCK_N
    block_n = program % blocks_n
    place = program // blocks_n % (WRITTEN * WRITTEN)
    block = program // (blocks_n * WRITTEN * WRITTEN)  # block of pixels, counted over all images
    image = (block // blocks_p).to(tl.int64)
    p = block % blocks_p * BLOCK_P + tl.arange(0, BLOCK_P)
    valid = p < height * width
    y = p // width
    x = p % width
    x_y = y + x_down
    x_x = x + x_right
    k = tl.arange(0, BLOCK_K)
    lanes = tl.arange(0, BLOCK_N)
    pixel = x_y.to(tl.int64) * (READ * x_stride_y) + x_x.to(tl.int64) * (READ * x_stride_x)
    at_x = x_ptr + image * x_stride_n + pixel[:, None] + k.to(tl.int64)[None, :] * x_stride_c
    matrix = padded_channels * padded_inputs
    at_weight = weight_ptr + place * matrix
    at_weight += (block_n * BLOCK_N + lanes)[:, None] * padded_inputs + k[None, :]
    total = tl.zeros([BLOCK_P, BLOCK_N], tl.float32)
    rest = tl.zeros([BLOCK_P, BLOCK_N], tl.float32)
    steps = padded_inputs // BLOCK_K
    for step in tl.range(0, 9 * READ * READ * steps, num_stages=STAGES):
        first = step % steps * BLOCK_K
        tap = step // (READ * READ * steps)
        corner = step // steps % (READ * READ)
        dy = tap // 3 - 1
        dx = tap % 3 - 1
        inside = valid & (x_y + dy >= 0) & (x_y + dy < x_height)
        inside = inside & (x_x + dx >= 0) & (x_x + dx < x_width)
        moved = (dy * READ + corner // READ).to(tl.int64) * x_stride_y
        moved += (dx * READ + corner % READ).to(tl.int64) * x_stride_x
        moved += first.to(tl.int64) * x_stride_c
        mask = inside[:, None] & (first + k < inputs)[None, :]
        value = tl.load(at_x + moved, mask=mask, other=0.0)
        taps = at_weight + (step // steps * (WRITTEN * WRITTEN * matrix) + first)
        weight = tl.trans(tl.load(taps))
        if PRECISION == "tf32x3":
            # Truncated, as rounding the bits would turn NaN into a number; remainders are rounded.
            most = (value.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
            left = ((value - most).to(tl.int32, bitcast=True) + 0x1000) & -8192
            left = left.to(tl.float32, bitcast=True)
            total = tl.dot(most, weight, total, input_precision="tf32")
            rest = tl.dot(left, weight, rest, input_precision="tf32")
            rest = tl.dot(most, tl.trans(tl.load(taps + rests)), rest, input_precision="tf32")
        else:
            value = value.to(weight.dtype)
            if WIDENED:
                value, weight = value.to(tl.float32), weight.to(tl.float32)
            total = tl.dot(value, weight, total, input_precision=PRECISION)
    if PRECISION == "tf32x3":  # the remainder of an infinity is NaN
        total = tl.where(tl.abs(total) == float("inf"), total, total + rest)

    n = block_n * BLOCK_N + lanes
    channel = n.to(tl.int64)[None, :]
    kept = valid[:, None] & (n < channels)[None, :]
    if HAS_BIAS:
        of_channel = tl.load(
            bias_ptr + n * (WRITTEN * WRITTEN) + place, mask=n < channels, other=0.0
        )
        total += of_channel.to(tl.float32)[None, :]
    if RELU:
        total = tl.where(total < 0, 0.0, total)  # NaN is kept
    if HAS_SUMS:
        sums = tl.sum(tl.where(valid[:, None], total, 0.0), 0)
        at = sums_ptr + block.to(tl.int64) * padded_channels
        tl.store(at + n, sums)
    row = (y * WRITTEN + place // WRITTEN).to(tl.int64)[:, None]
    column = (x * WRITTEN + place % WRITTEN).to(tl.int64)[:, None]
    if HAS_RESIDUAL:
        r_y = row + residual_down
        r_x = column + residual_right
        there = (r_y >= 0) & (r_y < residual_height) & (r_x >= 0) & (r_x < residual_width)
        at = residual_ptr + image * residual_stride_n + channel * residual_stride_c
        at += r_y * residual_stride_y + r_x * residual_stride_x
        residual = tl.load(at, mask=kept & there, other=0.0).to(tl.float32)
        total = residual + residual_scale * total
    else:
        total *= residual_scale
    if HAS_GATE:
        at = gate_ptr + image * gate_stride_n + channel * gate_stride_c
        at += row * gate_stride_y + column * gate_stride_x
        gate = tl.load(at, mask=kept, other=0.0).to(tl.float32)
        total = tl.where(gate <= 0, 0.0, total)
    at = out_ptr + image * out_stride_n + channel * out_stride_c
    at += row * out_stride_y + column * out_stride_x
    tl.store(at, total.to(out_ptr.dtype.element_ty), mask=kept)


# Triton compiles a kernel again for sizes that are 1 or multiples of 16. This one is compiled once
# for maps of all sizes, for callers whose sizes change in each call.
conv3x3_any_size_kernel = triton.jit(
    conv3x3_fwd_kernel.fn,
    do_not_specialize=[
        *("height", "width", "blocks_p", "x_height", "x_width"),
        *("residual_height", "residual_width"),
    ],
)


@dataclass(frozen=True)
class Filter:
    """A weight (Co,Ci,3,3) and its use: in a convolution, or (transposed) in its input gradient."""

    weight: Tensor
    upscale: int  # factor of the pixel shuffle after the convolution
    transposed: bool

    @property
    def read(self) -> int:
        """Factor of the pixel shuffle that loads undo."""
        return self.upscale if self.transposed else 1

    @property
    def written(self) -> int:
        """Factor of the pixel shuffle that the store applies."""
        return 1 if self.transposed else self.upscale

    @property
    def inputs(self) -> int:
        """Number of channels read for each position in the shuffle's block."""
        return self.weight.shape[0 if self.transposed else 1] // self.read**2

    @property
    def outputs(self) -> int:
        """Number of channels written, for each position in the shuffle's block."""
        return self.weight.shape[1 if self.transposed else 0] // self.written**2

    def blocks(self, precision: str) -> tuple[int, int]:
        """Number of channels that a block writes, and number that it reads."""
        config = ConvConfig()
        return config.block_n(self.outputs), config.block_k(self.inputs, precision)

    def padded(self, precision: str) -> tuple[int, int]:
        """Numbers of channels written and read, rounded up to whole blocks."""
        block_n, block_k = self.blocks(precision)
        return -(-self.outputs // block_n) * block_n, -(-self.inputs // block_k) * block_k

    def count(self, precision: str) -> int:
        """Number of elements of the packed weight, without remainders."""
        outputs, inputs = self.padded(precision)
        return 9 * self.read**2 * self.written**2 * outputs * inputs


@dataclass(frozen=True)
class Packed:
    """A filter as packed by `conv3x3_pack_kernel`."""

    filter: Filter
    memory: Tensor  # starts at the filter's first element
    rests: int  # offset of its remainders, in elements
    precision: str


def products(dtype: torch.dtype, precision: str) -> tuple[str, torch.dtype]:
    """The kind of products, "tf32x3" or "tf32" (which half types ignore), and the weights' dtype.

    `dtype` is that of the maps. `precision`, ieee, tf32 or bf16, says how float32 is rounded.
    """
    if dtype == torch.float32 and precision == "ieee":
        return "tf32x3", dtype
    rounded = dtype == torch.float32 and precision == "bf16"
    return "tf32", torch.bfloat16 if rounded else dtype


def table_row(one: Filter, start: int, precision: str) -> list[int]:
    """The table row of a filter for `conv3x3_pack_kernel`, packed from element `start` on."""
    weight = one.weight
    stride_o, stride_i, stride_y, stride_x = weight.stride()
    address = weight.data_ptr()
    if one.transposed:  # the last tap becomes the first
        address += 2 * (stride_y + stride_x) * weight.element_size()
        stride_o, stride_i, stride_y, stride_x = stride_i, stride_o, -stride_y, -stride_x
    return [
        *(address, start, one.count(precision), one.outputs, one.inputs),
        *one.padded(precision),
        *(one.written**2, one.read**2, stride_o, stride_i, stride_y, stride_x),
    ]


@dataclass(frozen=True)
class PackPlan:
    """Packed filters, and the launch that packs them once its table is on the device."""

    rows: list[list[int]]  # of the table, an int64, contiguous tensor on the device
    packed: list[Packed]
    incomplete: Launch

    def launch(self, table: Tensor) -> Launch:
        """The launch with this table."""
        arguments = {**self.incomplete.arguments, "table_ptr": table}
        return replace(self.incomplete, arguments=arguments)


def plan_pack(filters: Sequence[Filter], precision: str) -> PackPlan:
    """Plans the packing of filters of one dtype; `precision` as for `products`."""
    config, weight = ConvPackConfig(), filters[0].weight
    kind, dtype = products(weight.dtype, precision)
    counts = [one.count(kind) for one in filters]
    starts, split = [0, *accumulate(counts)], kind == "tf32x3"
    memory = weight.new_empty((2 if split else 1) * starts[-1], dtype=dtype)
    blocks = -(-max(counts) // config.block)
    arguments: dict[str, Tensor | int | float] = {
        "weight_ptr": weight,
        "packed_ptr": memory,
        "blocks": blocks,
        "rests": starts[-1],
    }
    constants = {"SPLIT": split, "BLOCK": config.block}
    placed = list(zip(filters, starts, strict=False))
    return PackPlan(
        [table_row(one, at, kind) for one, at in placed],
        [Packed(one, memory[at:], starts[-1], kind) for one, at in placed],
        Launch(conv3x3_pack_kernel, blocks * len(filters), arguments, constants, config.num_warps),
    )


def plan_conv3x3(
    x: Placed, packed: Packed, ending: Ending, out: Tensor, any_size: bool = False
) -> Launch:
    """The launch that fills `out` (any strides), after a pixel shuffle if the filter has one.

    With `any_size`, maps of other sizes need no other machine code.
    """
    config, one = ConvConfig(), packed.filter
    height, width = (side // one.written for side in out.shape[2:])
    outputs, inputs = one.padded(packed.precision)
    block_n, block_k = one.blocks(packed.precision)
    blocks_p = pixel_blocks(height, width)
    residual, gate = ending.residual or Placed(out), out if ending.gate is None else ending.gate
    arguments: dict[str, Tensor | int | float] = {
        "x_ptr": x.map,
        "weight_ptr": packed.memory,
        "bias_ptr": out if ending.bias is None else ending.bias,
        "residual_ptr": residual.map,
        "gate_ptr": gate,
        "sums_ptr": out if ending.sums is None else ending.sums,
        "out_ptr": out,
        "rests": packed.rests,
        "residual_scale": ending.scale,
        "channels": one.outputs,
        "padded_channels": outputs,
        "inputs": one.inputs,
        "padded_inputs": inputs,
        "height": height,
        "width": width,
        "blocks_p": blocks_p,
        "x_height": x.map.shape[2] // one.read,
        "x_width": x.map.shape[3] // one.read,
        "x_down": x.down,
        "x_right": x.right,
        "residual_height": residual.map.shape[2],
        "residual_width": residual.map.shape[3],
        "residual_down": residual.down,
        "residual_right": residual.right,
        **strides("x_", x.map),
        **strides("residual_", residual.map),
        **strides("gate_", gate),
        **strides("out_", out),
    }
    constants = {
        "HAS_BIAS": ending.bias is not None,
        "HAS_RESIDUAL": ending.residual is not None,
        "HAS_GATE": ending.gate is not None,
        "HAS_SUMS": ending.sums is not None,
        "RELU": ending.relu,
        "READ": one.read,
        "WRITTEN": one.written,
        "PRECISION": packed.precision,
        # Triton's interpreter multiplies the bits of bfloat16 as integers.
        "WIDENED": is_interpreted(conv3x3_fwd_kernel) and packed.memory.dtype == torch.bfloat16,
        "STAGES": config.stages,
        "BLOCK_P": config.block_p,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
    }
    programs = len(out) * blocks_p * one.written**2 * (outputs // block_n)
    kernel = conv3x3_any_size_kernel if any_size else conv3x3_fwd_kernel
    return Launch(kernel, programs, arguments, constants, config.num_warps)


def pixel_blocks(height: int, width: int) -> int:
    """Number of blocks of pixels of one image; one program sums each block."""
    return -(-(height * width) // ConvConfig().block_p)


def strides(prefix: str, maps: Tensor) -> dict[str, Tensor | int | float]:
    return dict(zip((f"{prefix}stride_{axis}" for axis in "ncyx"), maps.stride(), strict=True))


def workloads() -> list[Workload]:
    """EDSR on 100 LR images of 32x32: a layer in each precision, its gradient, and both ends."""
    edsr = {
        "fp32": Case(64, 64, residual=True),
        "tf32": Case(64, 64, residual=True, precision="tf32"),
        "fp32 as bf16": Case(64, 64, residual=True, precision="bf16"),
        "bf16": Case(64, 64, torch.bfloat16, residual=True),
        "fp32 gradient": Case(64, 64, residual=True, transposed=True),
        "fp32 any size": Case(64, 64, residual=True, any_size=True),
        "fp32 sums": Case(64, 64, sums=True),
        "fp32 first": Case(3, 64, relu=True),
        "fp32 shuffle": Case(64, 256, upscale=2),
        "fp32 shuffle gradient": Case(64, 256, upscale=2, transposed=True),
        "fp32 last": Case(64, 3, side=128),
        "fp16 20 channels": Case(20, 20, torch.float16, side=17),  # blocks are not full
    }
    packed = [edsr[name].pack(name) for name in ("fp32", "tf32", "fp32 as bf16", "bf16")]
    return packed + [case.convolve(name) for name, case in edsr.items()]


@dataclass(frozen=True)
class Case:
    """A layer of a network for `workloads`, without data."""

    inputs: int
    outputs: int
    dtype: torch.dtype = torch.float32
    upscale: int = 1
    precision: str = "ieee"
    transposed: bool = False
    relu: bool = False
    residual: bool = False
    sums: bool = False
    any_size: bool = False
    side: int = 32

    def plan(self) -> PackPlan:
        """The plan that packs its weight."""
        weight = torch.empty((self.outputs, self.inputs, 3, 3), dtype=self.dtype, device="meta")
        return plan_pack([Filter(weight, self.upscale, self.transposed)], self.precision)

    def pack(self, name: str) -> Workload:
        """The launch that packs the weight."""
        plan = self.plan()
        table = torch.empty((1, len(plan.rows[0])), dtype=torch.int64, device="meta")
        touched = [plan.packed[0].filter.weight, plan.packed[0].memory]
        return workload(plan.launch(table), name, touched)

    def convolve(self, name: str) -> Workload:
        """The launch that computes the layer."""
        (packed,) = self.plan().packed
        one, precision = packed.filter, packed.precision
        x, out = self.maps(one.inputs, one.read), self.maps(one.outputs, one.written)
        sums = (len(x), pixel_blocks(self.side, self.side), one.padded(precision)[0])
        ending = Ending(
            None if self.transposed else one.weight.new_empty(self.outputs),
            self.relu,
            residual=Placed(out) if self.residual else None,
            gate=out if self.transposed else None,
            sums=torch.empty(sums, device="meta") if self.sums else None,
        )
        touched = [x, out, one.weight] + [out] * (self.residual + self.transposed)
        operations = 2 * 9 * self.inputs * self.outputs * len(x) * self.side**2
        launch = plan_conv3x3(Placed(x), packed, ending, out, self.any_size)
        return workload(launch, name, touched, operations)

    def maps(self, channels: int, factor: int) -> Tensor:
        """100 maps, channels_last."""
        side = self.side * factor
        maps = torch.empty((100, side, side, channels), dtype=self.dtype, device="meta")
        return maps.permute(0, 3, 1, 2)
