// Kernel launches. csrc/emulation replaces the two macros; the rest is shared.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

// FASTBG_LAUNCH((kernel<...>), grid, block, shared bytes, stream, arguments...)
#ifndef FASTBG_LAUNCH
#define FASTBG_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)
// `name` points to the launch's dynamic shared memory, 16-byte aligned.
#define FASTBG_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char fastbg_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(fastbg_dynamic_shared)
#endif

// Largest number of blocks on one axis of a grid; kernels loop over longer axes. The emulation lowers
// it, so that small tensors test these loops.
#ifndef FASTBG_GRID_LIMIT
#define FASTBG_GRID_LIMIT 65535
#endif

namespace fastbg {

// Dynamic shared memory that every architecture provides without opting in.
constexpr std::size_t kSharedLimit = 48 * 1024;

inline unsigned grid_size(std::int64_t blocks) {
  return static_cast<unsigned>(std::clamp<std::int64_t>(blocks, 1, FASTBG_GRID_LIMIT));
}

template <typename T>
__host__ __device__ constexpr T ceil_div(T value, T by) {
  return (value + by - 1) / by;
}

}  // namespace fastbg
