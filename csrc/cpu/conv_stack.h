// Stacks of 3x3 convolutions on CPUs: what one layer's kernel is given, and its variants.
//
// Feature maps are kept as cells of 4x4 pixels, [image][cell row][cell column][16 pixels][channels], from
// the entrance of a stack to its exit. A cell is a tile of Winograd's F(4x4, 3x3) (see conv.h), all its
// sixteen pixels lie together, and pixel shuffles are a matter of addresses. Cells lie on the grid of the
// whole map whatever part of it is computed, so that a window made of whole cells has the whole map's bits.
#pragma once

#include "conv.h"

namespace fastbg {

constexpr std::int64_t kStackSide = 4, kStackPixels = 16;  // of a cell
constexpr std::int64_t kStackTiles = 36;  // at once: their terms and sums stay in the second-level cache
constexpr std::int64_t kMaxAdded = 4;

struct StackBox {
  std::int64_t y0, x0, y1, x1;
};

// The cells that cover a part of a map. Of their pixels only those in `valid` hold values; any other counts
// as zero, beyond the border because a convolution pads so, and inside because nobody needs it.
struct StackMap {
  float* data;
  StackBox valid;
  std::int64_t top, left, down, across;  // cells
  std::int64_t channels;                 // in multiples of kConvLanes

  std::int64_t pixels_of_image() const { return down * across * kStackPixels; }

  // Number of a pixel, image by image and cell by cell.
  std::int64_t pixel(std::int64_t b, std::int64_t y, std::int64_t x) const {
    const std::int64_t cell = (y / kStackSide - top) * across + x / kStackSide - left;
    return b * pixels_of_image() + cell * kStackPixels + y % kStackSide * kStackSide + x % kStackSide;
  }
};

// One bit for each value of a map: whether the ReLU let it through. See kSignBytes in conv_stack.cpp.
struct StackSigns {
  std::uint8_t* data;  // or null
  StackMap map;        // whose values they belong to
};

constexpr std::int64_t signs_of_pixel(std::int64_t channels) { return channels / 4; }  // bytes, at most

// out = gated (added + scale * relu (conv 3x3 (in) + bias)) for the pixels in `box`, on whose grid a map
// that is shuffled by r has channel (dy r + dx) C + c of a pixel as channel c of the pixel (dy, dx) in its
// block of r x r.
struct StackJob {
  std::int64_t images;
  StackBox box;
  StackMap in, out;  // out without data where there is a result
  std::int64_t in_upscale, out_upscale;
  const float* factors;
  const float* bias;  // by place, each padded as out.channels, or null
  bool relu;
  float scale;
  std::int64_t added;
  StackMap add[kMaxAdded];
  StackSigns signs, gate;
  TensorView result;  // (B,C,h,w) of the box, or its data is null
  std::int64_t block, blocks;  // cells that are handled together
  // Tiles begin so many pixels behind the cells, where nobody asks for the whole map's bits: fewer cover the box.
  std::int64_t shift_y, shift_x;
};

// A tensor (B,C,h,w), whose first pixel is (top, left) of its map, to cells; gated, if there is a gate.
struct StackEntranceJob {
  TensorView from;
  std::int64_t top, left;
  StackMap to;
  StackSigns gate;
};

FASTBG_DECLARE_VARIANTS(conv_stack_layer, StackJob)
FASTBG_DECLARE_VARIANTS(conv_stack_entrance, StackEntranceJob)

}  // namespace fastbg
