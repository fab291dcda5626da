// composite_lr with a box for each pair (composite.cu has the variants considered).
//
// A warp computes one plane of a pair. LR pixels whose supports lie in one source are copies of `small`.
// The others lie around the rims, in tiles of kTileRows x kTileColumns. A tile's columns of HR pixels
// that lie in one source are copies of `rows`; the others, which a rim cuts, are summed from HR pixels,
// for all rows of the tile at once. Then the tile's columns are summed.
#pragma once

#include "composite.h"
#include "composite_pixels.cuh"
#include "downsample.cuh"
#include "element.cuh"
#include "launch.cuh"

namespace fastbg {
namespace {

constexpr int kTileRows = 4, kTileColumns = 16;
// Warps of a block, at most: they work on neighbouring planes, whose b L1 holds. As many as registers do for,
// without spills; launchers ask what it is on their device.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
template <int V>
constexpr int kBoxWarps = 16;
#else
template <int V>
constexpr int kBoxWarps = V == 8 ? 24 : 32;
#endif
constexpr int kMostBoxPlanes = 8;  // of a warp, one after the other
constexpr std::size_t kBoxShared = 96 * 1024;  // each GPU since sm_80 allows it to kernels that ask

// The LR pixels whose supports may hold both sources.
struct Rim {
  Range rows, columns;

  __device__ Rim(const Box& inner, const Box& outer, int scale, int height, int width)
      : rows{0, 0}, columns{0, 0} {
    const Range all_y = {0, height}, all_x = {0, width};
    const bool within = contains(outer.y, all_y) && contains(outer.x, all_x);
    const auto of_box = [within](Range first, Range second) -> Range {  // by value, in registers
      return {within ? first.lo : second.lo, within ? first.hi : second.hi};
    };
    const Range cut_y = overlap(of_box(inner.y, outer.y), all_y);
    const Range cut_x = overlap(of_box(inner.x, outer.x), all_x);
    if (is_empty(cut_y) || is_empty(cut_x)) return;
    rows = overlap({0, height / scale}, meeting(cut_y, scale));
    columns = overlap({0, width / scale}, meeting(cut_x, scale));
  }

  // LR pixels whose supports meet `cut`.
  static __device__ Range meeting(Range cut, int scale) {
    const int before = 3 * scale / 2;  // as in support()
    return {(cut.lo + before) / scale - 3, ceil_div(cut.hi + before, scale)};
  }
};

// The LR pixels, along an axis, of the tile that `at` belongs to; outside the rim, `own` of them.
__device__ inline Range tile_around(Range rim, int at, int own, int size) {
  const int start = at - static_cast<int>(static_cast<unsigned>(at - rim.lo) % size);
  return contains(rim, at) ? Range{start, min(start + size, rim.hi)} : Range{at, at + own};
}

// A tile's rows are always as many: at the end of the image it reaches back, elsewhere beyond the rim.
template <int Scale>
__device__ inline int tile_rows(int lr_height) {
  return Scale ? kTileRows : min(kTileRows, lr_height);
}

// How a part of an axis lies to the boxes, as bits. Two of them, of rows and columns, make an Origin.
enum Side : unsigned { kOutside = 1, kKept = 2, kInside = 4, kRing = 8 };

__device__ inline unsigned side_of(Range inner, Range outer, Range part) {
  const Range inside = overlap(outer, part);
  return (is_empty(inside) ? kOutside : 0u) | (contains(inner, inside) ? kKept : 0u) |
         (contains(outer, part) ? kInside : 0u) | (is_empty(overlap(inner, part)) ? kRing : 0u);
}

constexpr unsigned kRingColumn = kInside | kRing;  // a column that only `outer` holds
constexpr unsigned kHoleColumn = kInside | kKept;  // one that `inner` holds, too

__device__ inline Origin origin(unsigned rows, unsigned columns) {
  const unsigned both = (rows & columns) | ((rows | columns) & (kOutside | kRing));
  return both & (kOutside | kKept)                           ? Origin::a
         : (both & (kInside | kRing)) == (kInside | kRing) ? Origin::b
                                                             : Origin::both;
}

// A plane of a pair, as a warp keeps it in shared memory; registers would not hold it.
template <typename In, typename Out>
struct alignas(16) BoxPlane {
  Box inner, outer;
  Rim rim;  // its columns in whole packs
  const In *a, *b;
  const float *rows_a, *rows_b;
  const Out *small_a, *small_b;
  Out* out;
  bool valid, last;
};

// How shared memory is shared out. A warp has planes, a tile's rows with their rows summed, and where the
// tile's HR lines are.
struct BoxShape {
  int scale;
  int lines;
  int log_columns;  // lanes of a warp side by side, when it copies
  int planes;       // of a warp
  int warps;        // of a block

