// Exponential and GELU of several vectors at once: the chain of products that a polynomial is leaves the
// multipliers idle for three quarters of its length.
#pragma once

#include <type_traits>

#include "simd.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

constexpr int kAtOnce = 4;  // vectors

typedef std::int32_t Bits __attribute__((vector_size(kLanes * sizeof(float))));

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

// The smaller of both; NaN is kept.
[[maybe_unused]] inline Vec at_most(Vec bound, Vec value) {
#if defined(__AVX512F__)
  return _mm512_min_ps(bound, value);
#elif defined(__AVX2__)
  return _mm256_min_ps(bound, value);
#elif defined(__x86_64__)
  return _mm_min_ps(bound, value);
#else
  return value > bound ? bound : value;
#endif
}

[[maybe_unused]] inline Bits bits_of(Vec x) {
  Bits bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

[[maybe_unused]] inline Vec vector_of(Bits bits) {
  Vec x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// |x|
[[maybe_unused]] inline Vec size_of(Vec x) { return vector_of(bits_of(x) & 0x7fffffff); }

// body(x, i) for all floats from i on, kAtOnce vectors x at a time, in the end one. `floats` is a multiple
// of kLanes.
template <class Body>
inline void for_vectors(std::int64_t floats, Body body) {
  std::int64_t i = 0;
  for (; i + kAtOnce * kLanes <= floats; i += kAtOnce * kLanes) {
    Vec x[kAtOnce];
    body(x, i);
  }
  for (; i < floats; i += kLanes) {
    Vec x[1];
    body(x, i);
  }
}

template <int N>
inline void load_all(const float* from, Vec (&x)[N]) {
#pragma GCC unroll 16
  for (int u = 0; u < N; ++u) x[u] = load(from + u * kLanes);
}

template <int N>
inline void store_all(float* to, const Vec (&x)[N]) {
#pragma GCC unroll 16
  for (int u = 0; u < N; ++u) store(to + u * kLanes, x[u]);
}

template <int N>
inline void set_all(Vec (&x)[N], float value) {
#pragma GCC unroll 16
  for (int u = 0; u < N; ++u) x[u] = broadcast(value);
}

// p = p x + c
template <int N>
inline void horner(Vec (&p)[N], const Vec (&x)[N], float c) {
#pragma GCC unroll 16
  for (int u = 0; u < N; ++u) p[u] = multiply_add(p[u], x[u], broadcast(c));
}

// 2^n 2^f for x = n + f, |f| <= 1/2.
template <int N>
struct Power {
  Vec whole[N];  // n; without AVX-512 plus 1.5 * 2^23, so that the last bits are those of the integer n
  Vec part[N];   // 2^f, by a polynomial of degree 5, the minimax of the relative error (9e-8) that is 1 at 0

  explicit Power(Vec (&x)[N]) {
#pragma GCC unroll 16
    for (int u = 0; u < N; ++u) {
#if defined(__AVX512F__)
      whole[u] = _mm512_roundscale_ps(x[u], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      x[u] -= whole[u];
#else
      const Vec magic = broadcast(12582912.0f);
      whole[u] = x[u] + magic;
      x[u] -= whole[u] - magic;
#endif
      part[u] = multiply_add(broadcast(0.0013264727f), x[u], broadcast(0.009671513f));
    }
    horner(part, x, 0.055507336f);
    horner(part, x, 0.24022242f);
    horner(part, x, 0.693147f);
    horner(part, x, 1.0f);
  }

  // x becomes 2^x; what was no number remains none.
  void store_to(Vec (&x)[N]) const {
#pragma GCC unroll 16
    for (int u = 0; u < N; ++u) {
#if defined(__AVX512F__)
      x[u] = _mm512_scalef_ps(part[u], whole[u]);
#else
      const Bits bits = (bits_of(whole[u]) << 23) + 0x3f800000;
      x[u] = part[u] * vector_of(bits);
#endif
    }
  }

  // The same faster, but what was no number becomes anything.
  void store_number_to(Vec (&x)[N]) const {
#if defined(__AVX512F__)
    store_to(x);
#else
#pragma GCC unroll 16
    for (int u = 0; u < N; ++u) x[u] = vector_of(bits_of(part[u]) + (bits_of(whole[u]) << 23));
#endif
  }
};

// 2^x for x <= 0, to 2.5 units in the last place; below -126: 2^-126.
template <int N>
inline void power_of_two(Vec (&x)[N]) {
#pragma GCC unroll 16
  for (int u = 0; u < N; ++u) x[u] = at_least(broadcast(-126.0f), x[u]);
  Power<N>(x).store_to(x);
}

constexpr std::int64_t kBlock = 32 * kLanes;  // floats between the two loops of a function

// x P(n <= x), n standard normal, = max(x, 0) - t P(n <= -t) with t = |x|: nothing cancels. P is 2^q(t),
// where the polynomial q of degree 10 is the minimax of log2 P. t P is right to 5e-8 everywhere, which is
// less than PyTorch's 0.5 (1 + erf) loses to cancellation. The polynomial and the power are loops of their
// own: in one, a processor would not look far enough ahead to overlap what does not depend on one another.
[[maybe_unused]] inline void gelu(float* x, std::int64_t floats) {
  alignas(64) float logarithm[kBlock];
  for (std::int64_t from = 0; from < floats; from += kBlock) {
    float* some = x + from;
    const std::int64_t count = smaller(kBlock, floats - from);
    for_vectors(count, [&](auto& q, std::int64_t i) {
      std::remove_reference_t<decltype(q)> t;
      load_all(some + i, t);
      for (Vec& v : t) v = size_of(v);
      set_all(q, -3.88528142e-8f);
      horner(q, t, 1.06790946e-6f);
      horner(q, t, -1.27329412e-5f);
      horner(q, t, 8.42089794e-5f);
      horner(q, t, -2.98547093e-4f);
      horner(q, t, 2.50819339e-5f);
      horner(q, t, 0.00693070516f);
      horner(q, t, -0.0524382778f);
      horner(q, t, -0.459219754f);
      horner(q, t, -1.15110445f);
      horner(q, t, -1.0f);
      store_all(logarithm + i, q);
    });
    for_vectors(count, [&](auto& p, std::int64_t i) {
      load_all(logarithm + i, p);
      for (Vec& v : p) v = at_least(broadcast(-126.0f), v);
      constexpr int kVectors = sizeof(p) / sizeof(Vec);
      Power<kVectors>(p).store_number_to(p);
#pragma GCC unroll 16
      for (int u = 0; u < kVectors; ++u) {
        const Vec v = load(some + i + u * kLanes);
        store(some + i + u * kLanes, multiply_add(-size_of(v), p[u], relu(v)));
      }
    });
  }
}

// grad *= the derivative of x P(n <= x), which is P(n <= x) + x density(x): with t = |x|, 1 - g for positive
// and g for negative x, where g = P(n <= -t) - t density(t). A polynomial of degree 11, the minimax of the
// error of g (2e-8), stands for g exp(t^2 / 2). From 8 on g is 0 to 2e-12.
[[maybe_unused]] inline void multiply_by_gelu_derivative(const float* x, std::int64_t floats, float* grad) {
  alignas(64) float polynomial[kBlock];
  const auto size = [](Vec v) { return at_most(broadcast(8.0f), size_of(v)); };
  for (std::int64_t from = 0; from < floats; from += kBlock) {
    const float* some = x + from;
    const std::int64_t count = smaller(kBlock, floats - from);
    for_vectors(count, [&](auto& p, std::int64_t i) {
      std::remove_reference_t<decltype(p)> t;
      load_all(some + i, t);
      for (Vec& v : t) v = size(v);
      set_all(p, -3.1554322e-7f);
      horner(p, t, 7.7087825e-6f);
      horner(p, t, -8.4771025e-5f);
      horner(p, t, 5.636529e-4f);
      horner(p, t, -0.0025900907f);
      horner(p, t, 0.009003848f);
      horner(p, t, -0.025471818f);
      horner(p, t, 0.061923932f);
      horner(p, t, -0.13280578f);
      horner(p, t, 0.24997257f);
      horner(p, t, -0.79788285f);
      horner(p, t, 0.49999997f);
      store_all(polynomial + i, p);
    });
    for_vectors(count, [&](auto& p, std::int64_t i) {
      load_all(some + i, p);
      for (Vec& v : p) v = size(v), v = v * broadcast(-0.721347520f) * v;  // -log2(e) / 2
      constexpr int kVectors = sizeof(p) / sizeof(Vec);
      Power<kVectors>(p).store_number_to(p);
#pragma GCC unroll 16
      for (int u = 0; u < kVectors; ++u) {
        const std::int64_t at = i + u * kLanes;
        const Vec g = p[u] * load(polynomial + at), v = load(some + at);
        store(grad + from + at, load(grad + from + at) * (v < Vec{} ? g : broadcast(1.0f) - g));
      }
    });
  }
}

}  // namespace
}  // namespace fastbg::FASTBG_VARIANT
