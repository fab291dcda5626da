"""Launch configurations: frozen data, each number with its reason.

Chosen by shape in plain Python: `triton.autotune` needs a driver, which the interpreter lacks.
"""

from dataclasses import dataclass, replace
from typing import TypeVar

from triton import next_power_of_2

WIDTHS = (128, 64, 32, 16)  # of tiles; 16 float32 are two whole 32-byte sectors


@dataclass(frozen=True)
class Tile:
    """A program's part of an image, `block_y` x `block_x` pixels, and the warps that compute it."""

    block_y: int
    block_x: int
    num_warps: int

    def count(self, height: int, width: int) -> tuple[int, int]:
        """How many tiles cover an image (down, across)."""
        return -(-height // self.block_y), -(-width // self.block_x)

    @property
    def constants(self) -> dict[str, int]:
        """The constants that a kernel is compiled with."""
        return {"BLOCK_Y": self.block_y, "BLOCK_X": self.block_x}


@dataclass(frozen=True)
class TiledConfig:
    """A kernel whose programs each compute one tile of an image."""

    pixels: int  # of a tile, at most
    widest: int  # tile, in columns
    warp_pixels: int  # of a warp

    def tile(self, height: int, width: int) -> Tile:
        """The tile that wastes the fewest columns of an image, the widest of those."""
        if width <= WIDTHS[-1]:
            block_x = next_power_of_2(max(width, 1))
        else:
            allowed = (block for block in WIDTHS if block <= self.widest)
            block_x = min(allowed, key=lambda block: -(-width // block) * block)
        block_y = min(self.pixels // block_x, next_power_of_2(max(height, 1)))
        return Tile(block_y, block_x, max(block_y * block_x // self.warp_pixels, 1))


@dataclass(frozen=True)
class CompositeConfig(TiledConfig):
    """composite_fwd_kernel moves bytes and computes nothing."""

    pixels: int = 1024  # 4 warps: small programs, so that many of them are in flight
    widest: int = 128  # a float32 row of the tile is 512 bytes: one 128-bit access of a warp
    warp_pixels: int = 256  # 8 per thread: two 128-bit accesses to each source in flight


@dataclass(frozen=True)
class RowsConfig(TiledConfig):
    """composite_lr_rows_kernel sums whole HR rows, coalesced along x."""

    pixels: int = 1024  # 8 output rows x 128 columns: they share HR rows through L1
    widest: int = 128
    warp_pixels: int = 256


@dataclass(frozen=True)
class ColumnsConfig(TiledConfig):
    """composite_lr_columns_kernel gathers each tap with a stride of `scale` floats."""

    pixels: int = 512
    widest: int = 64  # LR rows are short
    warp_pixels: int = 128  # 4 sums per thread, whose gathers are independent of each other


@dataclass(frozen=True)
class SumConfig:
    """composite_lr_sum_kernel is a stream: two reads from L2 and one write per output."""

    block: int = 1024  # 8 outputs per thread: two 128-bit stores
    num_warps: int = 4


@dataclass(frozen=True)
class MixedConfig(TiledConfig):
    """composite_lr_mixed_kernel copies most tiles; few of them sum T^2 taps per pixel.

    Small tiles, so that few copied pixels wait for a mixed one beside them.
    """

    pixels: int = 1024  # pixels x taps of one row
    widest: int = 16
    warp_pixels: int = 256  # 8 taps per thread and row; 16 took 166 registers

    def for_taps(self, taps: int) -> "MixedConfig":
        """The configuration for pixels that each hold `taps` taps of a row, a power of 2."""
        return replace(
            self,
            pixels=max(self.pixels // taps, self.widest),
            warp_pixels=max(self.warp_pixels // taps, 1),
        )


@dataclass(frozen=True)
class BridgedConfig(TiledConfig):
    """bridged_composite_fwd_kernel holds seven addresses per pixel: few pixels per thread."""

    pixels: int = 512
    widest: int = 128
    warp_pixels: int = 64  # 2 per thread; 8 took 227 registers


@dataclass(frozen=True)
class BridgedLrConfig(MixedConfig):
    """bridged_composite_lr_kernel corrects every tap of every pixel."""

    pixels: int = 512  # pixels x taps of one row
    widest: int = 16
    warp_pixels: int = 64  # 2 taps per thread; 8 took 223 registers


@dataclass(frozen=True)
class MosaicConfig(TiledConfig):
    """mosaic_fwd_kernel reads a tile once per cell, out of L1 or L2; writes are its cost."""

    pixels: int = 1024
    widest: int = 128
    warp_pixels: int = 128  # 4 per thread: one 128-bit store


Folded = TypeVar("Folded", bound="FoldedConfig")


@dataclass(frozen=True)
class FoldedConfig(TiledConfig):
    """A kernel that keeps a sum for each class of taps: 15 for 9 x 9 taps, 45 for 17 x 17."""

    pixels: int = 128
    widest: int = 64  # LR images are small; neighbouring rows share their lines
    warp_pixels: int = 64  # 2 per thread: with 4, the 81 reads in flight spilled

    def of_radius(self: Folded, radius: int) -> Folded:
        """For `radius` taps on either side; from 6 on, the sums of 2 pixels spilled."""
        return self if radius < 6 else replace(self, pixels=64, warp_pixels=32)


@dataclass(frozen=True)
class BlurPathConfig(FoldedConfig):
    """blur_path_fwd_kernel reads 81 pixels once (L1), then writes a pixel per node."""

    group: int = 16  # nodes of a program: 5 reads per node, and programs enough for one LR image


@dataclass(frozen=True)
class PathIntegralConfig(FoldedConfig):
    """path_integral_fwd_kernel streams the gradients once; its sum is never split over programs."""


@dataclass(frozen=True)
class DetectorConfig:
    """gradient_detector_fwd_kernel: a 16x16 window of 3 channels in one round."""

    block: int = 1024
    num_warps: int = 4


@dataclass(frozen=True)
class DetectorGradConfig(TiledConfig):
    """gradient_detector_bwd_kernel reads nine neighbours (L1) and writes every pixel."""

    pixels: int = 512
    widest: int = 64
    warp_pixels: int = 128


@dataclass(frozen=True)
class SplitConfig:
    """A sum over pixels, split over programs; splits depend on the shape alone."""

    block_p: int  # pixels per step: the inner dimension of the product
    split_pixels: int  # of a program: its sum stays short enough for float32
    num_warps: int

    def split(self, pixels: int) -> tuple[int, int]:
        """How many programs share an image, and how many pixels each has."""
        splits = max(-(-pixels // self.split_pixels), 1)
        steps = -(-pixels // (splits * self.block_p))
        return splits, steps * self.block_p


@dataclass(frozen=True)
class GramConfig(SplitConfig):
    """gram_partial_kernel reads features once per block of channels."""

    block_p: int = 32  # 128 bytes of a channel's row; two 64x32 float32 operands: 16 KiB
    split_pixels: int = 1024  # 150 images of 128x128: 2,400 programs; one: 16
    num_warps: int = 4  # a 64x64 sum is 32 registers per thread
    masked_warps: int = 8  # with 4, weighted half types took 255 registers on sm_90, and spilled
    partial_block_p: int = 16  # of blocks with lanes beyond the channels: 32 spilled on sm_80

    def block(self, channels: int) -> int:
        """Channels of a block: 64 is conv1_1's matrix whole; 16 is the least of a tensor core."""
        return min(max(next_power_of_2(channels), 16), 64)


@dataclass(frozen=True)
class ConvGramConfig(SplitConfig):
    """conv_gram_partial_kernel computes 64 features of a block of pixels, then their products."""

    block_t: int = 32  # 27 taps and the bias in whole tensor-core steps of 8
    block_p: int = 64  # rows of one WGMMA, which 32 leave to slower instructions
    masked_block_p: int = 32  # 64 spill on sm_80
    split_pixels: int = 1024
    num_warps: int = 4


@dataclass(frozen=True)
class GramReduceConfig:
    """gram_reduce_kernel adds few splits of a block; strips of it fill the GPU."""

    rows: int = 16  # x 64 columns: 8 sums per thread
    num_warps: int = 4


@dataclass(frozen=True)
class ConvConfig:
    """conv3x3_fwd_kernel: every program reads all weights, so small tiles are limited by L2."""

    block_p: int = 128  # of one image; with 64, loading weights takes longer than the products
    num_warps: int = 8  # two accumulators of 32 registers per thread
    stages: int = 3  # loads of two steps in flight: 48 KiB of shared memory
    split_k: int = 16  # channels per step with three TF32 products; 32 spill registers on sm_80

    def block_n(self, outputs: int) -> int:
        """Channels written by a program; tensor cores need at least 16."""
        return min(max(next_power_of_2(outputs), 16), 64)

    def block_k(self, inputs: int, products: str) -> int:
        """Channels read in a step."""
        most = self.split_k if products == "tf32x3" else 32
        return min(max(next_power_of_2(inputs), 16), most)


@dataclass(frozen=True)
class ConvPackConfig:
    """conv3x3_pack_kernel gathers weights once per pass: 8 elements per thread."""

    block: int = 1024
    num_warps: int = 4


@dataclass(frozen=True)
class AttentionConfig:
    """attention_fwd_kernel and its gradient: programs add up sums, then stream their pixels."""

    block_p: int = 32  # x 64 channels: 16 values of each map per thread
    num_warps: int = 4
    most_shares: int = 64  # programs of an image, each of which adds up all of its sums

    def shares(self, height: int, width: int) -> int:
        """Programs that share an image."""
        return min(-(-(height * width) // self.block_p), self.most_shares)

    def constants(self, channels: int) -> dict[str, int]:
        """The constants that the kernels are compiled with."""
        return {"BLOCK_P": self.block_p, "BLOCK_C": next_power_of_2(channels)}


@dataclass(frozen=True)
class WindowAttentionConfig:
    """window_attention_fwd_kernel and its gradient hold all logits of a window in registers."""

    most_tokens: int = 64  # a window of 8; 144 keys at once spilled
    block_d: int = 16  # channels of a head at once; 32 spilled on sm_80
    deep_out: int = 8  # of the gradient to deeper heads, where 16 spilled

    def block(self, window: int) -> int:
        """Tokens of a window, filled up; tensor cores need at least 16."""
        return max(next_power_of_2(window**2), 16)

    def block_out(self, depth: int) -> int:
        """Channels of the gradient at once."""
        return self.block_d if depth <= self.block_d else self.deep_out

    def warps(self, window: int) -> int:
        """One for each 16 rows of logits: more would compute the same rows again."""
        return max(self.block(window) // 16, 1)


@dataclass(frozen=True)
class AssembleConfig:
    """change_assemble_kernel copies pixels, whose channels lie one after the other."""

    elements: int = 2048  # of a program: four 128-bit accesses per thread
    most_c: int = 64  # channels of a block
    num_warps: int = 4

    def block_c(self, channels: int) -> int:
        """Channels of a block."""
        return min(next_power_of_2(channels), self.most_c)

    def block_p(self, block_c: int) -> int:
        """Pixels of a block."""
        return min(self.elements // block_c, 128)
