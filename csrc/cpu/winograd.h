// Winograd's F(4x4, 3x3) on vectors of channels: the transforms, and tiles read from feature maps.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "conv.h"
#include "fresh_memory.h"
#include "register_tile.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// The polynomials are interpolated at 0, p, -p, q, -q and infinity with p = sqrt(1/2), q = sqrt(2):
// half the rounding error of the usual 0, 1, -1, 2, -2 (a quarter of the largest), and p^2, q^2 and
// p q are powers of two.
constexpr float kP = 0.70710678f, kQ = 1.41421356f;

// B^T d of 6 inputs.
[[maybe_unused, gnu::always_inline]] inline void input_terms(const Vec* d, Vec* t) {
  const Vec p = broadcast(kP), q = broadcast(kQ), half = broadcast(0.5f), two = broadcast(2.0f), sum = broadcast(2.5f);
  const Vec even_p = multiply_add(-two, d[2], d[4]), odd_p = multiply_add(-two, d[1], d[3]);
  const Vec even_q = multiply_add(-half, d[2], d[4]), odd_q = multiply_add(-half, d[1], d[3]);
  t[0] = multiply_add(-sum, d[2], d[4]) + d[0];
  t[1] = multiply_add(p, odd_p, even_p);
  t[2] = multiply_add(-p, odd_p, even_p);
  t[3] = multiply_add(q, odd_q, even_q);
  t[4] = multiply_add(-q, odd_q, even_q);
  t[5] = multiply_add(-sum, d[3], d[5]) + d[1];
}

// A^T m of 6 sums.
[[maybe_unused, gnu::always_inline]] inline void output_values(const Vec* m, Vec* y) {
  const Vec p = broadcast(kP), q = broadcast(kQ), half = broadcast(0.5f), two = broadcast(2.0f);
  const Vec even_p = m[1] + m[2], even_q = m[3] + m[4];
  const Vec odd_p = p * (m[1] - m[2]), odd_q = q * (m[3] - m[4]);
  y[0] = m[0] + even_p + even_q;
  y[1] = odd_p + odd_q;
  y[2] = multiply_add(two, even_q, half * even_p);
  y[3] = multiply_add(two, odd_q, multiply_add(half, odd_p, m[5]));
}

// A y of 4 gradients to outputs.
[[maybe_unused]] inline void output_terms(const Vec* y, Vec* m) {
  const Vec half = broadcast(0.5f), two = broadcast(2.0f);
  const Vec even_p = multiply_add(half, y[2], y[0]), even_q = multiply_add(two, y[2], y[0]);
  const Vec odd_p = broadcast(kP) * multiply_add(half, y[3], y[1]);
  const Vec odd_q = broadcast(kQ) * multiply_add(two, y[3], y[1]);
  m[0] = y[0];
  m[1] = even_p + odd_p;
  m[2] = even_p - odd_p;
  m[3] = even_q + odd_q;
  m[4] = even_q - odd_q;
  m[5] = y[3];
}

// G g of 3 weights.
[[maybe_unused]] inline void weight_factors(const Vec* g, Vec* u) {
  const Vec at_p = broadcast(-1.0f / 1.5f), at_q = broadcast(1.0f / 6.0f);
  const Vec even_p = at_p * multiply_add(broadcast(0.5f), g[2], g[0]), odd_p = at_p * broadcast(kP) * g[1];
  const Vec even_q = at_q * multiply_add(broadcast(2.0f), g[2], g[0]), odd_q = at_q * broadcast(kQ) * g[1];
  u[0] = g[0];
  u[1] = even_p + odd_p;
  u[2] = even_p - odd_p;
  u[3] = even_q + odd_q;
  u[4] = even_q - odd_q;
  u[5] = g[2];
}

// G^T u of 6 gradients to factors.
[[maybe_unused]] inline void weight_values(const Vec* u, Vec* g) {
  const Vec at_p = broadcast(-1.0f / 1.5f), at_q = broadcast(1.0f / 6.0f);
  const Vec even_p = at_p * (u[1] + u[2]), odd_p = at_p * (u[1] - u[2]);
  const Vec even_q = at_q * (u[3] + u[4]), odd_q = at_q * (u[3] - u[4]);
  g[0] = u[0] + even_p + even_q;
  g[1] = multiply_add(broadcast(kP), odd_p, broadcast(kQ) * odd_q);
  g[2] = multiply_add(broadcast(0.5f), even_p, multiply_add(broadcast(2.0f), even_q, u[5]));
}

