// Separable down-sampling of one tile of a composite, in shared memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "composite_pixels.cuh"
#include "launch.cuh"

namespace fastbg {

// Chosen on the host so that a tile fits in kSharedLimit for any scale.
struct TileShape {
  int scale;
  int log_side;    // LR pixels: the tile is (1 << log_side) squared
  int slab;        // HR rows held at a time
  int hr_pitch;    // floats per held HR row: 1 mod 4, so that lanes with stride 4 miss each other
  int mid_pitch;   // floats per row of horizontal results

  __host__ __device__ int side() const { return 1 << log_side; }
  __host__ __device__ int reach() const { return (side() + 3) * scale; }  // HR pixels per axis
  __host__ __device__ int most_taps() const { return 4 * scale; }
  __host__ std::size_t shared_bytes() const {
    const std::size_t floats = static_cast<std::size_t>(slab) * hr_pitch +
                               static_cast<std::size_t>(reach()) * mid_pitch +
                               2 * static_cast<std::size_t>(most_taps()) * side();
    return floats * sizeof(float);
  }
};

// The largest tile, up to 8x8, that fits; then as many HR rows at a time as fit.
inline bool tile_shape_for(std::int64_t scale, TileShape& shape) {
  for (int log_side = 3; log_side >= 0; --log_side) {
    shape = {static_cast<int>(scale), log_side, 1, 0, 0};
    shape.hr_pitch = shape.reach() + (5 - shape.reach() % 4) % 4;
    shape.mid_pitch = shape.side() + 2;
    const std::size_t least = shape.shared_bytes();
    if (least > kSharedLimit) continue;
    const std::size_t row = sizeof(float) * shape.hr_pitch;
    const int rows = 1 + static_cast<int>((kSharedLimit - least) / row);
    if (rows < 8 && log_side > 0) continue;  // a smaller tile keeps more warps busy
    shape.slab = std::min(rows, shape.reach());
    return true;
  }
  return false;
}

// The tile for a call's scale, the ratio of heights; false if it or the taps do not fit.
inline bool tile_shape_for(const CompositeLrParams& p, TileShape& shape) {
  const std::int64_t scale = p.composite.a.sizes[2] / p.composite.out.sizes[2];
  return p.row_index.sizes[1] <= 4 * scale && p.column_index.sizes[1] <= 4 * scale &&
         tile_shape_for(scale, shape);
}

// HR pixels that LR pixels first .. first+count-1 are computed from (fastbg.filters.bicubic.bicubic_taps;
// mirrored taps fall into the same range, taps without weight may be left out of the tables).
__device__ inline Range support(int first, int count, int scale, int size) {
  const int start = first * scale - 3 * scale / 2;
  return {max(0, start), min(size, start + (count + 3) * scale)};
}

// One channel of a composite. A source that is null stands for zeros.
template <typename In>
struct HrPlane {
  const In* a;
  const In* b;
  std::int64_t row_a, step_a, row_b, step_b;
  Box inner, outer;

  __device__ float at(const RowOfB& of_b, int y, int x) const {
    if (of_b.holds(x)) return b ? to_float(b[y * row_b + x * step_b]) : 0.0f;
    return a ? to_float(a[y * row_a + x * step_a]) : 0.0f;
  }
};

// `image` has boxes `inner` and `outer`, and at(RowOfB of row y, y, x) gives its pixels.
// Calls write(i, j, value) for the LR pixels of the tile at (top, left). All threads of the block
// take part. A next call may follow at once: the barriers of its slabs come before its first write
// to `mid`, the only memory that is still being read when this one returns.
template <typename Image, typename Write>
__device__ void downsample_tile(const Image& image, const CompositeLrParams& p,
                                const TileShape& shape, int top, int left, Write write) {
  FASTBG_DYNAMIC_SHARED(float, shared);
  const int side = shape.side();
  const int row_taps = static_cast<int>(p.row_index.sizes[1]);
  const int column_taps = static_cast<int>(p.column_index.sizes[1]);
  float* const hr = shared;                                  // [slab][hr_pitch]
  float* const mid = hr + shape.slab * shape.hr_pitch;       // [reach][mid_pitch]
  float* const weight = mid + shape.reach() * shape.mid_pitch;       // [column_taps][side]
  int* const column = reinterpret_cast<int*>(weight + column_taps * side);  // likewise

  const int lr_height = static_cast<int>(p.composite.out.sizes[2]);
  const int lr_width = static_cast<int>(p.composite.out.sizes[3]);
  const int rows_out = min(side, lr_height - top), columns_out = min(side, lr_width - left);
  const Range rows = support(top, rows_out, shape.scale, lr_height * shape.scale);
  const Range columns = support(left, columns_out, shape.scale, lr_width * shape.scale);
  const int thread = threadIdx.x, threads = blockDim.x;
  const int lane = thread % warpSize, warp = thread / warpSize, warps = threads / warpSize;

  // The column taps, tap by tap: neighbouring lanes make neighbouring columns.
  const int* column_index = static_cast<const int*>(p.column_index.data);
  const float* column_weight = static_cast<const float*>(p.column_weight.data);
  for (int k = thread; k < column_taps * side; k += threads) {
    const int j = k & (side - 1), t = k >> shape.log_side;
    const std::int64_t entry = static_cast<std::int64_t>(left + j) * column_taps + t;
    weight[k] = j < columns_out ? column_weight[entry] : 0.0f;
    column[k] = j < columns_out ? column_index[entry] - columns.lo : 0;
  }

  for (int slab_top = rows.lo; slab_top < rows.hi; slab_top += shape.slab) {
    const int slab_rows = min(shape.slab, rows.hi - slab_top);
    for (int r = warp; r < slab_rows; r += warps) {
      const RowOfB of_b(image.inner, image.outer, slab_top + r);
      for (int x = lane; x < columns.hi - columns.lo; x += warpSize) {
        hr[r * shape.hr_pitch + x] = image.at(of_b, slab_top + r, columns.lo + x);
      }
    }
    __syncthreads();
    for (int k = thread; k < slab_rows << shape.log_side; k += threads) {
      const int j = k & (side - 1), r = k >> shape.log_side;
      const float* row = hr + r * shape.hr_pitch;
      float sum = 0.0f;
#pragma unroll 4
      for (int t = 0; t < column_taps; ++t) {
        const int tap = (t << shape.log_side) + j;
        sum = fmaf(weight[tap], row[column[tap]], sum);
      }
      mid[(slab_top - rows.lo + r) * shape.mid_pitch + j] = sum;
    }
    __syncthreads();
  }

  const int* row_index = static_cast<const int*>(p.row_index.data);
  const float* row_weight = static_cast<const float*>(p.row_weight.data);
  for (int k = thread; k < side << shape.log_side; k += threads) {
    const int j = k & (side - 1), i = k >> shape.log_side;
    if (i >= rows_out || j >= columns_out) continue;
    const std::int64_t entry = static_cast<std::int64_t>(top + i) * row_taps;
    float sum = 0.0f;
#pragma unroll 4
    for (int t = 0; t < row_taps; ++t) {
      const int row = row_index[entry + t] - rows.lo;
      sum = fmaf(row_weight[entry + t], mid[row * shape.mid_pitch + j], sum);
    }
    write(top + i, left + j, sum);
  }
}

}  // namespace fastbg
