// Bytes of the fuzzer -> tensors as PyTorch passes them: any strides, any offset, shared memory.
#pragma once

#include <fuzzer/FuzzedDataProvider.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <numeric>
#include <vector>

#include "tensor_view.h"

namespace fuzzing {

using fastbg::DType;
using Sizes = std::vector<std::int64_t>;

inline std::int64_t bytes_of(DType dtype) {
  if (dtype == DType::uint8) return 1;
  return dtype == DType::float16 || dtype == DType::bfloat16 ? 2 : 4;
}

inline std::int64_t product(const Sizes& sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{1}, std::multiplies<>());
}

// Owns exactly the memory that its elements span, so that AddressSanitizer sees a step beside it.
struct Tensor {
  DType dtype;
  Sizes sizes, strides;
  std::int64_t offset = 0;  // of the first element
  std::int64_t span = 0;    // elements from the start of the memory to behind the last
  std::unique_ptr<char[]> memory;

  Tensor(DType type, Sizes shape, Sizes steps, std::int64_t first = 0)
      : dtype(type), sizes(std::move(shape)), strides(std::move(steps)), offset(first), span(first) {
    if (product(sizes) != 0) {
      ++span;
      for (std::size_t i = 0; i < sizes.size(); ++i) span += (sizes[i] - 1) * strides[i];
    }
    memory.reset(new char[static_cast<std::size_t>(span * bytes_of(dtype))]);
  }

  char* data() const { return memory.get() + offset * bytes_of(dtype); }

  template <typename T>
  T* as() const { return reinterpret_cast<T*>(data()); }

  void fill(int byte) {
    std::memset(memory.get(), byte, static_cast<std::size_t>(span * bytes_of(dtype)));
  }

  // (address, dtype code, sizes, strides), as fastbg/backends/tensor_view.py writes it.
  pybind11::object view() const {
    std::vector<pybind11::object> shape(sizes.begin(), sizes.end());
    std::vector<pybind11::object> steps(strides.begin(), strides.end());
    return std::vector<pybind11::object>{reinterpret_cast<std::uintptr_t>(data()),
                                         static_cast<std::int64_t>(dtype), shape, steps};
  }
};

// Strides of a contiguous tensor whose axes lie in memory in this order, outermost first.
inline Sizes strides_in_order(const Sizes& sizes, const std::vector<std::size_t>& order) {
  Sizes strides(sizes.size());
  std::int64_t step = 1;
  for (auto axis = order.rbegin(); axis != order.rend(); ++axis) {
    strides[*axis] = step;
    step *= std::max<std::int64_t>(sizes[*axis], 1);
  }
  return strides;
}

inline Tensor contiguous(DType dtype, const Sizes& sizes) {
  std::vector<std::size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  return {dtype, sizes, strides_in_order(sizes, order)};
}

// (B,C,H,W) with channels next to each other.
inline Tensor channels_last(const Sizes& sizes) {
  return {DType::float32, sizes, strides_in_order(sizes, {0, 2, 3, 1})};
}

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : bytes_(data, size) {}

  bool coin() { return bytes_.ConsumeBool(); }
  std::int64_t number(std::int64_t low, std::int64_t high) {
    return bytes_.ConsumeIntegralInRange(low, high);
  }
  std::int64_t one_of(std::initializer_list<std::int64_t> choices) {
    return choices.begin()[number(0, static_cast<std::int64_t>(choices.size()) - 1)];
  }
  DType float_type() {
    return static_cast<DType>(one_of({0, 1, 2}));  // float32, float16, bfloat16
  }

  // Nothing, one, primes, both sides of what kernels cut images into; or any; at most `most`.
  std::int64_t edge(std::int64_t most) {
    const std::int64_t drawn =
        coin() ? one_of({0, 1, 2, 3, 4, 5, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 257})
               : number(0, 300);
    return std::min(drawn, most);
  }

  // Height and width, at most `most` pixels, multiples of `unit`.
  std::pair<std::int64_t, std::int64_t> image_size(std::int64_t most, std::int64_t unit = 1) {
    const std::int64_t height = edge(most / unit) * unit;
    const std::int64_t width = edge(most / std::max<std::int64_t>(height, 1) / unit) * unit;
    return {height, width};
  }

  // `sizes` with its axes in any order in memory, a gap, and an axis that shares its memory.
  Tensor strided(DType dtype, const Sizes& sizes) {
    std::vector<std::size_t> order(sizes.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    if (coin()) {
      for (std::size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[axis(i + 1)]);
    }
    Sizes strides = strides_in_order(sizes, order);
    if (coin()) {
      const std::size_t gap = axis(sizes.size());
      for (std::int64_t& stride : strides) stride *= stride >= strides[gap] ? number(1, 3) : 1;
    }
    if (coin()) strides[axis(sizes.size())] = number(0, 1);  // expanded, or overlapping
    return filled(Tensor(dtype, sizes, strides, number(0, 3)));
  }

  // Numbers of the size of grey levels, or any bits: NaN, infinities, subnormals.
  Tensor filled(Tensor tensor) {
    const bool any_bits = number(0, 3) == 0;
    std::uint32_t state = bytes_.ConsumeIntegral<std::uint16_t>() + 1u;
    for (std::int64_t i = 0; i < tensor.span; ++i) {
      state = state * 1664525u + 1013904223u;
      const std::uint32_t random = state >> 9;  // 23 bits, its better ones
      char* to = tensor.memory.get() + i * bytes_of(tensor.dtype);
      const std::uint32_t bits = any_bits ? random << 9 | random >> 14 : number_bits(random, tensor.dtype);
      std::memcpy(to, &bits, static_cast<std::size_t>(bytes_of(tensor.dtype)));
    }
    return tensor;
  }

  // Boxes (4) or (count,4), mostly in an image of this size, some far outside.
  Tensor boxes(std::int64_t count, std::int64_t height, std::int64_t width) {
    Tensor made = strided(DType::int32, coin() ? Sizes{4} : Sizes{count, 4});
    set(made, [&](std::int64_t i) -> std::int64_t {
      if (number(0, 15) == 0) return one_of({INT32_MIN, -1, INT32_MAX});
      return number(-1, (i % 2 == 0 ? height : width) + 1);
    });
    return made;
  }

  // Every place of an int32 tensor's memory; `next` is given its position.
  template <typename Next>
  void set(Tensor& tensor, Next next) {
    auto* to = reinterpret_cast<std::int32_t*>(tensor.memory.get());
    for (std::int64_t i = 0; i < tensor.span; ++i) to[i] = static_cast<std::int32_t>(next(i));
  }

 private:
  std::size_t axis(std::size_t count) {
    return static_cast<std::size_t>(number(0, static_cast<std::int64_t>(count) - 1));
  }

  // A number in [1, 2), of either sign.
  static std::uint32_t number_bits(std::uint32_t random, DType dtype) {
    const std::uint32_t sign = random & 1u;
    if (dtype == DType::float16) return 0x3c00u | (random >> 13 & 0x3ffu) | sign << 15;
    if (dtype == DType::bfloat16) return 0x3f80u | (random >> 16 & 0x7fu) | sign << 15;
    if (dtype == DType::float32) return 0x3f800000u | random | sign << 31;
    return random;
  }

  FuzzedDataProvider bytes_;
};

}  // namespace fuzzing
