// Fingerprints of memory, to detect whether its contents have changed: see kFingerprintPiece.
#pragma once

#include "simd.h"

namespace fastbg {

// A piece of memory of up to this many bytes has a state of 32 words of 64 bits, kept whole. Each word
// sums, over every 32nd word d of the piece, the product of both halves of d ^ key, and the word beside
// d; keys differ from place to place and from process to process. A single changed word is always
// detected, as its value enters a sum. Several go undetected only if sum and product cancel in every
// word; the probability is below 2^-31 in the worst case, two words exchanged in the places of one sum.
constexpr std::int64_t kFingerprintPiece = 24576;
constexpr std::int64_t kFingerprintWords = 32;
constexpr std::int64_t kFingerprintStride = kFingerprintWords * 8;  // bytes

struct FingerprintState {
  alignas(64) std::uint64_t words[kFingerprintWords];
};

}  // namespace fastbg

namespace fastbg::FASTBG_VARIANT {

typedef std::uint64_t Words __attribute__((vector_size(kLanes * sizeof(float))));
constexpr std::int64_t kWords = kLanes / 2;

// Low times high half of each word.
[[maybe_unused]] static inline Words low_times_high(Words x) {
#if defined(__AVX512F__)
  return (Words)_mm512_mul_epu32((__m512i)x, _mm512_srli_epi64((__m512i)x, 32));
#elif defined(__AVX2__)
  return (Words)_mm256_mul_epu32((__m256i)x, _mm256_srli_epi64((__m256i)x, 32));
#elif defined(__x86_64__)
  return (Words)_mm_mul_epu32((__m128i)x, _mm_srli_epi64((__m128i)x, 32));
#else
  return (x & 0xffffffffu) * (x >> 32);
#endif
}

// Every two neighbours exchanged.
[[maybe_unused]] static inline Words neighbours(Words x) {
#if defined(__AVX512F__)
  return (Words)_mm512_shuffle_epi32((__m512i)x, (_MM_PERM_ENUM)0x4e);
#elif defined(__AVX2__)
  return (Words)_mm256_shuffle_epi32((__m256i)x, 0x4e);
#elif defined(__x86_64__)
  return (Words)_mm_shuffle_epi32((__m128i)x, 0x4e);
#else
  return Words{x[1], x[0]};
#endif
}

// State of `bytes` bytes, at most a piece, with the process's secret of as many words.
[[maybe_unused]] static inline FingerprintState fingerprint(const char* from, std::int64_t bytes,
                                                            const std::uint64_t* secret) {
  constexpr int kParts = kFingerprintWords / kWords;
  Words sum[kParts], key[kParts];
  for (int part = 0; part < kParts; ++part) {
    sum[part] = Words{};
    std::memcpy(&key[part], secret + part * kWords, sizeof(Words));
  }
  const auto add = [&](const char* stretch) {
#pragma GCC unroll 16
    for (int part = 0; part < kParts; ++part) {
      Words d;
      std::memcpy(&d, stretch + part * sizeof(Words), sizeof d);
      sum[part] += low_times_high(d ^ key[part]) + neighbours(d);
      key[part] += 0x9e3779b97f4a7c15u;  // odd, far from any pattern: 2^64 over the golden ratio
    }
  };
  std::int64_t at = 0;
  for (; at + kFingerprintStride <= bytes; at += kFingerprintStride) add(from + at);
  if (at < bytes) {
    char last[kFingerprintStride] = {};
    std::memcpy(last, from + at, static_cast<std::size_t>(bytes - at));
    add(last);
  }
  FingerprintState state;
  std::memcpy(state.words, sum, sizeof state.words);
  return state;
}

}  // namespace fastbg::FASTBG_VARIANT
