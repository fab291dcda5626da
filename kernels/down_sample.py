"""Parts of the down-sampling kernels of composites, with hard and bridged seams."""

import triton
import triton.language as tl


@triton.jit
def lines_of(program, count, tiles_x, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr):
    """Lines [BLOCK_Y, 1] and columns [1, BLOCK_X] of a program's tile, and which lines exist.

    The rows of all planes follow one another, so that no tile ends with its image.
    """
    line = program // tiles_x * BLOCK_Y + tl.arange(0, BLOCK_Y)[:, None]
    x = program % tiles_x * BLOCK_X + tl.arange(0, BLOCK_X)[None, :]
    return line, x, line < count


@triton.jit
def lines_of_image(tiles, count, tiles_x, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr):
    """Image (int64) of this program, of `tiles` tiles each, and `lines_of` its tile there."""
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