  __host__ __device__ int pitch() const { return (kTileColumns + 3) * scale; }
  __host__ __device__ int warp_bytes() const {
    const int bytes = planes * static_cast<int>(sizeof(BoxPlane<float, float>)) +
                      kTileRows * pitch() * static_cast<int>(sizeof(float)) +
                      lines * static_cast<int>(sizeof(void*));
    return (bytes + 15) / 16 * 16;
  }
};

// For LR rows of `packs` packs; false if a warp does not fit.
inline bool box_shape_for(int scale, bool fixed, std::int64_t packs, std::int64_t planes, int most_warps,
                          BoxShape& shape) {
  constexpr std::int64_t kFill = 300;  // blocks: two for each multiprocessor
  const std::int64_t of_warp = ceil_div(planes, kFill * most_warps);
  shape = {scale, fixed ? (kTileRows + 3) * scale : kTileRows * 4 * scale, 0,
           static_cast<int>(std::clamp<std::int64_t>(of_warp, 1, kMostBoxPlanes)), 0};
  shape.warps = std::min(static_cast<int>(kBoxShared) / shape.warp_bytes(), most_warps);
  while (shape.log_columns < 5 && (1 << shape.log_columns) < packs) ++shape.log_columns;
  return shape.warps > 0;
}

// Where the lines are that a tile's rows are summed from: at Scale 4 those that neighbouring rows share once,
// else [kTileRows][taps]. `hole`: of columns that both boxes hold.
template <int Scale, typename In, typename Out>
__device__ inline void find_lines(const CompositeLrParams& p, const BoxPlane<In, Out>& plane, bool hole,
                                  int top, int rows, int lane, const In** lines) {
  const int taps = Scale ? 4 * Scale : static_cast<int>(p.row_index.sizes[1]);
  const int count = Scale ? (kTileRows + 3) * Scale : rows * taps;
  const Range inner = plane.inner.y, outer = plane.outer.y;
#pragma unroll 1
  for (int k = lane; k < count; k += warpSize) {
    // At Scale 4, line k is tap k of the first row and, as rows move on by 4 lines, tap k - 4 of the second.
    const int r = Scale ? max(k - 3 * Scale, 0) / max(Scale, 1) : k / taps;
    const int t = k - r * (Scale ? Scale : taps);
    const std::int64_t entry = static_cast<std::int64_t>(top + r) * taps + t;
    const int y = static_cast<const int*>(p.row_index.data)[entry];
    const bool of_b = contains(outer, y) && !(hole && contains(inner, y));
    lines[k] = (of_b ? plane.b : plane.a) + y * (of_b ? p.composite.b : p.composite.a).strides[2];
  }
}

// The sums of column `x` over these lines, for each row of the tile.
template <int Scale, typename In, typename Out>
__device__ inline void sum_lines(const CompositeLrParams& p, const BoxPlane<In, Out>& plane, bool hole,
                                 int top, int rows, const In* const* lines, int x,
                                 float (&sums)[kTileRows]) {
  const int taps = Scale ? 4 * Scale : static_cast<int>(p.row_index.sizes[1]);
  const std::int64_t entry = static_cast<std::int64_t>(top) * taps;
  const float* const weights = static_cast<const float*>(p.row_weight.data) + entry;
  if constexpr (Scale == 4) {
#pragma unroll
    for (int block = 0; block < kTileRows + 3; ++block) {
      float pixels[Scale];
#pragma unroll
      for (int k = 0; k < Scale; ++k) pixels[k] = to_float(__ldg(lines[block * Scale + k] + x));
#pragma unroll
      for (int r = 0; r < kTileRows; ++r) {
        if (r > block || r + 3 < block) continue;
        const auto weight = load<float, Scale>(weights + r * taps + (block - r) * Scale);
#pragma unroll
        for (int k = 0; k < Scale; ++k) sums[r] = fmaf(weight.at[k], pixels[k], sums[r]);
      }
    }
  } else {
    const int* const index = static_cast<const int*>(p.row_index.data) + entry;
    const Range inner = plane.inner.y, outer = plane.outer.y;
#pragma unroll 1
    for (int r = 0; r < rows; ++r) {
      float sum = 0.0f;
#pragma unroll 1
      for (int t = r * taps; t < (r + 1) * taps; ++t) {
        const bool of_b = contains(outer, index[t]) && !(hole && contains(inner, index[t]));
        const std::int64_t along = x * (of_b ? p.composite.b : p.composite.a).strides[3];
        sum = fmaf(weights[t], to_float(__ldg(lines[t] + along)), sum);
      }
#pragma unroll
      for (int k = 0; k < kTileRows; ++k) sums[k] = k == r ? sum : sums[k];
    }
  }
}

// The LR pixels whose supports, or those of their tile, lie in one source.
template <int V, int Scale, typename In, typename Out>
__device__ inline void copy_whole(const CompositeParams& q, int scale, const BoxPlane<In, Out>& plane,
                                  int log_columns, int lane) {
  const int lr_height = static_cast<int>(q.out.sizes[2]), lr_width = static_cast<int>(q.out.sizes[3]);
#pragma unroll 1
  for (int left = 0; left < lr_width; left += V << log_columns) {
    const int j = left + (lane & ((1 << log_columns) - 1)) * V;
    const Range columns = tile_around(plane.rim.columns, j, V, kTileColumns);
    const Range x = support(columns.lo, columns.hi - columns.lo, scale, lr_width * scale);
    const unsigned x_side = side_of(plane.inner.x, plane.outer.x, x);
#pragma unroll 1
    for (int top = 0; top < lr_height; top += warpSize) {
      const int rows = tile_rows<Scale>(lr_height);
      const Range tile = tile_around(plane.rim.rows, top + lane, 1, kTileRows);
      const bool in_tile = contains(plane.rim.rows, top + lane);
      const Range y = support(in_tile ? min(tile.lo, lr_height - rows) : top + lane, in_tile ? rows : 1, scale,
                              lr_height * scale);
      const unsigned y_side = side_of(plane.inner.y, plane.outer.y, y);
      const int count = j < lr_width ? lr_height - top : 0;
      const std::int64_t corner = static_cast<std::int64_t>(top) * lr_width + j;
      const Out *from_a = plane.small_a + corner, *from_b = plane.small_b + corner;
      Out* to = plane.out + corner;
      forget(from_a), forget(from_b), forget(to);
#pragma unroll 1
      for (int k = lane >> log_columns; k < warpSize; k += warpSize >> log_columns) {
        const Origin whole = origin(__shfl_sync(~0u, y_side, k), x_side);
        if (whole == Origin::both || k >= count) continue;
        const unsigned at = static_cast<unsigned>(k) * lr_width;
        store(to + at, load<Out, V>((whole == Origin::a ? from_a : from_b) + at));
      }
    }
  }
}

// The pixels of a tile from its summed rows, `mid`.
template <int Scale, typename Out>
__device__ inline void sum_columns(const CompositeLrParams& p, const TensorView& column_band, int top,
                                   int rows, int left, int right, const float* mid, int pitch, int lane,
                                   Out* out) {
  const int j = left + lane % kTileColumns;
  if (j >= right) return;
  const int lr_width = static_cast<int>(p.composite.out.sizes[3]), scale = pitch / (kTileColumns + 3);
  const int taps = Scale ? 4 * Scale : static_cast<int>(p.column_index.sizes[1]);
  const std::int64_t entry = static_cast<std::int64_t>(j) * taps;
  Out* to = out + static_cast<std::int64_t>(top) * lr_width + j;
  forget(to);
  if constexpr (Scale == 4) {
    const float* const band = static_cast<const float*>(column_band.data) + entry;
    Pack<float, 4> weight[Scale];
#pragma unroll
    for (int t = 0; t < Scale; ++t) weight[t] = load<float, 4>(band + 4 * t);
#pragma unroll 1
    for (int r = lane / kTileColumns; r < rows; r += warpSize / kTileColumns) {
      const float* const from = mid + r * pitch + (j - left) * Scale;
      float sum = 0.0f;
#pragma unroll
      for (int t = 0; t < Scale; ++t) {
        const float4 values = *reinterpret_cast<const float4*>(from + 4 * t);
        sum = fmaf(weight[t].at[0], values.x, sum), sum = fmaf(weight[t].at[1], values.y, sum);
        sum = fmaf(weight[t].at[2], values.z, sum), sum = fmaf(weight[t].at[3], values.w, sum);
      }
      to[static_cast<unsigned>(r) * lr_width] = finished<Out>(sum, p.quantize);
    }
  } else {
    const int* const index = static_cast<const int*>(p.column_index.data) + entry;
    const float* const weights = static_cast<const float*>(p.column_weight.data) + entry;
    const int start = left * scale - 3 * scale / 2;  // column of mid[0]
#pragma unroll 1
    for (int r = lane / kTileColumns; r < rows; r += warpSize / kTileColumns) {
      float sum = 0.0f;
#pragma unroll 1
      for (int t = 0; t < taps; ++t) sum = fmaf(weights[t], mid[r * pitch + index[t] - start], sum);
      to[static_cast<unsigned>(r) * lr_width] = finished<Out>(sum, p.quantize);
    }
  }
}

// Number `item` of all planes: those of one channel of one image of b follow one another.
template <int V, typename In, typename Out>
__device__ inline BoxPlane<In, Out> plane_of_item(const CompositeParams& q, const CompositeLrScratch& scratch,
                                                  int item, int apart, int scale) {
  const int channels = static_cast<int>(q.out.sizes[1]);
  const int length = static_cast<int>(q.out.sizes[0]) / apart;
  const int series = item / length, group = series / channels, c = series - group * channels;
  const std::int64_t n = static_cast<std::int64_t>(item - series * length) * apart + group;
  const Pair pair = pair_of(q, n);
  const Box inner = box_of(q.inner, n), outer = box_of(q.outer, n);
  const int lr_height = static_cast<int>(q.out.sizes[2]), lr_width = static_cast<int>(q.out.sizes[3]);
  Rim rim(inner, outer, scale, lr_height * scale, lr_width * scale);
  rim.columns = {rim.columns.lo / V * V, ceil_div(rim.columns.hi, V) * V};
  if (!pair.valid) rim.rows = {0, 0};
  const std::int64_t size = static_cast<std::int64_t>(lr_height) * lr_width;
  const std::int64_t of_a = pair.a * channels + c, of_b = (q.a.sizes[0] + pair.b) * channels + c;
  const float* const rows = static_cast<const float*>(scratch.rows.data);
  const Out* const small = static_cast<const Out*>(scratch.small.data);
  return {inner, outer, rim, plane_of<In>(q.a, pair.a, c), plane_of<In>(q.b, pair.b, c),
          rows + of_a * size * scale, rows + of_b * size * scale, small + of_a * size, small + of_b * size,
          static_cast<Out*>(q.out.data) + (n * channels + c) * size, pair.valid, false};
}

// The number of the running lane. What is computed from it is not kept in registers around a loop.
__device__ inline int lane_here() {
  int lane = threadIdx.x % warpSize;
#ifdef __CUDACC__
  asm volatile("" : "+r"(lane));
#endif
  return lane;
}

// V: elements of a pack of `out`. Scale: that of the call, if the columns of both sources lie side by side
// and all taps have weight; or 0, for any.
template <typename In, typename Out, int V, int Scale>
__global__ void __launch_bounds__(32 * kBoxWarps<V>, 1)
    composite_lr_boxes_kernel(const CompositeLrParams p, const CompositeLrScratch scratch,
                              const TensorView column_band, const BoxShape shape, const int apart) {
  FASTBG_DYNAMIC_SHARED(unsigned char, shared);
  const CompositeParams& q = p.composite;
  const int scale = Scale ? Scale : shape.scale, pitch = (kTileColumns + 3) * scale;
  const int lane = threadIdx.x % warpSize, warp = threadIdx.x / warpSize, warps = blockDim.x / warpSize;
  auto* const planes = reinterpret_cast<BoxPlane<In, Out>*>(shared + warp * shape.warp_bytes());
  auto* const mid = reinterpret_cast<float*>(planes + shape.planes);  // [kTileRows][pitch]
  auto* const lines = reinterpret_cast<const In**>(mid + kTileRows * pitch);

  const int lr_height = static_cast<int>(q.out.sizes[2]), lr_width = static_cast<int>(q.out.sizes[3]);
  const int height = lr_height * scale, width = lr_width * scale, before = 3 * scale / 2;
  const int work = static_cast<int>(q.out.sizes[0] * q.out.sizes[1]);
  const int first = blockIdx.x * shape.planes * warps + warp;
  const int count = min(shape.planes, ceil_div(work - first, warps));
  if (count <= 0) return;
  if (lane < count) planes[lane] = plane_of_item<V, In, Out>(q, scratch, first + lane * warps, apart, scale);
  if (lane < count) planes[lane].last = lane == count - 1;
  __syncwarp();
#pragma unroll 1
  for (const BoxPlane<In, Out>* plane = planes;; ++plane) {
    const int lane = lane_here();
    if (plane->valid) {
      copy_whole<V, Scale>(q, scale, *plane, shape.log_columns, lane);
    } else {
      const std::int64_t size = static_cast<std::int64_t>(lr_height) * lr_width;
#pragma unroll 1
      for (std::int64_t at = lane; at < size; at += warpSize) plane->out[at] = from_float<Out>(NAN);
    }

    int row = plane->rim.rows.lo, left = plane->rim.columns.lo;
    const auto next_tile = [&] {
      left += kTileColumns;
      if (left >= plane->rim.columns.hi) left = plane->rim.columns.lo, row += kTileRows;
    };
#pragma unroll 1
    for (; row < plane->rim.rows.hi; next_tile()) {
      const int lane = lane_here();
      const int rows = tile_rows<Scale>(lr_height), top = min(row, lr_height - rows);
      const unsigned y_side =
          side_of(plane->inner.y, plane->outer.y, support(top, rows, scale, height));
      const Origin ring = origin(y_side, kRingColumn), hole_origin = origin(y_side, kHoleColumn);
      const Range inner = plane->inner.x, outer = plane->outer.x;
      const int right = min(left + kTileColumns, plane->rim.columns.hi);
      const Range x = support(left, right - left, scale, width);
      if (origin(y_side, side_of(inner, outer, x)) != Origin::both) continue;
      const int start = left * scale - before;  // column of mid[0]
      float* const column = mid - start;  // by an index instead, registers would spill on sm_100
      const float* line_a = plane->rows_a + static_cast<std::int64_t>(top) * width;
      const float* line_b = plane->rows_b + static_cast<std::int64_t>(top) * width;
      forget(line_a), forget(line_b);
#pragma unroll 1
      for (int at = x.lo + lane; at < x.hi; at += warpSize) {
        const Origin whole = !contains(outer, at)   ? Origin::a
                             : contains(inner, at) ? hole_origin
                                                   : ring;
        if (whole == Origin::both) continue;
        const float* from = (whole == Origin::a ? line_a : line_b) + at;
#pragma unroll
        for (int r = 0; r < kTileRows; ++r, from += width) {
          if (r < rows) column[r * pitch + at] = __ldg(from);
        }
      }
      if (Scale && lane % 8 < before) {  // columns outside the image
        float* const outside = mid + lane / 8 * pitch + lane % 8;
        if (start < 0) outside[0] = 0.0f;
        if (right == lr_width) outside[(right - left + 3) * scale - before] = 0.0f;
      }
      unsigned cut = (hole_origin == Origin::both ? 1u : 0u) | (ring == Origin::both ? 2u : 0u);
#pragma unroll 1
      for (; cut; cut &= cut - 1) {
        const bool hole = cut & 1u;
        find_lines<Scale>(p, *plane, hole, top, rows, lane, lines);
        __syncwarp();
        // The box is read again, as registers are few.
        const Range of_both = overlap(plane->inner.x, plane->outer.x);
        const Range part = overlap(x, hole ? of_both : plane->outer.x);
#pragma unroll 1
        for (int at = part.lo + lane; at < part.hi; at += warpSize) {
          if (!hole && contains(plane->inner.x, at)) continue;
          float sums[kTileRows] = {};
          sum_lines<Scale>(p, *plane, hole, top, rows, lines, at, sums);
#pragma unroll
          for (int r = 0; r < kTileRows; ++r) column[r * pitch + at] = sums[r];
        }
        __syncwarp();
      }
      __syncwarp();
      sum_columns<Scale>(p, column_band, top, rows, left, right, mid, pitch, lane, plane->out);
      __syncwarp();
    }
    if (plane->last) break;
  }
}

}  // namespace
}  // namespace fastbg
