// The widest float vector of a variant. Everything here has internal linkage, so that the linker
// can never hand the AVX-512 copy of a function to the baseline variant.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace fastbg::FASTBG_VARIANT {

#if defined(__AVX512F__)
constexpr std::int64_t kLanes = 16;
#elif defined(__AVX2__)
constexpr std::int64_t kLanes = 8;
#else
constexpr std::int64_t kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));
typedef float UnalignedVec
    __attribute__((vector_size(kLanes * sizeof(float)), aligned(alignof(float)), may_alias));

[[maybe_unused]] static inline Vec load(const float* from) {
  return *reinterpret_cast<const UnalignedVec*>(from);
}

[[maybe_unused]] static inline void store(float* to, Vec value) {
  *reinterpret_cast<UnalignedVec*>(to) = value;
}

// `value` in every lane: folds into a broadcasting load (0 + value would be an addition).
[[maybe_unused]] static inline Vec broadcast(float value) { return value - Vec{}; }

// max(x, 0); NaN is kept.
[[maybe_unused]] static inline Vec relu(Vec x) {
#if defined(__AVX512F__)
  return _mm512_max_ps(Vec{}, x);  // if one is not a number: the second
#elif defined(__AVX2__)
  return _mm256_max_ps(Vec{}, x);
#else
  return x < Vec{} ? Vec{} : x;
#endif
}

// Fused if the variant supports it. Explicit, as contraction is off (it would change the rounding of the
// `quantize` formula).
[[maybe_unused]] static inline Vec multiply_add(Vec x, Vec y, Vec sum) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(x, y, sum);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(x, y, sum);
#else
  return x * y + sum;
#endif
}

// Lanes I... of x followed by y: lane kLanes is y's first.
template <std::size_t... I>
[[maybe_unused]] static inline Vec shuffle(Vec x, Vec y) {
#if defined(__clang__)
  return __builtin_shufflevector(x, y, I...);
#else  // GCC has that one from version 12 on only
  typedef std::int32_t Lanes __attribute__((vector_size(sizeof(Vec))));
  return __builtin_shuffle(x, y, Lanes{static_cast<std::int32_t>(I)...});
#endif
}

[[maybe_unused]] static inline std::int64_t smaller(std::int64_t x, std::int64_t y) {
  return x < y ? x : y;
}

[[maybe_unused]] static inline std::int64_t larger(std::int64_t x, std::int64_t y) {
  return x < y ? y : x;
}

// Half a vector, for products that need no more; with AVX-512 it costs half.
typedef float HalfVec __attribute__((vector_size(kLanes / 2 * sizeof(float))));

[[maybe_unused]] static inline HalfVec half_of(Vec value) {
  HalfVec half;
  std::memcpy(&half, &value, sizeof half);
  return half;
}

[[maybe_unused]] static inline HalfVec broadcast_half(float value) { return value - HalfVec{}; }

[[maybe_unused]] static inline HalfVec load_half(const float* from) {
  HalfVec value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

[[maybe_unused]] static inline void store_half(float* to, HalfVec value) {
  std::memcpy(to, &value, sizeof value);
}

[[maybe_unused]] static inline HalfVec multiply_add(HalfVec x, HalfVec y, HalfVec sum) {
#if defined(__AVX512F__)
  return _mm256_fmadd_ps(x, y, sum);
#else
  return x * y + sum;
#endif
}

// Copies one aligned cache line past the caches.
constexpr std::int64_t kLine = 64;

[[maybe_unused]] static inline void stream_line(char* to, const char* from) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), _mm512_loadu_si512(from));
#elif defined(__AVX2__)
  for (int i = 0; i < 2; ++i) {
    const __m256i* source = reinterpret_cast<const __m256i*>(from) + i;
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to) + i, _mm256_loadu_si256(source));
  }
#elif defined(__x86_64__)
  for (int i = 0; i < 4; ++i) {
    const __m128i* source = reinterpret_cast<const __m128i*>(from) + i;
    _mm_stream_si128(reinterpret_cast<__m128i*>(to) + i, _mm_loadu_si128(source));
  }
#else
  std::memcpy(to, from, kLine);
#endif
}

// Makes streamed lines visible to other threads; call once per thread, after its last line.
[[maybe_unused]] static inline void finish_streaming() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace fastbg::FASTBG_VARIANT
