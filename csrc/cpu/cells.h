// Functions of each pixel of a cell: layer norm, exponential, GELU; and each thread's work space.
#pragma once

#include <cmath>
#include <cstdlib>
#include <new>

#include "attention.h"
#include "cell_product.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// The larger of both; NaN is kept.
[[maybe_unused]] inline Vec at_least(Vec bound, Vec value) {
#if defined(__AVX512F__)
  return _mm512_max_ps(bound, value);  // if one is not a number: the second
#elif defined(__AVX2__)
  return _mm256_max_ps(bound, value);
#elif defined(__x86_64__)
  return _mm_max_ps(bound, value);
#else
  return value < bound ? bound : value;
#endif
}

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

typedef std::int32_t Bits __attribute__((vector_size(kLanes * sizeof(float))));

// 2^x for x <= 0, to 1.1 units in the last place: 2^n times 2^f with |f| <= 1/2, where a polynomial of
// degree 6 (minimax of the relative error, 2e-9 before rounding) stands for 2^f. Below -126: 2^-126.
[[maybe_unused]] inline Vec power_of_two(Vec x) {
  x = at_least(broadcast(-126.0f), x);
#if defined(__AVX512F__)
  const Vec whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const Vec magic = broadcast(12582912.0f);  // 1.5 * 2^23: its last bit counts ones
  const Vec shifted = x + magic, whole = shifted - magic;
#endif
  const Vec f = x - whole;
  Vec p = broadcast(0.000153458124f);
  p = multiply_add(p, f, broadcast(0.00133999321f));
  p = multiply_add(p, f, broadcast(0.00961848907f));
  p = multiply_add(p, f, broadcast(0.0555032864f));
  p = multiply_add(p, f, broadcast(0.240226462f));
  p = multiply_add(p, f, broadcast(0.693147182f));
  p = multiply_add(p, f, broadcast(1.0f));
#if defined(__AVX512F__)
  return _mm512_scalef_ps(p, whole);
#else
  Bits bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + 0x3f800000;
  Vec scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;  // keeps NaN, for any scale
#endif
}

// P(N <= -t), N standard normal, for t >= 0: 2^q(t), where the polynomial q of degree 10 is the minimax of
// log2 P. Its error is at most 0.6 units in the last place of P for t < 1 and 3 for t < 2, and t P is right
// to 3e-8 everywhere, which is less than PyTorch's 0.5 (1 + erf) loses to cancellation.
[[maybe_unused]] inline Vec normal_tail(Vec t) {
  Vec q = broadcast(-3.88528142e-8f);
  q = multiply_add(q, t, broadcast(1.06790946e-6f));
  q = multiply_add(q, t, broadcast(-1.27329412e-5f));
  q = multiply_add(q, t, broadcast(8.42089794e-5f));
  q = multiply_add(q, t, broadcast(-2.98547093e-4f));
  q = multiply_add(q, t, broadcast(2.50819339e-5f));
  q = multiply_add(q, t, broadcast(0.00693070516f));
  q = multiply_add(q, t, broadcast(-0.0524382778f));
  q = multiply_add(q, t, broadcast(-0.459219754f));
  q = multiply_add(q, t, broadcast(-1.15110445f));
  q = multiply_add(q, t, broadcast(-1.0f));
  return power_of_two(q);
}

// x P(N <= x) = max(x, 0) - |x| P(N <= -|x|): nothing cancels.
[[maybe_unused]] inline Vec gelu(Vec x) {
  const Vec positive = relu(x), size = at_least(-x, x);
  return positive - size * normal_tail(size);
}

// P(N <= x) + x times the normal density.
[[maybe_unused]] inline Vec gelu_derivative(Vec x) {
  const Vec size = at_least(-x, x), tail = normal_tail(size);
  const Vec below = x < Vec{} ? tail : broadcast(1.0f) - tail;
  const Vec density = power_of_two(x * x * broadcast(-0.721347520f));  // -log2(e) / 2
  return multiply_add(x * broadcast(0.398942280f), density, below);
}

// term(0) + ... + term(count - 1), in four independent sums.
template <class Term>
Vec summed(std::int64_t count, Term term) {
  Vec sum[4] = {};
  std::int64_t k = 0;
  for (; k + 4 <= count; k += 4) {
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) sum[u] += term(k + u);
  }
  for (; k < count; ++k) sum[0] += term(k);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// (x - mean) / deviation of each pixel; 1 / deviation is kept if `inverse` (16) is given.
[[maybe_unused]] inline void normalise(const float* x, std::int64_t channels, float eps, float* to,
                                       float* inverse) {
  const Vec share = broadcast(1.0f / static_cast<float>(channels));
  for (std::int64_t i = 0; i < kCell; i += kLanes) {
    const Vec mean = share * summed(channels, [&](std::int64_t k) { return load(x + k * kCell + i); });
    const Vec variance = share * summed(channels, [&](std::int64_t k) {
                           const Vec d = load(x + k * kCell + i) - mean;
                           return d * d;
                         });
    const Vec factor = broadcast(1.0f) / square_root(variance + broadcast(eps));
    if (inverse) store(inverse + i, factor);
    for (std::int64_t k = 0; k < channels; ++k) {
      store(to + k * kCell + i, (load(x + k * kCell + i) - mean) * factor);
    }
  }
}

// grad += the gradient to x, of the gradient `d` to normalise(x) = y.
[[maybe_unused]] inline void add_normalise_gradient(const float* d, const float* y, const float* inverse,
                                                    std::int64_t channels, float* grad) {
  const Vec share = broadcast(1.0f / static_cast<float>(channels));
  for (std::int64_t i = 0; i < kCell; i += kLanes) {
    const Vec mean = share * summed(channels, [&](std::int64_t k) { return load(d + k * kCell + i); });
    const Vec along = share * summed(channels, [&](std::int64_t k) {
                        return load(d + k * kCell + i) * load(y + k * kCell + i);
                      });
    const Vec factor = load(inverse + i);
    for (std::int64_t k = 0; k < channels; ++k) {
      const std::int64_t at = k * kCell + i;
      const Vec rest = load(d + at) - multiply_add(along, load(y + at), mean);
      store(grad + at, multiply_add(factor, rest, load(grad + at)));
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
