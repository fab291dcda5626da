// Layer norm of each pixel of a cell; and each thread's work space.
#pragma once

#include <cmath>
#include <cstdlib>
#include <new>

#include "attention.h"
#include "cell_product.h"
#include "exponential.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

[[maybe_unused]] inline Vec square_root(Vec x) {
#if defined(__AVX512F__)
  return _mm512_sqrt_ps(x);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#elif defined(__x86_64__)
  return _mm_sqrt_ps(x);
#else
  for (int i = 0; i < kLanes; ++i) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

// The mean over the channels of term(place of the vector, vector of the cell) for all pixels of a cell, in
// several sums that do not wait for one another.
template <class Term>
inline void mean_of_channels(std::int64_t channels, Vec (&mean)[kPerCell], Term term) {
  constexpr int kRows = 8 / kPerCell;
  Vec sum[kRows][kPerCell] = {};
  std::int64_t k = 0;
  for (; k + kRows <= channels; k += kRows) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < kPerCell; ++v) sum[r][v] += term((k + r) * kCell + v * kLanes, v);
    }
  }
  for (; k < channels; ++k) {
#pragma GCC unroll 16
    for (int v = 0; v < kPerCell; ++v) sum[0][v] += term(k * kCell + v * kLanes, v);
  }
#pragma GCC unroll 16
  for (int v = 0; v < kPerCell; ++v) {
#pragma GCC unroll 16
    for (int r = 1; r < kRows; ++r) sum[0][v] += sum[r][v];
    mean[v] = sum[0][v] * broadcast(1.0f / static_cast<float>(channels));
  }
}

// (x - mean) / deviation of each pixel; 1 / deviation is kept if `inverse` (16) is given.
[[maybe_unused]] inline void normalise(const float* x, std::int64_t channels, float eps, float* to,
                                       float* inverse) {
  Vec mean[kPerCell], factor[kPerCell];
  mean_of_channels(channels, mean, [&](std::int64_t at, int) { return load(x + at); });
  mean_of_channels(channels, factor, [&](std::int64_t at, int v) {
    const Vec d = load(x + at) - mean[v];
    return d * d;
  });
  for (int v = 0; v < kPerCell; ++v) factor[v] = broadcast(1.0f) / square_root(factor[v] + broadcast(eps));
  if (inverse) store_all(inverse, factor);
#pragma GCC unroll 4
  for (std::int64_t k = 0; k < channels; ++k) {
#pragma GCC unroll 16
    for (int v = 0; v < kPerCell; ++v) {
      const std::int64_t at = k * kCell + v * kLanes;
      store(to + at, (load(x + at) - mean[v]) * factor[v]);
    }
  }
}

// grad += the gradient to x, of the gradient `d` to normalise(x) = y.
[[maybe_unused]] inline void add_normalise_gradient(const float* d, const float* y, const float* inverse,
                                                    std::int64_t channels, float* grad) {
  Vec mean[kPerCell], along[kPerCell], factor[kPerCell];
  mean_of_channels(channels, mean, [&](std::int64_t at, int) { return load(d + at); });
  mean_of_channels(channels, along, [&](std::int64_t at, int) { return load(d + at) * load(y + at); });
  load_all(inverse, factor);
  for (std::int64_t k = 0; k < channels; ++k) {
#pragma GCC unroll 16
    for (int v = 0; v < kPerCell; ++v) {
      const std::int64_t at = k * kCell + v * kLanes;
      const Vec rest = load(d + at) - multiply_add(along[v], load(y + at), mean[v]);
      store(grad + at, multiply_add(factor[v], rest, load(grad + at)));
    }
  }
}

// Memory that each thread keeps between calls, as new memory takes a page fault for each page.
class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { std::free(data_); }

  // Releases everything that was taken, and makes room for `floats`.
  void reserve(std::int64_t floats) {
    taken_ = 0;
    if (floats <= size_) return;
    std::free(data_);
    size_ = 0;
    data_ = static_cast<float*>(std::aligned_alloc(64, static_cast<std::size_t>((floats * 4 + 63) / 64 * 64)));
    if (!data_) throw std::bad_alloc();
    size_ = floats;
    std::memset(data_, 0, static_cast<std::size_t>(floats) * sizeof(float));
  }

  float* take(std::int64_t floats) {
    float* start = data_ + taken_;
    taken_ += floats;
    return start;
  }

  // Distance of cells of `rows` rows. One vector of padding, as cells of 64 rows would otherwise share the
  // same sets of the cache.
  static constexpr std::int64_t stride(std::int64_t rows) { return rows * kCell + kCell; }
  Rows cells(std::int64_t cells, std::int64_t rows) { return {take(cells * stride(rows)), stride(rows)}; }

 private:
  float* data_ = nullptr;
  std::int64_t size_ = 0, taken_ = 0;
};

[[maybe_unused]] inline Workspace& workspace_of_thread() {
  static thread_local Workspace workspace;
  return workspace;
}

}  // namespace
}  // namespace fastbg::FASTBG_VARIANT
