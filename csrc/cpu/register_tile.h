// Building blocks of products that keep their sums in registers.
#pragma once

#include "simd.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// Keeps a loaded vector in a register. Otherwise the compiler makes it a memory operand of every product
// that uses it, and loads become the bottleneck.
[[maybe_unused]] inline void keep(Vec& value) {
#if defined(__x86_64__)
  asm("" : "+v"(value));
#else
  (void)value;
#endif
}

// sum[r][v] += a[., r] b[., v] for R channels of a and V vectors of channels of b; with kHalf, half a
// vector comes before these.
template <int R, int V, bool kHalf = false>
void add_block(const float* a, const float* b, std::int64_t pixels, std::int64_t stride, float* sum,
               std::int64_t row) {
  constexpr std::int64_t kWhole = kHalf ? kLanes / 2 : 0;
  constexpr int kColumns = V > 0 ? V : 1;  // no array is empty
  Vec total[R][kColumns] = {};
  HalfVec half_total[R] = {};
  for (std::int64_t k = 0; k < pixels; ++k, a += stride, b += stride) {
    HalfVec half_column{};
    if constexpr (kHalf) half_column = load_half(b);
    Vec column[kColumns];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      column[v] = load(b + kWhole + v * kLanes);
      keep(column[v]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec value = broadcast(a[r]);
      if constexpr (kHalf) {
        const HalfVec half = V > 1 ? half_of(value) : broadcast_half(a[r]);  // which can be an operand
        half_total[r] = multiply_add(half, half_column, half_total[r]);
      }
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) total[r][v] = multiply_add(value, column[v], total[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    float* to = sum + r * row;
    if constexpr (kHalf) store_half(to, load_half(to) + half_total[r]);
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      float* whole = to + kWhole + v * kLanes;
      store(whole, load(whole) + total[r][v]);
    }
  }
}

// kLanes channels of a against `vectors` vectors of b. Blocks fill the registers: 32 with AVX-512
// (24 sums), 16 otherwise (12 sums).
[[maybe_unused]] inline void add_rows(const float* a, const float* b, std::int64_t vectors, std::int64_t pixels,
                     std::int64_t stride, float* sum, std::int64_t row) {
  if constexpr (kLanes == 16) {
    switch (vectors) {
      case 4:
        add_block<6, 4>(a, b, pixels, stride, sum, row);
        add_block<5, 4>(a + 6, b, pixels, stride, sum + 6 * row, row);
        add_block<5, 4>(a + 11, b, pixels, stride, sum + 11 * row, row);
        break;
      case 3:
        add_block<8, 3>(a, b, pixels, stride, sum, row);
        add_block<8, 3>(a + 8, b, pixels, stride, sum + 8 * row, row);
        break;
      case 2:
        add_block<8, 2>(a, b, pixels, stride, sum, row);
        add_block<8, 2>(a + 8, b, pixels, stride, sum + 8 * row, row);
        break;
      default:
        add_block<16, 1>(a, b, pixels, stride, sum, row);
    }
  } else {
    // Avoids a single vector: with fewer than 8 sums latency is the bottleneck.
    std::int64_t v = 0;
    for (; vectors - v >= 2; v += vectors - v == 4 || vectors - v == 2 ? 2 : 3) {
      for (std::int64_t r = 0; r < kLanes; r += 4) {
        float* to = sum + r * row + v * kLanes;
        if (vectors - v == 4 || vectors - v == 2) {
          add_block<4, 2>(a + r, b + v * kLanes, pixels, stride, to, row);
        } else {
          add_block<4, 3>(a + r, b + v * kLanes, pixels, stride, to, row);
        }
      }
    }
    if (vectors - v == 1) add_block<kLanes, 1>(a, b + v * kLanes, pixels, stride, sum + v * kLanes, row);
  }
}

// The same where a and b start at one channel, and sums below the diagonal are not needed: with
// AVX-512 the lower half of the rows leaves out the first half vector.
[[maybe_unused]] inline void add_rows_of_triangle(const float* a, const float* b, std::int64_t vectors,
                                                  std::int64_t pixels, std::int64_t stride, float* sum,
                                                  std::int64_t row) {
  if constexpr (kLanes == 16) {
    float* to = sum + 8 * row + 8;
    switch (vectors) {
      case 4:
        add_block<4, 4>(a, b, pixels, stride, sum, row);
        add_block<4, 4>(a + 4, b, pixels, stride, sum + 4 * row, row);
        add_block<4, 3, true>(a + 8, b + 8, pixels, stride, to, row);
        add_block<4, 3, true>(a + 12, b + 8, pixels, stride, to + 4 * row, row);
        break;
      case 3:
        add_block<8, 3>(a, b, pixels, stride, sum, row);
        add_block<8, 2, true>(a + 8, b + 8, pixels, stride, to, row);
        break;
      case 2:
        add_block<8, 2>(a, b, pixels, stride, sum, row);
        add_block<8, 1, true>(a + 8, b + 8, pixels, stride, to, row);
        break;
      default:
        add_block<8, 1>(a, b, pixels, stride, sum, row);
        add_block<8, 0, true>(a + 8, b + 8, pixels, stride, to, row);
    }
  } else {
    add_rows(a, b, vectors, pixels, stride, sum, row);
  }
}

}  // namespace
}  // namespace fastbg::FASTBG_VARIANT