struct Tile {
  std::int64_t image, y, x;  // top-left output
};

[[maybe_unused]] inline Tile tile_of(const ConvGrid& grid, std::int64_t number) {
  const std::int64_t of_image = grid.down * grid.across, in_image = number % of_image;
  return {number / of_image, in_image / grid.across * 4, in_image % grid.across * 4};
}

[[maybe_unused]] inline Vec gated(Vec value, Vec gate) { return gate <= Vec{} ? Vec{} : value; }

[[maybe_unused]] inline Vec load_some(const float* from, std::int64_t count) {
  if (count == kLanes) return load(from);
  Vec value{};
  std::memcpy(&value, from, static_cast<std::size_t>(count) * sizeof(float));
  return value;
}

[[maybe_unused]] inline void store_some(float* to, Vec value, std::int64_t count) {
  if (count == kLanes) return store(to, value);
  std::memcpy(to, &value, static_cast<std::size_t>(count) * sizeof(float));
}

// The 36 terms of one tile and one vector of channels.
template <bool kGate>
void transform_input(const ConvGrid& grid, const ConvMaps& x, const ConvMaps& gates,
                     const Tile& tile, std::int64_t channel, float* to) {
  const std::int64_t y0 = tile.y - 1, x0 = tile.x - 1;
  const bool inside = y0 >= 0 && x0 >= 0 && y0 + 6 <= grid.height && x0 + 6 <= grid.width;
  const float* from = x.at(tile.image, y0, x0, channel);
  const float* gate = kGate ? gates.at(tile.image, y0, x0, channel) : nullptr;
  Vec half[6][6];
#pragma GCC unroll 6
  for (int c = 0; c < 6; ++c) {
    Vec d[6], t[6];
#pragma GCC unroll 6
    for (int r = 0; r < 6; ++r) {
      const bool there = inside || (y0 + r >= 0 && y0 + r < grid.height && x0 + c >= 0 &&
                                    x0 + c < grid.width);
      d[r] = there ? load(from + r * x.row + c * x.column) : Vec{};
      if (kGate && there) d[r] = gated(d[r], load(gate + r * gates.row + c * gates.column));
    }
    input_terms(d, t);
#pragma GCC unroll 6
    for (int r = 0; r < 6; ++r) half[r][c] = t[r];
  }
#pragma GCC unroll 6
  for (int r = 0; r < 6; ++r) {
    Vec t[6];
    input_terms(half[r], t);
#pragma GCC unroll 6
    for (int c = 0; c < 6; ++c) store(to + (6 * r + c) * kPlaneFloats, t[c]);
  }
}

// The same of tiles first to first + tiles and of channels chunk to chunk + in, a tile a row.
[[maybe_unused]] inline void transform_tiles(const ConvGrid& grid, const ConvMaps& x,
                                             const ConvMaps& gates, std::int64_t first,
                                             std::int64_t tiles, std::int64_t chunk,
                                             std::int64_t in, float* terms) {
  for (std::int64_t t = 0; t < tiles; ++t) {
    const Tile tile = tile_of(grid, first + t);
    for (std::int64_t c = 0; c < in; c += kLanes) {
      float* to = terms + t * kConvPanel + c;
      if (gates.data) {
        transform_input<true>(grid, x, gates, tile, chunk + c, to);
      } else {
        transform_input<false>(grid, x, gates, tile, chunk + c, to);
      }
    }
  }
}

// Kept by each thread between calls, as page faults of new memory would take as long as the transforms. Sums
// may overwrite the terms, one plane ahead.
struct Scratch {
  alignas(64) float terms[(kTerms2d + 1) * kPlaneFloats];
  alignas(64) float sums[kTerms2d * kPlaneFloats];
};

// On a huge page if possible, as the planes of a tile are on 36 small pages.
[[maybe_unused]] inline Scratch& scratch_of_thread() {
  constexpr std::size_t page = std::size_t{1} << 21;
  static_assert(sizeof(Scratch) <= page);
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  static thread_local const std::unique_ptr<Scratch, Free> scratch = [] {
    void* memory = std::aligned_alloc(page, page);
    if (!memory) throw std::bad_alloc();
    expect_whole_pages({memory, DType::float32, 1, {page / sizeof(float)}, {1}});
    return std::unique_ptr<Scratch, Free>(new (memory) Scratch);
  }();
  return *scratch;
}

}  // namespace
}  // namespace fastbg::FASTBG_VARIANT
