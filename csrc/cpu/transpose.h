// Square blocks transposed in registers.
#pragma once

#include <utility>

#include "simd.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// Lanes of two rows that one step of the transposition exchanges, S lanes apart.
template <int S, bool LOW, std::size_t... L>
Vec exchanged(Vec x, Vec y, std::index_sequence<L...>) {
  if constexpr (LOW) {
    return shuffle<((L & S) ? L - S + kLanes : L)...>(x, y);
  } else {
    return shuffle<((L & S) ? L + kLanes : L + S)...>(x, y);
  }
}

template <int S>
void exchange(Vec (&rows)[kLanes]) {
  if constexpr (S < kLanes) {
    constexpr std::make_index_sequence<kLanes> lanes{};
#pragma GCC unroll 16
    for (int r = 0; r < kLanes; ++r) {
      if (r & S) continue;
      const Vec x = rows[r], y = rows[r + S];
      rows[r] = exchanged<S, true>(x, y, lanes);
      rows[r + S] = exchanged<S, false>(x, y, lanes);
    }
    exchange<2 * S>(rows);
  }
}

// A kLanes x kLanes block: row r at from[r] + at becomes column r; rows of `to` are `stride` apart.
inline void transpose(const float* const (&from)[kLanes], std::int64_t at, float* to,
                      std::int64_t stride) {
  Vec rows[kLanes];
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; ++r) rows[r] = load(from[r] + at);
  exchange<1>(rows);
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; ++r) store(to + r * stride, rows[r]);
}

}  // namespace
}  // namespace fastbg::FASTBG_VARIANT
