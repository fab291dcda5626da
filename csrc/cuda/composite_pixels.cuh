// The source of each pixel of a composite, and its address.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "composite_params.h"
#include "element.cuh"

namespace fastbg {

struct Range {
  int lo, hi;
};

__device__ inline Range overlap(Range first, Range second) {
  return {max(first.lo, second.lo), min(first.hi, second.hi)};
}
__device__ inline bool is_empty(Range range) { return range.lo >= range.hi; }
__device__ inline bool contains(Range range, Range part) {
  return range.lo <= part.lo && part.hi <= range.hi;
}
__device__ inline bool contains(Range range, int at) { return range.lo <= at && at < range.hi; }

struct Box {
  Range y, x;
};

__device__ inline Box box_of(const TensorView& boxes, std::int64_t n) {
  const int last = boxes.rank - 1;
  const int* box = static_cast<const int*>(boxes.data) + (last ? n * boxes.strides[0] : 0);
  const std::int64_t step = boxes.strides[last];
  return {{box[0], box[2 * step]}, {box[step], box[3 * step]}};
}

// The part of one row that comes from b: inside `outer`, outside `inner`.
struct RowOfB {
  Range outer, inner;

  __device__ RowOfB(const Box& inner_box, const Box& outer_box, int y)
      : outer(contains(outer_box.y, y) ? outer_box.x : Range{0, 0}),
        inner(contains(inner_box.y, y) ? inner_box.x : Range{0, 0}) {}

  __device__ bool holds(int x) const { return contains(outer, x) && !contains(inner, x); }
  __device__ bool holds_all(Range part) const {
    return contains(outer, part) && is_empty(overlap(inner, part));
  }
  __device__ bool holds_none(Range part) const {
    const Range inside = overlap(outer, part);
    return is_empty(inside) || contains(inner, inside);
  }
};

enum class Origin { a, b, both };

// Which source the pixels of rows `y` and columns `x` come from.
__device__ inline Origin origin(const Box& inner, const Box& outer, Range y, Range x) {
  const Box inside = {overlap(outer.y, y), overlap(outer.x, x)};
  if (is_empty(inside.y) || is_empty(inside.x)) return Origin::a;
  if (contains(inner.y, inside.y) && contains(inner.x, inside.x)) return Origin::a;
  const bool none_of_a = contains(outer.y, y) && contains(outer.x, x) &&
                         (is_empty(overlap(inner.y, y)) || is_empty(overlap(inner.x, x)));
  return none_of_a ? Origin::b : Origin::both;
}

struct Pair {
  std::int64_t a, b;
  bool valid;  // both indices exist; otherwise the image is NaN
};

__device__ inline Pair pair_of(const CompositeParams& p, std::int64_t n) {
  const int* pair = static_cast<const int*>(p.pairs.data) + n * p.pairs.strides[0];
  const std::int64_t a = pair[0], b = pair[p.pairs.strides[1]];
  return {a, b, a >= 0 && a < p.a.sizes[0] && b >= 0 && b < p.b.sizes[0]};
}

template <typename T>
__device__ inline const T* plane_of(const TensorView& images, std::int64_t n, std::int64_t c) {
  return static_cast<const T*>(images.data) + n * images.strides[0] + c * images.strides[1];
}

template <typename T>
__device__ inline const T* pixel_of(const TensorView& images, std::int64_t n, std::int64_t c,
                                    std::int64_t y, std::int64_t x) {
  return plane_of<T>(images, n, c) + y * images.strides[2] + x * images.strides[3];
}

template <typename T, int V>
__device__ inline Pack<T, V> nan_pack() {
  Pack<T, V> pack;
  for (int v = 0; v < V; ++v) pack.at[v] = from_float<T>(NAN);
  return pack;
}

// Clipped to [0,1]; keeps NaN.
__device__ inline float clipped(float value) {
#ifdef __CUDACC__
  asm("max.NaN.f32 %0, %0, 0f00000000;\n\tmin.NaN.f32 %0, %0, 0f3F800000;" : "+f"(value));
  return value;
#else
  return value < 0.0f ? 0.0f : value > 1.0f ? 1.0f : value;
#endif
}

// Rounded to a grey level as the reference does; keeps NaN.
__device__ inline float quantized(float value) {
  value = clipped(value);
  return grey_level(floorf(__fadd_rn(__fmul_rn(value, 255.0f), 0.5f)));
}

template <typename Out>
__device__ inline Out finished(float value, bool quantize) {
  return from_float<Out>(quantize ? quantized(value) : value);
}

template <typename Out, int V>
__device__ inline Pack<Out, V> finished(Pack<float, V> values, bool quantize) {
  if (quantize) {
#pragma unroll
    for (int v = 0; v < V; ++v) values.at[v] = quantized(values.at[v]);
  }
  Pack<Out, V> pack;
#pragma unroll
  for (int v = 0; v < V; ++v) pack.at[v] = from_float<Out>(values.at[v]);
  return pack;
}

}  // namespace fastbg
