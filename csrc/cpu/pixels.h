// Element types: rows of any supported type to and from float32.
#pragma once

#include "simd.h"
#include "tensor_view.h"

namespace fastbg::FASTBG_VARIANT {

[[maybe_unused]] static inline std::int64_t element_size(DType dtype) {
  switch (dtype) {
    case DType::uint8: return 1;
    case DType::float16:
    case DType::bfloat16: return 2;
    case DType::float32:
    case DType::int32: break;
  }
  return 4;
}

[[maybe_unused]] static inline std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

[[maybe_unused]] static inline float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The conversions use selects instead of branches, so that loops over them are vectorised.

[[maybe_unused]] static inline float from_half(std::uint16_t half) {
  // Read as the float 2^-112 times too small, subnormals included; then infinity and NaN.
  std::uint32_t bits = bits_of(float_of((half & 0x7fffu) << 13) * 0x1p112f);
  bits |= (half & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  return float_of(bits | (half & 0x8000u) << 16);
}

[[maybe_unused]] static inline std::uint16_t to_half(float value) {
  const std::uint32_t sign = bits_of(value) & 0x80000000u;
  const std::uint32_t bits = bits_of(value) ^ sign;
  // Round to nearest even by hand where the half is normal; by an addition whose result has the
  // spacing of subnormal halves where it is not.
  const std::uint32_t normal = (bits - (112u << 23) + 0xfffu + (bits >> 13 & 1u)) >> 13;
  const std::uint32_t subnormal = bits_of(float_of(bits) + 0.5f) - bits_of(0.5f);
  std::uint32_t half = bits < (113u << 23) ? subnormal : normal;
  half = bits >= (143u << 23) ? 0x7c00u : half;  // 65536 and more; 65520 rounds there by itself
  half = bits > (255u << 23) ? 0x7e00u : half;
  return static_cast<std::uint16_t>(half | sign >> 16);
}

[[maybe_unused]] static inline float from_bfloat16(std::uint16_t value) {
  return float_of(static_cast<std::uint32_t>(value) << 16);
}

[[maybe_unused]] static inline std::uint16_t to_bfloat16(float value) {
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

[[maybe_unused]] static inline float from_grey_level(std::uint8_t level) {
  return static_cast<float>(level) / 255.0f;
}

template <float (*CONVERT)(std::uint16_t)>
static void read_16_bit(const std::uint16_t* from, std::int64_t stride, std::int64_t n, float* to) {
  if (stride == 1) {
    for (std::int64_t i = 0; i < n; ++i) to[i] = CONVERT(from[i]);
  } else {
    for (std::int64_t i = 0; i < n; ++i) to[i] = CONVERT(from[i * stride]);
  }
}

// n elements, `stride` elements apart, as float32.
[[maybe_unused]] static void read_floats(const char* from, DType dtype, std::int64_t stride,
                                         std::int64_t n, float* __restrict to) {
  switch (dtype) {
    case DType::float16:
      read_16_bit<from_half>(reinterpret_cast<const std::uint16_t*>(from), stride, n, to);
      break;
    case DType::bfloat16:
      read_16_bit<from_bfloat16>(reinterpret_cast<const std::uint16_t*>(from), stride, n, to);
      break;
    case DType::uint8: {
      const auto* levels = reinterpret_cast<const std::uint8_t*>(from);
      if (stride == 1) {
        for (std::int64_t i = 0; i < n; ++i) to[i] = from_grey_level(levels[i]);
      } else {
        for (std::int64_t i = 0; i < n; ++i) to[i] = from_grey_level(levels[i * stride]);
      }
      break;
    }
    case DType::float32:
    case DType::int32: {
      const auto* floats = reinterpret_cast<const float*>(from);
      if (stride == 1) {
        std::memcpy(to, floats, static_cast<std::size_t>(n) * sizeof(float));
      } else {
        for (std::int64_t i = 0; i < n; ++i) to[i] = floats[i * stride];
      }
    }
  }
}

// n floats as elements of `dtype`, one after the other.
[[maybe_unused]] static inline void write_floats(const float* from, std::int64_t n, DType dtype,
                                                 char* to) {
  auto* halves = reinterpret_cast<std::uint16_t*>(to);
  switch (dtype) {
    case DType::float16:
      for (std::int64_t i = 0; i < n; ++i) halves[i] = to_half(from[i]);
      break;
    case DType::bfloat16:
      for (std::int64_t i = 0; i < n; ++i) halves[i] = to_bfloat16(from[i]);
      break;
    default: std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
  }
}

// One channel of one source image.
struct Plane {
  const char* data;
  DType dtype;
  std::int64_t bytes;     // of an element
  std::int64_t stride_y;  // in elements
  std::int64_t stride_x;

  Plane(const TensorView& source, std::int64_t image, std::int64_t channel)
      : dtype(source.dtype),
        bytes(element_size(source.dtype)),
        stride_y(source.strides[2]),
        stride_x(source.strides[3]) {
    const std::int64_t offset = image * source.strides[0] + channel * source.strides[1];
    data = static_cast<const char*>(source.data) + offset * bytes;
  }

  const char* pixel(std::int64_t y, std::int64_t x) const {
    return data + (y * stride_y + x * stride_x) * bytes;
  }
};

}  // namespace fastbg::FASTBG_VARIANT
