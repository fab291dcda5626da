// What it costs to see that the weight of a 64-channel conv3x3 is unchanged, beside a stand-in for
// the call, which reads the layer's factors and maps: each way in turn, so that a busy machine
// disturbs all alike.
//
//   g++ -O3 -march=native -std=c++17 -DFASTBG_VARIANT=native -Icsrc/cpu -o floor bench/weight_check_floor.cpp
//
// It needs AVX-512.
#include <immintrin.h>
#include <x86intrin.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "fingerprint.h"

namespace {

constexpr long kWeight = 64 * 64 * 9 * 4, kFactors = 64 * 64 * 36 * 4, kMaps = 2 * 64 * 256 * 4;
constexpr int kParts = 8, kRuns = 4000;
char *weight, *copy, *factors, *maps;
std::uint64_t secret[fastbg::kFingerprintWords];

__m512i any(const char* from, long bytes) {  // or of all words, by eight chains
  __m512i sum[kParts] = {};
  for (long at = 0; at < bytes; at += 64 * kParts)
    for (int part = 0; part < kParts; ++part)
      sum[part] = _mm512_or_si512(sum[part], _mm512_loadu_si512(from + at + 64 * part));
  for (int part = 1; part < kParts; ++part) sum[0] = _mm512_or_si512(sum[0], sum[part]);
  return sum[0];
}

std::uint64_t call() {  // two blocks of tiles read all factors
  const __m512i sum = _mm512_or_si512(_mm512_or_si512(any(factors, kFactors), any(factors, kFactors)),
                                      any(maps, kMaps));
  return static_cast<std::uint64_t>(_mm512_reduce_or_epi64(sum));
}

std::uint64_t nothing() { return 0; }
std::uint64_t read_only() {
  return static_cast<std::uint64_t>(_mm512_reduce_or_epi64(any(weight, kWeight)));
}

std::uint64_t compare() { return static_cast<std::uint64_t>(std::memcmp(weight, copy, kWeight)); }

template <typename Way>
std::uint64_t by(const Way& fingerprint) {
  std::uint64_t sum = 0;
  for (long at = 0; at < kWeight; at += fastbg::kFingerprintPiece) {
    const fastbg::FingerprintState state = fingerprint(weight + at, fastbg::kFingerprintPiece, secret);
    for (long word = 0; word < fastbg::kFingerprintWords; ++word) sum ^= state.chains[word] + state.sums[word];
  }
  return sum;
}

std::uint64_t products() { return by(fastbg::native::fingerprint_by_products); }
#if defined(__VAES__)
std::uint64_t aes() { return by(fastbg::native::fingerprint_by_aes); }
#endif

char* filled(long bytes) {
  char* made = static_cast<char*>(std::aligned_alloc(1 << 21, 1 << 21));
  for (long at = 0; at < bytes; ++at) made[at] = static_cast<char>(std::rand());
  return made;
}

}  // namespace

int main() {
  weight = filled(kWeight), factors = filled(kFactors), maps = filled(kMaps), copy = filled(kWeight);
  std::memcpy(copy, weight, kWeight);
  struct Way {
    const char* name;
    std::uint64_t (*run)();
    std::vector<std::uint64_t> cycles;
  };
  std::vector<Way> ways = {{"nothing", nothing, {}},
                           {"read only", read_only, {}},
                           {"products", products, {}},
#if defined(__VAES__)
                           {"AES", aes, {}},
#endif
                           {"memcmp with a copy", compare, {}}};
  volatile std::uint64_t sink = 0;
  for (int run = 0; run < kRuns; ++run)
    for (Way& way : ways) {
      sink = sink + call();
      const std::uint64_t start = __rdtsc();
      sink = sink + way.run() + call();
      way.cycles.push_back(__rdtsc() - start);
    }
  for (Way& way : ways) {
    std::sort(way.cycles.begin(), way.cycles.end());
    std::printf("%-20s %6llu cycles (of the time stamp; first decile), median %llu\n", way.name,
                static_cast<unsigned long long>(way.cycles[kRuns / 10]),
                static_cast<unsigned long long>(way.cycles[kRuns / 2]));
  }
}
