// Pixels of a composite whose seam is bridged (fastbg.composite, seam=tau).
#pragma once

#include <cstdint>

#include "composite_pixels.cuh"
#include "element.cuh"

namespace fastbg {

// One channel of one pair. Only pixels that are visible in the composite are read. Steps across a rim are
// computed on use, as the pixels of a rim stay in L1 or L2.
template <typename In>
struct BridgedPlane {
  const In* a;
  const In* b;
  std::int64_t row_a, step_a, row_b, step_b;
  Box inner, outer;    // inner: what of it lies in outer
  const float* decay;  // weights of the distances 1, 2, .. from a rim
  int height, width;

  __device__ BridgedPlane(const CompositeParams& p, const SeamParams& seam, const Pair& pair,
                          std::int64_t n, std::int64_t c)
      : a(plane_of<In>(p.a, pair.a, c)),
        b(plane_of<In>(p.b, pair.b, c)),
        row_a(p.a.strides[2]),
        step_a(p.a.strides[3]),
        row_b(p.b.strides[2]),
        step_b(p.b.strides[3]),
        inner(box_of(p.inner, n)),
        outer(box_of(p.outer, n)),
        decay(static_cast<const float*>(seam.decay.data)),
        height(static_cast<int>(p.a.sizes[2])),
        width(static_cast<int>(p.a.sizes[3])) {
    inner = {overlap(inner.y, outer.y), overlap(inner.x, outer.x)};
    if (is_empty(inner.y) || is_empty(inner.x)) inner = {{0, 0}, {0, 0}};
  }

  __device__ float of_a(int y, int x) const { return to_float(a[y * row_a + x * step_a]); }
  __device__ float of_b(int y, int x) const { return to_float(b[y * row_b + x * step_b]); }

  __device__ bool foreign(int y, int x) const { return RowOfB(inner, outer, y).holds(x); }

  __device__ float at(const RowOfB& row, int y, int x) const {
    return row.holds(x) ? corrected(y, x) : of_a(y, x);
  }

  // Steps beyond the reach of the bridge are not read, as they may be NaN.
  __device__ float corrected(int y, int x) const {
    const float pixel = of_b(y, x);
    float total = 0.0f;
    bool reached = false;
    if (!is_empty(inner.y)) {
      const int kept_y = min(max(y, inner.y.lo), inner.y.hi - 1);
      const int kept_x = min(max(x, inner.x.lo), inner.x.hi - 1);
      const float weight = decay[max(abs(y - kept_y), abs(x - kept_x)) - 1];
      if (weight > 0.0f) {
        const int beside_y = min(max(y, inner.y.lo - 1), inner.y.hi);
        const int beside_x = min(max(x, inner.x.lo - 1), inner.x.hi);
        total = __fmul_rn(weight, of_a(kept_y, kept_x) - of_b(beside_y, beside_x));
        reached = true;
      }
    }
    // The sides of the outer box, except those at the image's border, which have no rim.
    const int far = height + width;
    const int up = outer.y.lo > 0 ? y - outer.y.lo + 1 : far;
    const int down = outer.y.hi < height ? outer.y.hi - y : far;
    const int left = outer.x.lo > 0 ? x - outer.x.lo + 1 : far;
    const int right = outer.x.hi < width ? outer.x.hi - x : far;
    const int vertical = min(up, down), horizontal = min(left, right);
    const int inwards = min(vertical, horizontal);
    const float weight = inwards < far ? decay[inwards - 1] : 0.0f;
    if (weight > 0.0f) {
      const float of_rows = vertical == inwards
          ? nearest(up, down, outer.y.lo - 1, x, outer.y.lo, x, outer.y.hi, x, outer.y.hi - 1, x)
          : 0.0f;
      const float of_columns = horizontal == inwards
          ? nearest(left, right, y, outer.x.lo - 1, y, outer.x.lo, y, outer.x.hi, y, outer.x.hi - 1)
          : 0.0f;
      const float step = (of_rows + of_columns) * (vertical == horizontal ? 0.5f : 1.0f);
      total = __fadd_rn(total, __fmul_rn(weight, step));
      reached = true;
    }
    if (!reached) return pixel;
    const float value = pixel + total;
    return value < 0.0f ? 0.0f : value > 1.0f ? 1.0f : value;  // keeps NaN
  }

  // The step of the nearer of two opposite sides, or the mean of both at equal distance.
  __device__ float nearest(int to_first, int to_second, int first_y, int first_x, int in_first_y,
                           int in_first_x, int second_y, int second_x, int in_second_y,
                           int in_second_x) const {
    float sum = 0.0f;
    if (to_first <= to_second) sum += rim_step(first_y, first_x, in_first_y, in_first_x);
    if (to_second <= to_first) sum += rim_step(second_y, second_x, in_second_y, in_second_x);
    return to_first == to_second ? sum * 0.5f : sum;
  }

  // The step is 0 where the pixel inside the side belongs to the inner box.
  __device__ float rim_step(int y, int x, int inside_y, int inside_x) const {
    return foreign(inside_y, inside_x) ? of_a(y, x) - of_b(inside_y, inside_x) : 0.0f;
  }
};

}  // namespace fastbg
