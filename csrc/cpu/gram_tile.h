// Products of a tile: sum over its pixels of a b^T, the triangle on and above the diagonal.
#pragma once

#include "gram.h"
#include "register_tile.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// a, b: panels of (kTilePixels, width), the first `pixels` rows of each are used.
inline void add_tile(const float* a, const float* b, std::int64_t pixels, const GramWork& work,
                     float* sum) {
  const std::int64_t row = work.padded, width = work.width, panel = kTilePixels * width;
  for (std::int64_t right = 0; right < row; right += width, b += panel) {
    const std::int64_t columns = smaller(width, row - right);
    const float* left = a;
    for (std::int64_t top = 0; top < right; top += width, left += panel) {
      for (std::int64_t r = 0; r < width; r += kLanes) {
        add_rows(left + r, b, columns / kLanes, pixels, width, sum + (top + r) * row + right, row);
      }
    }
    for (std::int64_t r = 0; r < columns; r += kLanes) {
      float* to = sum + (right + r) * row + right + r;
      add_rows_of_triangle(left + r, b + r, (columns - r) / kLanes, pixels, width, to, row);
    }
  }
}

}  // namespace
}  // namespace fastbg::FASTBG_VARIANT
