// Copies from global to shared memory that go on while the thread computes (cp.async, compute capability
// 8.0 on). They are in shared memory once the thread that started them has waited for their group, and
// visible to others after the next barrier.
#pragma once

#include <cuda_runtime.h>

// csrc/emulation replaces them.
#ifndef FASTBG_ASYNC_COPIES
namespace fastbg {

// Starts to fill 16, 8 or 4 bytes: the first `bytes` of them from `from`, the rest with zeros. Both addresses
// are aligned to as many bytes as are filled, also if `bytes` is 0.
__device__ inline void copy_async(uint4* shared, const void* from, int bytes) {
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ inline void copy_async(uint2* shared, const void* from, int bytes) {
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ inline void copy_async(unsigned* shared, const void* from, int bytes) {
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// The copies that were started since the last commit are a group.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for this thread's groups, but for the last `Left` of them.
template <int Left>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory");
}

}  // namespace fastbg
#endif
