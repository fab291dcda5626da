// The cells of a job of a stack, and where their pixels are.
#pragma once

#include "conv_stack.h"
#include "simd.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

alignas(64) const float kNothing[kConvPanel] = {};

using Cell = StackTile;

struct Grid {
  std::int64_t top, left, across, of_image;

  explicit Grid(const StackBox& box)
      : top(box.y0 / kStackSide), left(box.x0 / kStackSide), across((box.x1 + kStackSide - 1) / kStackSide - left),
        of_image(((box.y1 + kStackSide - 1) / kStackSide - top) * across) {}

  Cell at(std::int64_t number) const {
    const std::int64_t inside = number % of_image;
    return {number / of_image, (top + inside / across) * kStackSide, (left + inside % across) * kStackSide};
  }
};

// The cells that a job computes: those of its box, or the listed tiles.
class Cells {
 public:
  explicit Cells(const StackJob& job) : job_(job), grid_(job.box) {}

  std::int64_t count() const { return job_.patches ? job_.listed : job_.images * grid_.of_image; }
  Cell at(std::int64_t number) const { return job_.patches ? job_.tiles[number] : grid_.at(number); }

 private:
  const StackJob& job_;
  Grid grid_;
};

// Which of the r x r pixels of a block; computed once for all cells, as divisions are slow.
struct Phase {
  std::int64_t upscale, y, x;

  Phase(std::int64_t r, std::int64_t place) : upscale(r), y(place / r), x(place % r) {}
};

// The map's pixel for row or column i of a cell, and whether it has a value.
struct Line {
  std::int64_t start;
  bool valid;
};

inline Line row_of(const StackMap& map, std::int64_t v) {
  return {((v >> 2) - map.top) * map.across * kStackPixels + (v & 3) * kStackSide, v >= map.valid.y0 && v < map.valid.y1};
}

inline Line column_of(const StackMap& map, std::int64_t u) {
  return {((u >> 2) - map.left) * kStackPixels + (u & 3), u >= map.valid.x0 && u < map.valid.x1};
}

// Addresses of channel `channel` of N x N pixels of the grid from (y, x).
template <int N>
void find_pixels(const StackMap& map, std::int64_t image, std::int64_t y, std::int64_t x, const Phase& phase,
                 std::int64_t channel, const float** pixels) {
  std::int64_t down[N], across[N];
  bool has_row[N], has_column[N], all = true;
  for (int i = 0; i < N; ++i) {
    const Line row = row_of(map, phase.upscale * (y + i) + phase.y);
    const Line column = column_of(map, phase.upscale * (x + i) + phase.x);
    has_row[i] = row.valid;
    has_column[i] = column.valid;
    all = all && row.valid && column.valid;
    down[i] = row.start * map.channels;
    across[i] = column.start * map.channels;
  }
  const float* start = map.data + image * map.pixels_of_image() * map.channels + channel;
  if (all) {
    for (int i = 0; i < N; ++i) {
      for (int j = 0; j < N; ++j) pixels[i * N + j] = start + down[i] + across[j];
    }
    return;
  }
  for (int i = 0; i < N; ++i) {
    for (int j = 0; j < N; ++j) {
      pixels[i * N + j] = has_row[i] && has_column[j] ? start + down[i] + across[j] : kNothing;
    }
  }
}

// A number for each of N pixels of a row; some lanes are not used.
template <int N>
struct Row {
  static constexpr int kLanes = N > 4 ? 8 : 4;
  typedef std::int64_t Numbers __attribute__((vector_size(kLanes * sizeof(std::int64_t))));
};

// The same for an image with pixels of its own. Addresses are chosen a row at once, without branches.
template <int N>
void find_pixels(const StackPatchedMap& from, std::int64_t y, std::int64_t x, const Phase& phase,
                 std::int64_t channel, const float** pixels) {
  using Numbers = typename Row<N>::Numbers;
  const StackMap &own = from.map, &kept = *from.kept;
  constexpr std::int64_t kFloat = sizeof(float);
  const auto own_start = reinterpret_cast<std::intptr_t>(own.data + channel);
  const auto kept_start = reinterpret_cast<std::intptr_t>(kept.data + channel);
  Numbers at{}, own_across{}, kept_across{};
  for (int j = 0; j < N; ++j) {
    at[j] = phase.upscale * (x + j) + phase.x;
    own_across[j] = column_of(own, at[j]).start * own.channels * kFloat;
    kept_across[j] = column_of(kept, at[j]).start * kept.channels * kFloat;
  }
  const Numbers has_column = (at >= kept.valid.x0) & (at < kept.valid.x1);
  const Numbers nothing = Numbers{} + reinterpret_cast<std::intptr_t>(kNothing);
  for (int i = 0; i < N; ++i) {
    const std::int64_t v = phase.upscale * (y + i) + phase.y;
    const Line row = row_of(kept, v);
    const StackSpan span = from.own.row(v);
    const std::int64_t kept_row = kept_start + row.start * kept.channels * kFloat;
    const std::int64_t own_row = own_start + row_of(own, v).start * own.channels * kFloat;
    const Numbers outside = row.valid ? (has_column ? kept_across + kept_row : nothing) : nothing;
    const Numbers is_own = (at >= span.x0) & (at < span.x1);
    const Numbers found = is_own ? own_across + own_row : outside;
    for (int j = 0; j < N; ++j) pixels[i * N + j] = reinterpret_cast<const float*>(found[j]);
  }
}

}  // namespace
}  // namespace fastbg::FASTBG_VARIANT
