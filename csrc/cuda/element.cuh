// Element types of tensors: conversion to and from float, 128-bit packs, choice by DType.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "tensor_view.h"

namespace fastbg {

// level / 255, correctly rounded for every integer level 0..255, without the slow path of `/`.
__device__ inline float grey_level(float level) {
  constexpr float inverse = 1.0f / 255.0f;
  const float quotient = level * inverse;
  return fmaf(fmaf(-255.0f, quotient, level), inverse, quotient);
}

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__half value) { return __half2float(value); }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float to_float(std::uint8_t level) { return grey_level(level); }

template <typename T>
__device__ inline T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) { return value; }
template <>
__device__ inline __half from_float<__half>(float value) { return __float2half_rn(value); }
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// A source element as it stands in the output: floats untouched, grey levels as [0,1].
template <typename Out, typename In>
__device__ inline Out converted(In value) {
  if constexpr (sizeof(In) == sizeof(Out)) {
    return value;
  } else {
    return from_float<Out>(to_float(value));
  }
}

// V neighbouring elements.
template <typename T, int V>
struct Pack {
  T at[V];
};

// Hides from the compiler how an address in global memory was computed: it is then kept in a register
// instead of being computed again, with 64-bit products, wherever it is needed.
template <typename T>
__device__ inline void forget(T*& address) {
#ifdef __CUDACC__
  asm volatile("" : "+l"(address));
  __builtin_assume(__isGlobal(address));
#else
  asm volatile("" : "+r"(address));
#endif
}

// Hides from the compiler how `value` was computed, so that values derived from it are computed in the
// loop where they are needed, and do not occupy registers before it.
__device__ inline void forget(int& value) { asm volatile("" : "+r"(value)); }

// Elements that fill a 128-bit store.
template <typename T>
constexpr int kPackOf = 16 / sizeof(T);

// One transaction of at most 128 bits each; `address` is aligned to its width.
template <typename T, int V>
__device__ inline Pack<T, V> load(const T* address) {
  Pack<T, V> pack;
  if constexpr (V == 1) {
    pack.at[0] = *address;
  } else if constexpr (sizeof(pack) == 4) {
    const unsigned bits = __ldg(reinterpret_cast<const unsigned*>(address));
    memcpy(&pack, &bits, sizeof(pack));
  } else if constexpr (sizeof(pack) == 8) {
    const uint2 bits = __ldg(reinterpret_cast<const uint2*>(address));
    memcpy(&pack, &bits, sizeof(pack));
  } else {
    static_assert(sizeof(pack) % 16 == 0, "a pack is 4, 8 or a multiple of 16 bytes");
    uint4 bits[sizeof(pack) / 16];
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(pack) / 16); ++i) {
      bits[i] = __ldg(reinterpret_cast<const uint4*>(address) + i);
    }
    memcpy(&pack, bits, sizeof(pack));
  }
  return pack;
}

template <bool Kept, typename Bits, typename T, int V>
__device__ inline void store_bits(T* address, const Pack<T, V>& pack) {
  Bits bits;
  memcpy(&bits, &pack, sizeof(bits));
  if constexpr (Kept) {
    *reinterpret_cast<Bits*>(address) = bits;
  } else {
    __stcs(reinterpret_cast<Bits*>(address), bits);
  }
}

// Results are written once and read by a later kernel: evict-first, so that sources, which many
// pairs share, stay in L2. `Kept`: the next kernel reads them soon.
template <bool Kept = false, typename T, int V>
__device__ inline void store(T* address, const Pack<T, V>& pack) {
  if constexpr (V == 1) {
    *address = pack.at[0];
  } else if constexpr (sizeof(pack) == 4) {
    store_bits<Kept, unsigned>(address, pack);
  } else if constexpr (sizeof(pack) == 8) {
    store_bits<Kept, uint2>(address, pack);
  } else {
    static_assert(sizeof(pack) == 16, "stores are single, 32, 64 or 128 bits wide");
    store_bits<Kept, uint4>(address, pack);
  }
}

template <typename T>
struct Type {
  using type = T;
};

// Calls run(source type, output type); grey levels come out as float32.
template <typename Run>
cudaError_t with_types(DType source, Run&& run) {
  switch (source) {
    case DType::float32: return run(Type<float>{}, Type<float>{});
    case DType::float16: return run(Type<__half>{}, Type<__half>{});
    case DType::bfloat16: return run(Type<__nv_bfloat16>{}, Type<__nv_bfloat16>{});
    case DType::uint8: return run(Type<std::uint8_t>{}, Type<float>{});
    case DType::int32: break;
  }
  return cudaErrorInvalidValue;
}

// Calls run(element type) for float types.
template <typename Run>
cudaError_t with_float_type(DType dtype, Run&& run) {
  return with_types(dtype, [&](auto in, auto out) -> cudaError_t {
    if constexpr (std::is_same_v<decltype(in), decltype(out)>) {
      return run(in);
    } else {
      return cudaErrorInvalidValue;  // grey levels
    }
  });
}

// Whether V neighbours of the innermost dimension can be read or written as one pack.
inline bool packable(const TensorView& view, int pack, std::size_t element_bytes) {
  const int last = view.rank - 1;
  if (view.sizes[last] % pack != 0 || view.strides[last] != 1) return false;
  if (reinterpret_cast<std::uintptr_t>(view.data) % (pack * element_bytes) != 0) return false;
  for (int i = 0; i < last; ++i) {
    if (view.sizes[i] > 1 && view.strides[i] % pack != 0) return false;
  }
  return true;
}

// The same of neighbouring channels of every pixel of maps (B,C,H,W), the first at a multiple of `pack`.
inline bool channels_packable(const TensorView& view, int pack, std::size_t element_bytes) {
  if (view.sizes[1] > 1 && view.strides[1] != 1) return false;
  if (reinterpret_cast<std::uintptr_t>(view.data) % (pack * element_bytes) != 0) return false;
  for (const int axis : {0, 2, 3}) {
    if (view.sizes[axis] > 1 && view.strides[axis] % pack != 0) return false;
  }
  return true;
}

inline std::int64_t element_count(const TensorView& view) {
  std::int64_t count = 1;
  for (int i = 0; i < view.rank; ++i) count *= view.sizes[i];
  return count;
}

inline bool contiguous(const TensorView& view) {
  if (element_count(view) == 0) return true;
  std::int64_t expected = 1;
  for (int i = view.rank - 1; i >= 0; --i) {
    if (view.sizes[i] > 1 && view.strides[i] != expected) return false;
    expected *= view.sizes[i];
  }
  return true;
}

}  // namespace fastbg
