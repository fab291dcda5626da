// The part of CUDA that kernels of this project may use, for g++: qualifiers, memory accesses,
// mathematics, atomics, runtime calls. Barriers and warp operations are in synchronisation.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include "async_copies.h"
#include "runtime.h"
#include "synchronisation.h"
#include "tensor_cores.h"
#include "vector_types.h"

// Launch and dynamic shared memory, in place of cuda/launch.cuh's.
#define FASTBG_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                       \
  (static_cast<void>(stream),                                                               \
   ::fastbg::emulation::launch(#kernel, reinterpret_cast<const void*>(+kernel), (grid), (block), \
                               (shared_bytes), [=] { kernel(__VA_ARGS__); }))
#define FASTBG_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(::fastbg::emulation::dynamic_shared())

#define __host__
#define __device__
#define __global__
#define __constant__
#define __shared__ static  // blocks run one after another
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __grid_constant__

// Memory: cache hints change nothing.
#define FASTBG_LOAD(NAME) \
  template <typename T>   \
  T NAME(const T* address) { return *address; }
FASTBG_LOAD(__ldg)
FASTBG_LOAD(__ldca)
FASTBG_LOAD(__ldcg)
FASTBG_LOAD(__ldcs)
FASTBG_LOAD(__ldlu)
FASTBG_LOAD(__ldcv)
#undef FASTBG_LOAD
#define FASTBG_STORE(NAME) \
  template <typename T>    \
  void NAME(T* address, std::common_type_t<T> value) { *address = value; }
FASTBG_STORE(__stcg)
FASTBG_STORE(__stcs)
FASTBG_STORE(__stwb)
FASTBG_STORE(__stwt)
#undef FASTBG_STORE

// Mathematics
using std::max;
using std::min;

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float a) { return std::exp(a); }
inline float __logf(float a) { return std::log(a); }
inline float rsqrtf(float a) { return 1.0f / std::sqrt(a); }
inline float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }
inline int __float2int_rn(float a) { return static_cast<int>(std::nearbyint(a)); }
inline int __float2int_rd(float a) { return static_cast<int>(std::floor(a)); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __clz(int bits) { return bits ? __builtin_clz(static_cast<unsigned>(bits)) : 32; }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

namespace fastbg::emulation {
template <typename To, typename From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}
}  // namespace fastbg::emulation

inline int __float_as_int(float a) { return fastbg::emulation::bits_as<int>(a); }
inline unsigned __float_as_uint(float a) { return fastbg::emulation::bits_as<unsigned>(a); }
inline float __int_as_float(int a) { return fastbg::emulation::bits_as<float>(a); }
inline float __uint_as_float(unsigned a) { return fastbg::emulation::bits_as<float>(a); }

// Atomics: one thread runs at a time, so plain operations suffice. ThreadSanitizer gets real atomics.
namespace fastbg::emulation {
template <typename T, typename Change>
T atomic_change(T* address, Change change) {
  T old, changed;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do {
    changed = change(old);
  } while (!__atomic_compare_exchange(address, &old, &changed, false, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED));
  return old;
}
}  // namespace fastbg::emulation

template <typename T>
T atomicAdd(T* address, std::common_type_t<T> value) {
  return fastbg::emulation::atomic_change(address, [=](T old) { return static_cast<T>(old + value); });
}
template <typename T>
T atomicMax(T* address, std::common_type_t<T> value) {
  return fastbg::emulation::atomic_change(address, [=](T old) { return std::max(old, value); });
}
template <typename T>
T atomicMin(T* address, std::common_type_t<T> value) {
  return fastbg::emulation::atomic_change(address, [=](T old) { return std::min(old, value); });
}
template <typename T>
T atomicExch(T* address, std::common_type_t<T> value) {
  return fastbg::emulation::atomic_change(address, [=](T) { return value; });
}
template <typename T>
T atomicCAS(T* address, std::common_type_t<T> expected, std::common_type_t<T> value) {
  return fastbg::emulation::atomic_change(address,
                                          [=](T old) { return old == expected ? value : old; });
}

// Runtime
using cudaStream_t = struct CUstream_st*;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };

inline const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorInvalidConfiguration: break;
  }
  return "cudaErrorInvalidConfiguration";
}
inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorInvalidConfiguration: break;
  }
  return "invalid configuration argument";
}
struct cudaFuncAttributes {
  int maxThreadsPerBlock;
};
template <typename... Arguments>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*)(Arguments...)) {
  return attributes->maxThreadsPerBlock = 768, cudaSuccess;
}
inline cudaError_t cudaGetLastError() {
  return static_cast<cudaError_t>(fastbg::emulation::last_error(true));
}
inline cudaError_t cudaPeekAtLastError() {
  return static_cast<cudaError_t>(fastbg::emulation::last_error(false));
}

inline cudaError_t cudaMemsetAsync(void* address, int value, std::size_t bytes, cudaStream_t) {
  std::memset(address, value, bytes);
  return cudaSuccess;
}

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  const bool allowed = bytes >= 0 && fastbg::emulation::allow_shared(
                                         reinterpret_cast<const void*>(kernel), bytes);
  return allowed ? cudaSuccess : cudaErrorInvalidValue;
}

// A small device, so that kernels that size their grid by it go round several times.
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  return *value = 2, cudaSuccess;
}
