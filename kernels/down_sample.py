"""Parts of the down-sampling kernels of composites, with hard and bridged seams."""

import triton
import triton.language as tl


@triton.jit
def lines_of(program, count, tiles_x, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr):
    """Lines [BLOCK_Y, 1] and columns [1, BLOCK_X] of a program's tile, and which lines exist.

    Rows of all planes are numbered consecutively, so that a tile may span two images.
    """
    line = program // tiles_x * BLOCK_Y + tl.arange(0, BLOCK_Y)[:, None]
    x = program % tiles_x * BLOCK_X + tl.arange(0, BLOCK_X)[None, :]
    return line, x, line < count


@triton.jit
def lines_of_image(tiles, count, tiles_x, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr):
    """This program's image (int64), if each has `tiles` tiles, and `lines_of` its tile."""
    program = tl.program_id(0)
    line, x, in_y = lines_of(program % tiles, count, tiles_x, BLOCK_Y, BLOCK_X)
    return (program // tiles).to(tl.int64), line, x, in_y


@triton.jit
def taps_of_columns(index_ptr, weight_ptr, x, in_x, taps, BLOCK_TAPS: tl.constexpr):
    """Input columns and weights of the taps of columns x, and which exist: (.., BLOCK_TAPS)."""
    tap = tl.arange(0, BLOCK_TAPS)[None, None, :]
    exists = in_x[:, :, None] & (tap < taps)
    at = x[:, :, None] * taps + tap
    column = tl.load(index_ptr + at, mask=exists, other=0)
    return column, tl.load(weight_ptr + at, mask=exists, other=0), exists
