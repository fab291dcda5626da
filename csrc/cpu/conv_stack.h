// Stacks of 3x3 convolutions on CPUs: parameters of one layer's kernel, and its variants.
//
// Feature maps are stored as cells of 4x4 pixels, [image][cell row][cell column][16 pixels][channels], from
// the input of a stack to its output. A cell is a tile of Winograd's F(4x4, 3x3) (see conv.h), its sixteen
// pixels are contiguous, and a pixel shuffle only changes addresses. Cells are aligned to the whole map also
// if a part of it is computed, so that a window of whole cells equals the whole map's pixels bit for bit.
#pragma once

#include "conv.h"

namespace fastbg {

constexpr std::int64_t kStackSide = 4, kStackPixels = 16;  // of a cell
constexpr std::int64_t kMaxAdded = 4;

struct StackBox {
  std::int64_t y0, x0, y1, x1;
};

// The cells that cover a part of a map. Only pixels in `valid` hold values; all others count as zero: those
// outside the map as padding, those inside because nothing needs them.
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

// Columns x0 to x1 of a row; none unless x0 < x1.
struct StackSpan {
  std::int64_t x0, x1;
};

// Some pixels of a map: a span of each row from y0 to y1.
struct StackRows {
  std::int64_t y0, y1;
  const StackSpan* spans;

  StackSpan row(std::int64_t y) const { return y >= y0 && y < y1 ? spans[y - y0] : StackSpan{0, 0}; }
  bool has(std::int64_t y, std::int64_t x) const {
    const StackSpan span = row(y);
    return x >= span.x0 && x < span.x1;
  }
};

// The map of one image: `own` pixels are in `map`, all others in the map of another image.
struct StackPatchedMap {
  StackMap map;
  StackRows own;
  const StackMap* kept;  // whose `valid` counts
};

// One bit for each value of a map: whether it passed the ReLU. See kSignBytes in conv_stack.cpp.
struct StackSigns {
  std::uint8_t* data;  // or null
  StackMap map;        // whose values they belong to
};

constexpr std::int64_t signs_of_pixel(std::int64_t channels) { return channels / 4; }  // bytes, at most

// The sum over each cell's pixels, (images, cells, channels): of a map, or of its product with another.
struct StackSums {
  float* data;     // or null
  StackMap times;  // or its data is null
};

// A tensor (B,C,h,w) that holds the pixels `box` of a map that is `upscale` times as fine as a grid of cells:
// channel (c upscale + dy) upscale + dx of a pixel of the grid is channel c of the pixel (dy, dx) in its block.
struct StackShuffled {
  TensorView view;  // or its data is null
  StackBox box;
  std::int64_t upscale;

  std::int64_t channels() const { return view.sizes[1] * upscale * upscale; }
};

// An image of which a layer computes the pixels `computed` only, see StackJob.
struct StackPatch {
  StackPatchedMap in, add;
  StackMap out;            // unless there is a result
  StackRows computed;      // on the convolution's grid; nothing else of a result is written
  TensorView result;       // (1,C,h,w) of the job's box
  StackShuffled shuffled;  // likewise
};

// 4x4 pixels of the convolution's grid that are computed together.
struct StackTile {
  std::int64_t image, y, x;  // first pixel
};

// Which of a pixel's neighbours a map has: 1 above, 2 below, 4 left, 8 right.
constexpr std::int64_t kStackZones = 16;

// out = gated (added + zone + scale * relu (conv 3x3 (in) + bias)) for the pixels in `box`, on whose grid a
// map that is shuffled by r has channel (dy r + dx) C + c of a pixel as channel c of the pixel (dy, dx) in its
// block of r x r.
struct StackJob {
  std::int64_t images;
  StackBox box;
  StackMap in, out;  // out has no data if there is a `result`
  std::int64_t in_upscale, out_upscale;
  bool wide;  // 5x5: four convolutions, of the input moved by a pixel up or down and left or right
  const float* factors;
  const float* bias;  // by place, each padded as out.channels, or null
  bool relu;
  float scale;
  // For each image and channel, or null: factors of the input's and the output's (with `scale`).
  const float *in_scale, *out_scale;
  StackMap plain;  // values before these are scaled, or its data is null
  std::int64_t added;
  StackMap add[kMaxAdded];
  const float* zones;          // (images, kStackZones, out.channels): added by the pixel's zone, or null
  std::int64_t height, width;  // of the map that has these zones
  StackSigns signs, gate;
  StackSums sums;
  TensorView result;       // (B,C,h,w) of the box, or its data is null
  StackShuffled shuffled;  // likewise, for a result that is finer
  std::int64_t block, blocks;  // cells that are handled together
  // If not null: in place of the box's cells, `listed` tiles at any pixels, of images that have their maps here.
  const StackPatch* patches;
  const StackTile* tiles;
  std::int64_t listed;
};

// A tensor (B,C,h,w), whose first pixel is (top, left) of its map, to cells; gated, if there is a gate.
struct StackEntranceJob {
  TensorView from;
  std::int64_t top, left;
  StackMap to;
  StackSigns gate;
};

// The cell sums of a map that is not computed by a convolution, such as the input.
struct StackSumsJob {
  std::int64_t images;
  StackMap map;
  StackSums sums;
};

// Several convolutions and pixel shuffles as one 5x5 convolution, see conv_stack_border.cpp. Kernels and
// biases depend on the zone of a pixel.
struct StackTail {
  StackBox box;           // of the result, in its pixels
  std::int64_t upscale, channels;  // of the result
  const float* factors;   // away from the border, or of the transpose
  const float* kernels[kStackZones];  // (25, in, out) for every panel of out; null for zones that do not occur
  const float* biases;    // (kStackZones, padded out channels)
};

// The pixels of a tail that touch the map's border. The gradient is added to `map`.
struct StackBorderJob {
  std::int64_t images, height, width;
  StackBox box;  // on the grid
  StackMap map;
  const StackTail* tail;
  StackShuffled shuffled;
};

// The gradient to a tail's result, to cells; pixels at the map's border are left out.
struct StackShuffledEntranceJob {
  StackShuffled from;
  std::int64_t height, width;
  StackMap to;
};

FASTBG_DECLARE_VARIANTS(conv_stack_border, StackBorderJob)
FASTBG_DECLARE_VARIANTS(conv_stack_border_gradient, StackBorderJob)
FASTBG_DECLARE_VARIANTS(conv_stack_shuffled_entrance, StackShuffledEntranceJob)
FASTBG_DECLARE_VARIANTS(conv_stack_layer, StackJob)
FASTBG_DECLARE_VARIANTS(conv_stack_sums, StackSumsJob)
FASTBG_DECLARE_VARIANTS(conv_stack_entrance, StackEntranceJob)

}  // namespace fastbg
