// What products that keep their sums in registers need.
#pragma once

#include "simd.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// `value` in every lane: folds into a broadcasting load (0 + value would be an addition).
[[maybe_unused]] inline Vec splat(float value) { return value - Vec{}; }

// Keeps a loaded vector in its register: as an operand in memory of every product that takes it, it
// would be loaded each time, and loads would be the bottleneck.
[[maybe_unused]] inline void keep(Vec& value) {
#if defined(__x86_64__)
  asm("" : "+v"(value));
#else
  (void)value;
#endif
}

}  // namespace
}  // namespace fastbg::FASTBG_VARIANT
