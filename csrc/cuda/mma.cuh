// Tensor cores: D += A B by one warp (mma.sync, compute capability 8.0 on).
//
// Lane 4 g + t holds
//   d[0..1], d[2..3]   of D (16x8): rows g and g + 8, columns 2t and 2t + 1
//   a[0], a[1]         of A (16xK): rows g and g + 8; a[2], a[3] the same, second half of K
//   b[0], b[1]         of B (Kx8): column g, first and second half of K
// Of each half of K it holds element t of 4 in TF32 (K = 8), or elements 2t and 2t + 1 of 8 of a half
// type (K = 16), the first in the low bits. All lanes of a warp must execute it together.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

// csrc/emulation replaces the instructions; the rest is shared.
#ifndef FASTBG_TENSOR_CORES
namespace fastbg {

// Rounds to 10 bits of mantissa, ties away from zero; the low 13 bits are undefined, and tensor cores
// do not read them.
__device__ inline unsigned round_to_tf32(float value) {
  unsigned bits;
  asm volatile("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

#define FASTBG_MMA(NAME, INSTRUCTION)                                                              \
  __device__ inline void NAME(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {     \
    asm volatile("mma.sync.aligned." INSTRUCTION                                                   \
                 " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));              \
  }
FASTBG_MMA(mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
FASTBG_MMA(mma_fp16, "m16n8k16.row.col.f32.f16.f16.f32")
FASTBG_MMA(mma_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
#undef FASTBG_MMA

}  // namespace fastbg
#endif

namespace fastbg {

template <typename Half>
__device__ inline void mma_half(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  if constexpr (std::is_same_v<Half, __half>) {
    mma_fp16(d, a, b);
  } else {
    mma_bf16(d, a, b);
  }
}

// A value as the sum of two TF32 numbers, high + low: 21 bits of mantissa; float32 has 23.
struct Parts {
  unsigned high, low;
};

__device__ inline Parts parts_of(float value) {
  const unsigned high = round_to_tf32(value);
  return {high, round_to_tf32(value - __uint_as_float(high & 0xFFFFE000u))};
}

// The same, cut off instead of rounded: 20 bits at least, in two instructions instead of about eight. The low
// part of an infinity is NaN.
__device__ inline Parts cut_parts_of(float value) {
  const unsigned high = __float_as_uint(value) & 0xFFFFE000u;
  return {high, __float_as_uint(value - __uint_as_float(high))};
}

// The same of any value. The high part of an infinity is the largest number, its low part infinite: so no
// infinity meets the low part of a finite number, which may be 0. A NaN's low part is NaN.
__device__ inline Parts cut_parts_of_any(float value) {
  constexpr float kMost = 0x1.fffffep127f;
  const unsigned high = __float_as_uint(fminf(fmaxf(value, -kMost), kMost)) & 0xFFFFE000u;
  return {high, __float_as_uint(value - __uint_as_float(high))};
}

}  // namespace fastbg
