// Products of Winograd's terms of tiles (or cells) with factors, each one of 36 planes.
#pragma once

#include "winograd.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// R cells times V vectors of output channels; `in` channels are summed. With the factors of channels `from` to
// `to`, those of the next product, which are not in the cache, are prefetched.
template <int R, int V>
inline void multiply_cells(const float* terms, const float* factors, std::int64_t in, std::int64_t width, bool add,
                           std::int64_t from, std::int64_t to, float* sums) {
  Vec total[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) total[r][v] = Vec{};
  }
  const auto add_channel = [&](std::int64_t k) __attribute__((always_inline)) {
    Vec factor[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      factor[v] = load(factors + k * width + v * kLanes);
      keep(factor[v]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec term = broadcast(terms[r * kConvPanel + k]);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) total[r][v] = multiply_add(term, factor[v], total[r][v]);
    }
  };
  std::int64_t k = 0;
  for (; k < from; ++k) add_channel(k);
  for (; k < to; ++k) {
#pragma GCC unroll 16
    for (int v = 0; v < V; v += 16 / kLanes) __builtin_prefetch(factors + (in + k) * width + v * kLanes);
    add_channel(k);
  }
  for (; k < in; ++k) add_channel(k);
  // Sums of up to kConvPanel products are added up, as one long chain would round more.
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      float* here = sums + r * kConvPanel + v * kLanes;
      store(here, add ? load(here) + total[r][v] : total[r][v]);
    }
  }
}

// The remaining cells, fewer than R.
template <int R, int V>
void multiply_rest(const float* terms, const float* factors, std::int64_t in, std::int64_t width, std::int64_t cells,
                   bool add, std::int64_t from, float* sums) {
  if constexpr (R > 0) {
    if (cells == R) {
      multiply_cells<R, V>(terms, factors, in, width, add, from, in, sums);
    } else {
      multiply_rest<R - 1, V>(terms, factors, in, width, cells, add, from, sums);
    }
  }
}

// Prefetching is shared out among all products: at once it would need more than the third-level cache delivers.
template <int R, int V>
void multiply_columns(const float* terms, const float* factors, std::int64_t in, std::int64_t width,
                      std::int64_t cells, bool add, float* sums) {
  const std::int64_t share = (in * R + cells - 1) / cells;
  std::int64_t t = 0, from = 0;
  for (; t + R <= cells; t += R) {
    const std::int64_t to = smaller(from + share, in);
    multiply_cells<R, V>(terms + t * kConvPanel, factors, in, width, add, from, to, sums + t * kConvPanel);
    from = to;
  }
  multiply_rest<R - 1, V>(terms + t * kConvPanel, factors, in, width, cells - t, add, from, sums + t * kConvPanel);
}

// (cells, in) x (in, vectors of the `width` channels). Sums fill the registers: 24 of 32 with AVX-512, 12 of
// 16 otherwise.
[[maybe_unused]] inline void multiply_plane(const float* terms, const float* factors, std::int64_t in,
                                            std::int64_t width, std::int64_t vectors, std::int64_t cells, bool add,
                                            float* sums) {
  if constexpr (kLanes == 16) {
    switch (vectors) {
      case 4: multiply_columns<6, 4>(terms, factors, in, width, cells, add, sums); break;
      case 3: multiply_columns<8, 3>(terms, factors, in, width, cells, add, sums); break;
      case 2: multiply_columns<12, 2>(terms, factors, in, width, cells, add, sums); break;
      default: multiply_columns<12, 1>(terms, factors, in, width, cells, add, sums);
    }
  } else {
    std::int64_t v = 0;
    for (; v + 2 <= vectors; v += 2) {
      multiply_columns<6, 2>(terms, factors + v * kLanes, in, width, cells, add, sums + v * kLanes);
    }
    if (v < vectors) multiply_columns<12, 1>(terms, factors + v * kLanes, in, width, cells, add, sums + v * kLanes);
  }
}

}  // namespace
}  // namespace fastbg::FASTBG_VARIANT
