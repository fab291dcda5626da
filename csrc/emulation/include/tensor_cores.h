// The instructions of cuda/mma.cuh: the lanes synchronise, and mma.cpp multiplies their operands.
#pragma once

#include <cstring>

#include "runtime.h"

#define FASTBG_TENSOR_CORES

namespace fastbg {

namespace emulation {

// The operands of one lane; cuda/mma.cuh documents their positions in the matrices.
struct MmaLane {
  float* d;
  const unsigned* a;
  const unsigned* b;
};

// Of MmaLane, by lane.
void multiply_tf32(void* const* lanes);
void multiply_fp16(void* const* lanes);
void multiply_bf16(void* const* lanes);

}  // namespace emulation

// To 10 bits after the point, ties away from zero. NaN as the instruction has it.
inline unsigned round_to_tf32(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const unsigned magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return 0x7FFFE000u;
  return ((magnitude == 0x7F800000u ? bits : bits + 0x1000u) & 0xFFFFE000u);
}

#define FASTBG_MMA(NAME, MULTIPLY)                                                              \
  inline void NAME(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2],               \
                   const char* file = __builtin_FILE(), int line = __builtin_LINE()) {          \
    emulation::MmaLane self = {d, a, b};                                                        \
    emulation::warp_together(&self, emulation::MULTIPLY, emulation::Site{#NAME, file, line});   \
  }
FASTBG_MMA(mma_tf32, multiply_tf32)
FASTBG_MMA(mma_fp16, multiply_fp16)
FASTBG_MMA(mma_bf16, multiply_bf16)
#undef FASTBG_MMA

}  // namespace fastbg
