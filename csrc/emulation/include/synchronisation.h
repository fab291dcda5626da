// Barriers, votes and shuffles. Each records its source location, which errors name.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "runtime.h"

#define FASTBG_SITE(operation) (::fastbg::emulation::Site{operation, file, line})
#define FASTBG_CALLED_FROM const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(FASTBG_CALLED_FROM) {
  fastbg::emulation::block_barrier(FASTBG_SITE("__syncthreads"));
}
inline int __syncthreads_count(int predicate, FASTBG_CALLED_FROM) {
  return fastbg::emulation::block_sum(predicate != 0, FASTBG_SITE("__syncthreads_count"));
}
inline int __syncthreads_or(int predicate, FASTBG_CALLED_FROM) {
  return fastbg::emulation::block_sum(predicate != 0, FASTBG_SITE("__syncthreads_or")) != 0;
}
inline int __syncthreads_and(int predicate, FASTBG_CALLED_FROM) {
  return fastbg::emulation::block_sum(predicate == 0, FASTBG_SITE("__syncthreads_and")) == 0;
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, FASTBG_CALLED_FROM) {
  fastbg::emulation::warp_exchange(mask, 0, FASTBG_SITE("__syncwarp"));
}
inline void __threadfence() {}
inline void __threadfence_block() {}

inline unsigned __ballot_sync(unsigned mask, int predicate, FASTBG_CALLED_FROM) {
  const std::uint64_t* votes =
      fastbg::emulation::warp_exchange(mask, predicate != 0, FASTBG_SITE("__ballot_sync"));
  unsigned ballot = 0;
  for (int lane = 0; lane < warpSize; ++lane) {
    if (mask >> lane & 1u) ballot |= static_cast<unsigned>(votes[lane]) << lane;
  }
  return ballot;
}
inline int __any_sync(unsigned mask, int predicate, FASTBG_CALLED_FROM) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, FASTBG_CALLED_FROM) {
  return __ballot_sync(mask, predicate, file, line) == mask;
}

namespace fastbg::emulation {

// What lane `source` offered.
template <typename T>
T shuffle(unsigned mask, T value, int source, Site site) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t offered = 0;
  std::memcpy(&offered, &value, sizeof(value));
  const std::uint64_t* offers = warp_exchange(mask, offered, site);
  if (!(mask >> source & 1u)) fail("reads from a lane that does not take part", site);
  std::memcpy(&value, &offers[source], sizeof(value));
  return value;
}

}  // namespace fastbg::emulation

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize, FASTBG_CALLED_FROM) {
  const int base = fastbg::emulation::lane() & ~(width - 1);
  return fastbg::emulation::shuffle(mask, value, base + (source & (width - 1)),
                                    FASTBG_SITE("__shfl_sync"));
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, FASTBG_CALLED_FROM) {
  const int lane = fastbg::emulation::lane(), base = lane & ~(width - 1);
  const int source = lane - static_cast<int>(delta);
  return fastbg::emulation::shuffle(mask, value, source < base ? lane : source,
                                    FASTBG_SITE("__shfl_up_sync"));
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   FASTBG_CALLED_FROM) {
  const int lane = fastbg::emulation::lane(), end = (lane & ~(width - 1)) + width;
  const int source = lane + static_cast<int>(delta);
  return fastbg::emulation::shuffle(mask, value, source >= end ? lane : source,
                                    FASTBG_SITE("__shfl_down_sync"));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = warpSize, FASTBG_CALLED_FROM) {
  const int lane = fastbg::emulation::lane(), end = (lane & ~(width - 1)) + width;
  const int source = lane ^ lanes;
  return fastbg::emulation::shuffle(mask, value, source >= end ? lane : source,
                                    FASTBG_SITE("__shfl_xor_sync"));
}

#undef FASTBG_SITE
#undef FASTBG_CALLED_FROM
