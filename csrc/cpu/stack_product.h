// The products of a layer of a stack: terms of cells times factors, each one of 36 planes.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>

#include "conv_stack.h"
#include "fresh_memory.h"
#include "winograd.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// Padded, as planes of a multiple of 4096 bytes would share a few sets of the cache.
constexpr std::int64_t kStackPlane = kStackTiles * kConvPanel + 16;

// Kept by each thread between calls, as in winograd.h. Sums may overwrite the terms, one plane ahead.
struct StackScratch {
  alignas(64) float terms[(kTerms2d + 1) * kStackPlane];
  alignas(64) float sums[kTerms2d * kStackPlane];
};

// On a huge page if possible, as the planes of a cell are on 36 small pages.
[[maybe_unused]] inline StackScratch& stack_scratch_of_thread() {
  constexpr std::size_t page = std::size_t{1} << 21;
  static_assert(sizeof(StackScratch) <= page);
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  static thread_local const std::unique_ptr<StackScratch, Free> scratch = [] {
    void* memory = std::aligned_alloc(page, page);
    if (!memory) throw std::bad_alloc();
    expect_whole_pages({memory, DType::float32, 1, {page / sizeof(float)}, {1}});
    return std::unique_ptr<StackScratch, Free>(new (memory) StackScratch);
  }();
  return *scratch;
}

// R cells times V vectors of output channels; `in` channels are summed. If kAsk, the next factors, which
// are not in the cache, are prefetched meanwhile.
template <int R, int V, bool kAsk>
inline void multiply_cells(const float* terms, const float* factors, std::int64_t in, std::int64_t width, bool add,
                           float* sums) {
  Vec total[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) total[r][v] = Vec{};
  }
  for (std::int64_t k = 0; k < in; ++k, factors += width) {
    Vec factor[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      factor[v] = load(factors + v * kLanes);
      keep(factor[v]);
    }
    if constexpr (kAsk) {
#pragma GCC unroll 16
      for (int v = 0; v < V; v += 16 / kLanes) __builtin_prefetch(factors + in * width + v * kLanes);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec term = broadcast(terms[r * kConvPanel + k]);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) total[r][v] = multiply_add(term, factor[v], total[r][v]);
    }
  }
  // Sums of up to kConvPanel products are added up, as one long chain would round more.
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      float* to = sums + r * kConvPanel + v * kLanes;
      store(to, add ? load(to) + total[r][v] : total[r][v]);
    }
  }
}

// The remaining cells, fewer than R.
template <int R, int V, bool kAsk>
void multiply_rest(const float* terms, const float* factors, std::int64_t in, std::int64_t width, std::int64_t cells,
                   bool add, float* sums) {
  if constexpr (R > 0) {
    if (cells == R) {
      multiply_cells<R, V, kAsk>(terms, factors, in, width, add, sums);
    } else {
      multiply_rest<R - 1, V, kAsk>(terms, factors, in, width, cells, add, sums);
    }
  }
}

template <int R, int V>
void multiply_columns(const float* terms, const float* factors, std::int64_t in, std::int64_t width,
                      std::int64_t cells, bool add, float* sums) {
  std::int64_t t = 0;
  if (cells >= R) {
    multiply_cells<R, V, true>(terms, factors, in, width, add, sums);
    for (t = R; t + R <= cells; t += R) {
      multiply_cells<R, V, false>(terms + t * kConvPanel, factors, in, width, add, sums + t * kConvPanel);
    }
    multiply_rest<R - 1, V, false>(terms + t * kConvPanel, factors, in, width, cells - t, add, sums + t * kConvPanel);
  } else {
    multiply_rest<R - 1, V, true>(terms, factors, in, width, cells, add, sums);
  }
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
