// Where a composite takes its pixels from: row by row, a handful of intervals.
#pragma once

#include "composite_params.h"
#include "simd.h"

namespace fastbg::FASTBG_VARIANT {

struct Box {
  std::int64_t y0, x0, y1, x1;  // half-open

  bool empty() const { return y0 >= y1 || x0 >= x1; }
};

// In row y, b is taken in [begin, gap_begin) and [gap_end, end), a elsewhere;
// 0 <= begin <= gap_begin <= gap_end <= end <= width.
struct RowSplit {
  std::int64_t begin, gap_begin, gap_end, end;

  bool all_a() const { return begin == gap_begin && gap_end == end; }
  bool all_b(std::int64_t width) const {
    return gap_begin == gap_end && begin == 0 && end == width;
  }
};

[[maybe_unused]] static inline std::int64_t integer(const TensorView& view, std::int64_t row,
                                                    std::int64_t column) {
  return static_cast<const std::int32_t*>(
      view.data)[row * view.strides[0] + column * view.strides[1]];
}

// The n-th box, or the only one, cut to the image.
[[maybe_unused]] static inline Box box_of(const TensorView& boxes, std::int64_t n,
                                          std::int64_t height, std::int64_t width) {
  const auto* from = static_cast<const std::int32_t*>(boxes.data);
  const std::int64_t step = boxes.strides[boxes.rank - 1];
  if (boxes.rank == 2) from += n * boxes.strides[0];
  return {larger(from[0], 0), larger(from[step], 0), smaller(from[2 * step], height),
          smaller(from[3 * step], width)};
}

[[maybe_unused]] static inline RowSplit split_row(const Box& inner, const Box& outer,
                                                  std::int64_t y) {
  if (outer.empty() || y < outer.y0 || y >= outer.y1) return {0, 0, 0, 0};
  if (inner.empty() || y < inner.y0 || y >= inner.y1) return {outer.x0, outer.x1, outer.x1, outer.x1};
  const std::int64_t gap_begin = larger(outer.x0, smaller(inner.x0, outer.x1));
  const std::int64_t gap_end = smaller(outer.x1, larger(inner.x1, outer.x0));
  return {outer.x0, gap_begin, gap_end, outer.x1};
}

// First row below y (at most `height`) whose split can differ from that of y.
[[maybe_unused]] static inline std::int64_t next_change(const Box& inner, const Box& outer,
                                                        std::int64_t y, std::int64_t height) {
  const std::int64_t edges[] = {inner.y0, inner.y1, outer.y0, outer.y1};
  std::int64_t next = height;
  for (const std::int64_t edge : edges) {
    if (edge > y) next = smaller(next, edge);
  }
  return next;
}

}  // namespace fastbg::FASTBG_VARIANT
