// Fingerprints of memory, to detect whether its contents have changed: see kFingerprintPiece.
#pragma once

#include "isa.h"
#include "simd.h"

namespace fastbg {

// A piece of memory of up to this many bytes has a state, kept whole, that two ways compute. Both read
// stretches of 32 words of 64 bits, in turn, and start from a secret of the process. A single changed word
// is always detected.
//
// AES, where the processor has rounds for whole vectors (VAES): every 16 bytes of a stretch have a chain,
// state = round(state) ^ d, and every word d is added to a sum. Both are one to one in d. Several changes
// go undetected only if the sums cancel as well as the chains. For a chain to cancel, two blocks that
// follow each other need five changed bytes in a column, the later ones those that S-boxes of an unknown
// state make of the earlier ones.
//
// Products, elsewhere: each word of a stretch sums the product of both halves of d ^ key, and the word
// beside d; keys differ from place to place. Several changes go undetected only if sum and product cancel
// in every word; the probability is below 2^-31 in the worst case, two words exchanged in the places of
// one sum.
constexpr std::int64_t kFingerprintPiece = 24576;
constexpr std::int64_t kFingerprintWords = 32;
constexpr std::int64_t kFingerprintStride = kFingerprintWords * 8;  // bytes

struct FingerprintState {
  alignas(64) std::uint64_t chains[kFingerprintWords];  // or sums of products
  std::uint64_t sums[kFingerprintWords];
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

// The last stretch of a piece, filled up with zeros.
struct LastStretch {
  char bytes[kFingerprintStride] = {};

  LastStretch(const char* from, std::int64_t left) {
    std::memcpy(bytes, from, static_cast<std::size_t>(left));
  }
};

[[maybe_unused]] static inline FingerprintState fingerprint_by_products(const char* from, std::int64_t bytes,
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
  if (at < bytes) add(LastStretch(from + at, bytes - at).bytes);
  FingerprintState state{};
  std::memcpy(state.chains, sum, sizeof sum);
  return state;
}

#if defined(__AVX2__)
#define FASTBG_VAES __attribute__((target("vaes")))

// Chains and sums, in registers.
struct AesChains {
  static constexpr int kParts = kFingerprintWords / kWords;
  static constexpr int kSums = 4;  // what AVX2 has registers for; it adds its other four parts to them
  Words chain[kParts], sum[kSums];

  FASTBG_VAES __attribute__((always_inline)) void add(const char* stretch) {
#pragma GCC unroll 16
    for (int part = 0; part < kParts; ++part) {
      Words d;
      std::memcpy(&d, stretch + part * sizeof(Words), sizeof d);
      asm("" : "+v"(d));  // read once, not once for each use
#if defined(__AVX512F__)
      chain[part] = (Words)_mm512_aesenc_epi128((__m512i)chain[part], (__m512i)d);
#else
      chain[part] = (Words)_mm256_aesenc_epi128((__m256i)chain[part], (__m256i)d);
#endif
      sum[part % kSums] += d;
    }
  }
};

// Only for processors with VAES.
[[maybe_unused]] FASTBG_VAES static inline FingerprintState fingerprint_by_aes(const char* from, std::int64_t bytes,
                                                                               const std::uint64_t* secret) {
  AesChains at_work{};
#pragma GCC unroll 16
  for (int part = 0; part < AesChains::kParts; ++part)
    std::memcpy(&at_work.chain[part], secret + part * kWords, sizeof(Words));
  std::int64_t at = 0;
  for (; at + kFingerprintStride <= bytes; at += kFingerprintStride) at_work.add(from + at);
  if (at < bytes) at_work.add(LastStretch(from + at, bytes - at).bytes);
  FingerprintState state{};
#pragma GCC unroll 16
  for (int part = 0; part < AesChains::kParts; ++part)
    std::memcpy(state.chains + part * kWords, &at_work.chain[part], sizeof(Words));
#pragma GCC unroll 16
  for (int part = 0; part < AesChains::kSums; ++part)
    std::memcpy(state.sums + part * kWords, &at_work.sum[part], sizeof(Words));
  return state;
}
#endif

// State of `bytes` bytes, at most a piece, with the process's secret of as many words.
[[maybe_unused]] static inline FingerprintState fingerprint(const char* from, std::int64_t bytes,
                                                            const std::uint64_t* secret) {
#if defined(__AVX2__)
  if (has_vector_aes()) return fingerprint_by_aes(from, bytes, secret);
#endif
  return fingerprint_by_products(from, bytes, secret);
}

}  // namespace fastbg::FASTBG_VARIANT
