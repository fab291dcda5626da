// Products of a tile: sum over its pixels of a b^T, the triangle on and above the diagonal.
#pragma once

#include "gram.h"
#include "register_tile.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// a, b: panels of (kTilePixels, width), the first `pixels` rows of each are used.
inline void add_tile(const float* a, const float* b, std::int64_t pixels, const GramWork& work,
                     float* sum) {
  const std::int64_t row = work.padded, panel = kTilePixels * work.width;
  for (std::int64_t right = 0; right < row; right += work.width, b += panel) {
    const std::int64_t columns = smaller(work.width, row - right);
    const float* left = a;
    for (std::int64_t top = 0; top <= right; top += work.width, left += panel) {
      const std::int64_t rows = top == right ? columns : work.width;
      for (std::int64_t r = 0; r < rows; r += kLanes) {
        const std::int64_t first = top == right ? r : 0;
        add_rows(left + r, b + first, (columns - first) / kLanes, pixels, work.width,
                 sum + (top + r) * row + right + first, row);
      }
    }
  }
}

}  // namespace
}  // namespace fastbg::FASTBG_VARIANT
