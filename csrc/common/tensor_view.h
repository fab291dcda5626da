// A tensor as plain data, passed from Python into cpu/ and cuda/. It owns nothing.
#pragma once

#include <cstdint>

namespace fastbg {

// Order of DTYPES in fastbg/backends/tensor_view.py.
enum class DType : std::int32_t { float32 = 0, float16, bfloat16, uint8, int32 };

constexpr int kMaxRank = 5;

struct TensorView {
  void* data;
  DType dtype;
  std::int32_t rank;
  std::int64_t sizes[kMaxRank];
  std::int64_t strides[kMaxRank];  // in elements
};

}  // namespace fastbg
