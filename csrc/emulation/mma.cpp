// Products of a warp's fragments, as tensor cores compute them.
//
// NVIDIA does not say how they round. Measured (Fasi, Higham, Mikaitis, Pranesh, "Numerical
// behavior of NVIDIA tensor cores", PeerJ CS 2021): products are exact, their sum with D loses some
// bits, and what is kept is cut off, not rounded. Here the sum is made in float64 and cut off to
// float32, so that long sums drift towards zero as they do there.
#include <cmath>
#include <cstring>

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "tensor_cores.h"

namespace fastbg::emulation {
namespace {

// Where element `k` of K stands: in which lane (its t), register and part of the register.
struct Tf32 {
  static constexpr int kDepth = 8;
  static int lane(int k) { return k % 4; }
  static int half(int k) { return k / 4; }
  static float value(unsigned bits, int) { return __uint_as_float(bits & 0xFFFFE000u); }
};

template <typename T>
struct Packed {
  static constexpr int kDepth = 16;
  static int lane(int k) { return k % 8 / 2; }
  static int half(int k) { return k / 8; }
  static float value(unsigned bits, int k) {
    return converted(T{static_cast<std::uint16_t>(k % 2 ? bits >> 16 : bits & 0xFFFFu)});
  }
  static float converted(__half value) { return __half2float(value); }
  static float converted(__nv_bfloat16 value) { return __bfloat162float(value); }
};

float cut_off(double value) {
  const float nearest = static_cast<float>(value);
  if (std::isinf(nearest) && std::isfinite(value)) return std::copysign(0x1.fffffep127f, nearest);
  return std::fabs(nearest) > std::fabs(value) ? std::nextafter(nearest, 0.0f) : nearest;
}

template <typename Type>
void multiply(void* const* lanes) {
  const auto held = [&](int lane) { return static_cast<MmaLane*>(lanes[lane]); };
  double a[16][Type::kDepth], b[8][Type::kDepth];
  for (int k = 0; k < Type::kDepth; ++k) {
    for (int g = 0; g < 8; ++g) {
      const MmaLane* from = held(4 * g + Type::lane(k));
      b[g][k] = Type::value(from->b[Type::half(k)], k);
      a[g][k] = Type::value(from->a[2 * Type::half(k)], k);
      a[g + 8][k] = Type::value(from->a[2 * Type::half(k) + 1], k);
    }
  }
  for (int lane = 0; lane < warpSize; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const double* row = a[lane / 4 + i / 2 * 8];
      const double* column = b[lane % 4 * 2 + i % 2];
      float& d = held(lane)->d[i];
      double sum = d;
      for (int k = 0; k < Type::kDepth; ++k) sum += row[k] * column[k];
      d = cut_off(sum);
    }
  }
}

}  // namespace

void multiply_tf32(void* const* lanes) { multiply<Tf32>(lanes); }
void multiply_fp16(void* const* lanes) { multiply<Packed<__half>>(lanes); }
void multiply_bf16(void* const* lanes) { multiply<Packed<__nv_bfloat16>>(lanes); }

}  // namespace fastbg::emulation
