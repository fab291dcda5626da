// Swin Transformer layers on CPUs: parameters of their kernels, and the variants.
//
// A map is stored in cells of 4x4 pixels, each (channels, 16 pixels). An attention window, shifted or not,
// is a rectangle of whole cells, which is addressed and never copied. Every product has pixels in the
// vector lanes, so that norms and softmax reduce over vectors. A shifted window that the border of the map
// cuts is a smaller rectangle: the logits that the original code masks are not computed at all.
//
// Weights come packed (fastbg/backends/cpu/attention_weight.py): rows in tiles of kPackedRows, each tile
// (inputs, rows); the norm's affine part, the scale of the queries and log2(e) are multiplied in.
#pragma once

#include <cstdint>

#include "isa.h"
#include "tensor_view.h"

namespace fastbg {

constexpr std::int64_t kCellSide = 4;
constexpr std::int64_t kCell = 16;          // pixels
constexpr std::int64_t kPackedRows = 6;     // of packed weights
constexpr std::int64_t kCellGroup = 4;      // cells that one product takes at once
constexpr std::int64_t kMaxWindowCells = 8;  // side of an attention window

// Cells of a patch, image by image and row by row; y0, x0 is its place in the map, in cells.
struct CellMap {
  std::int64_t images, y0, x0, down, across, channels;

  std::int64_t floats() const { return images * down * across * channels * kCell; }
  std::int64_t at(std::int64_t b, std::int64_t y, std::int64_t x) const {
    return (((b * down + y - y0) * across + x - x0) * channels) * kCell;
  }
};

// Half-open, in cells of the map.
struct CellBox {
  std::int64_t y0, x0, y1, x1;
};

// (rows, inputs) packed, and one number per row.
struct PackedLinear {
  const float* weight;
  const float* bias;
};

// One half of a layer: x + attention(norm(x)), or x + MLP(norm(x)), on the cells of `box`.
struct SwinStep {
  bool attends;
  CellBox box;
  float eps;  // of the norm
  // Attention: q, k, v of all heads; projection. MLP: to the hidden features and back.
  PackedLinear first, second;
  const float* first_back;   // transposed, for gradients; may be null
  const float* second_back;
  std::int64_t hidden;  // MLP: features
  // Attention only. Sides in cells; bias (heads, 2 window - 1, 2 window - 1, key pixel, query pixel) by
  // the place of the query's cell relative to the key's, times log2(e).
  std::int64_t heads, window, shift;
  const float* position;
};

struct SwinJob {
  CellMap map;
  SwinStep step;
  const float* x;  // cells; of the forward pass
  float* out;      // cells: the result, may be x. Backward: the gradient to the result, becomes that to x
};

// Between maps (B,C,H,W) in any strides and the cells of `box`.
struct CellsJob {
  CellMap map;
  CellBox box;
  TensorView pixels;  // of the box
  float* cells;
};

FASTBG_DECLARE_VARIANTS(window_attention, SwinJob)
FASTBG_DECLARE_VARIANTS(window_attention_gradient, SwinJob)
FASTBG_DECLARE_VARIANTS(pixel_mlp, SwinJob)
FASTBG_DECLARE_VARIANTS(pixel_mlp_gradient, SwinJob)
FASTBG_DECLARE_VARIANTS(cells_from_pixels, CellsJob)
FASTBG_DECLARE_VARIANTS(pixels_from_cells, CellsJob)

}  // namespace fastbg
