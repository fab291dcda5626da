"""Kernel that assembles the input of a layer for changes of one image (N images, C channels).

Each image has its own part of the map, where it differs from the unchanged image's map, which is
kept. `change_assemble_kernel` copies, for all images, the pixels that the layer reads: own ones
where there are, kept ones around them. Where the layer adds a residual, the same launch copies that
map's pixels too.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launch
from .launch_configs import AssembleConfig
from .workloads import Workload, workload

# Sizes differ from layer to layer and from batch to batch: compiled once for all of them.
SIZES = ["height", "width", "own_height", "own_width", "kept_top", "kept_left", "kept_width"]


@triton.jit
def assemble(
    own_ptr, own_corners_ptr, kept_ptr, corners_ptr, out_ptr, image, p, lane,
    height, width, own_height, own_width, kept_top, kept_left, kept_width, channels,
):  # fmt: skip
    """Copies channels `lane` of the pixels `p` of an image's part (height, width) of a map."""
    row, column = p // width, p % width
    y = tl.load(corners_ptr + 2 * image) + row
    x = tl.load(corners_ptr + 2 * image + 1) + column
    own_y = y - tl.load(own_corners_ptr + 2 * image)
    own_x = x - tl.load(own_corners_ptr + 2 * image + 1)
    own = (own_y >= 0) & (own_y < own_height) & (own_x >= 0) & (own_x < own_width)
    exists = (p < height * width)[:, None] & (lane < channels)[None, :]
    at = ((image * own_height + own_y) * own_width + own_x) * channels
    value = tl.load(own_ptr + at[:, None] + lane[None, :], mask=exists & own[:, None], other=0.0)
    at = ((y - kept_top).to(tl.int64) * kept_width + x - kept_left) * channels
    around = exists & (own == 0)[:, None]
    kept = tl.load(kept_ptr + at[:, None] + lane[None, :], mask=around, other=0.0)
    at = ((image * height + row) * width + column) * channels
    value = tl.where(own[:, None], value, kept)
    tl.store(out_ptr + at[:, None] + lane[None, :], value, mask=exists)


@triton.jit(do_not_specialize=["blocks_p", *(f"{part}_{size}" for part in "ab" for size in SIZES)])
def change_assemble_kernel(
    a_own_ptr, a_own_corners_ptr, a_kept_ptr, a_corners_ptr, a_out_ptr,
    b_own_ptr, b_own_corners_ptr, b_kept_ptr, b_corners_ptr, b_out_ptr,
    blocks_p, blocks_c,
    a_height, a_width, a_own_height, a_own_width, a_kept_top, a_kept_left, a_kept_width, a_channels,
    b_height, b_width, b_own_height, b_own_width, b_kept_top, b_kept_left, b_kept_width, b_channels,
    HAS_B: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Copies BLOCK_P pixels and BLOCK_C channels of an image's part of the map a, and of b."""
    program = tl.program_id(0)
    lane = program % blocks_c * BLOCK_C + tl.arange(0, BLOCK_C)
    block = program // blocks_c
    p = block % blocks_p * BLOCK_P + tl.arange(0, BLOCK_P)
    image = (block // blocks_p).to(tl.int64)
    assemble(
        a_own_ptr, a_own_corners_ptr, a_kept_ptr, a_corners_ptr, a_out_ptr, image, p, lane,
        a_height, a_width, a_own_height, a_own_width, a_kept_top, a_kept_left, a_kept_width,
        a_channels,
    )  # fmt: skip
    if HAS_B:
        assemble(
            b_own_ptr, b_own_corners_ptr, b_kept_ptr, b_corners_ptr, b_out_ptr, image, p, lane,
            b_height, b_width, b_own_height, b_own_width, b_kept_top, b_kept_left, b_kept_width,
            b_channels,
        )  # fmt: skip


@dataclass(frozen=True)
class Assembled:
    """A part of a map to assemble.

    own: (N,C,h,w), and kept: (1,C,H,W), which begins at (top, left) of the map; both channels_last,
        as is out: (N,C,height,width). own_corners, corners: (N,2) int32, contiguous: where each
        image's part of `own` and of `out` begins. All of `out` lies in `own` or in `kept`.
    """

    own: Tensor
    own_corners: Tensor
    kept: Tensor
    top: int
    left: int
    corners: Tensor
    out: Tensor

    def arguments(self, which: str) -> dict[str, Tensor | int | float]:
        """The kernel's arguments whose names begin with `which`."""
        found: dict[str, Tensor | int | float] = {
            "own_ptr": self.own,
            "own_corners_ptr": self.own_corners,
            "kept_ptr": self.kept,
            "corners_ptr": self.corners,
            "out_ptr": self.out,
            "height": self.out.shape[2],
            "width": self.out.shape[3],
            "own_height": self.own.shape[2],
            "own_width": self.own.shape[3],
            "kept_top": self.top,
            "kept_left": self.left,
            "kept_width": self.kept.shape[3],
            "channels": self.out.shape[1],
        }
        return {f"{which}_{name}": value for name, value in found.items()}


def plan_assemble(a: Assembled, b: Assembled | None) -> Launch:
    """The launch that fills ``a.out``, and ``b.out`` of the same number of images."""
    config, parts = AssembleConfig(), [a, b or a]
    block_c = config.block_c(max(part.out.shape[1] for part in parts))
    block_p = config.block_p(block_c)
    pixels = max(part.out.shape[2] * part.out.shape[3] for part in parts)
    blocks_p = -(-pixels // block_p)
    blocks_c = -(-max(part.out.shape[1] for part in parts) // block_c)
    arguments: dict[str, Tensor | int | float] = {"blocks_p": blocks_p, "blocks_c": blocks_c}
    arguments |= a.arguments("a") | (b or a).arguments("b")
    constants = {"HAS_B": b is not None, "BLOCK_P": block_p, "BLOCK_C": block_c}
    programs = len(a.out) * blocks_p * blocks_c
    return Launch(change_assemble_kernel, programs, arguments, constants, config.num_warps)


def workloads() -> list[Workload]:
    """192 changes of EDSR's body, halfway: its layers read 24x24 and add 22x22 pixels."""
    kept = maps(1, 80, 64)
    corners = torch.empty((192, 2), dtype=torch.int32, device="meta")
    crop, added = maps(192, 24, 64), maps(192, 22, 64)
    a = Assembled(maps(192, 20, 64), corners, kept, 0, 0, corners, crop)
    b = Assembled(maps(192, 18, 64), corners, kept, 0, 0, corners, added)
    rgb = maps(192, 24, 3)
    first = Assembled(maps(192, 2, 3), corners, maps(1, 80, 3), 0, 0, corners, rgb)
    return [
        workload(plan_assemble(a, None), "fp32", [crop, crop]),
        workload(plan_assemble(a, b), "fp32 residual", [crop, crop, added, added]),
        workload(plan_assemble(first, None), "fp32 first", [rgb, rgb]),
    ]


def maps(count: int, side: int, channels: int) -> Tensor:
    """Maps (count,channels,side,side), channels_last, without data."""
    return torch.empty((count, side, side, channels), device="meta").permute(0, 3, 1, 2)
