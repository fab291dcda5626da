// Kernels of composite_lr that work per source first (composite.cu has the variants considered).
//
// Down-sampling is separable: rows first, then columns. `rows` holds each source's rows (H/s of them, as
// wide as the image), `small` its LR image. An LR pixel whose support lies in one source is a copy of
// `small`. In the others, a column of taps within one source is a copy of `rows`, and only columns that
// a rim cuts are summed for the pair.
#pragma once

#include <limits>

#include "composite.h"
#include "composite_pixels.cuh"
#include "downsample.cuh"
#include "element.cuh"
#include "launch.cuh"

namespace fastbg {
namespace {

constexpr int kTogether = 3;  // channels whose loads are in flight at once
constexpr int kLrThreads = 256, kLrBlocks = 4;
constexpr int kRowPack = 4;   // columns that a thread of composite_lr_rows_kernel sums
constexpr int kLines = 4;     // that a thread of composite_lr_columns_kernel sums
constexpr int kSumPairs = 8;  // pairs of a thread: they often share a source
constexpr int kBoxThreads = 128, kBoxBlocks = 4;
constexpr int kStripSide = 16;  // LR columns of a strip

// Which of V columns a composite takes from a source, as bits, for each kind of row.
template <int V>
struct Taken {
  Range outer, inner;            // rows of the boxes
  unsigned outside, ring, hole;  // rows outside `outer`; inside it; and inside `inner` too

  __device__ Taken(const CompositeParams& q, bool from_a, int x) {
    const Box outer_box = box_of(q.outer, 0), inner_box = box_of(q.inner, 0);
    outer = outer_box.y, inner = inner_box.y;
    const unsigned in_outer = bits_from(outer_box.x, x), in_inner = bits_from(inner_box.x, x);
    const unsigned flip = from_a ? (1u << V) - 1 : 0;
    outside = flip, ring = in_outer ^ flip, hole = (in_outer & ~in_inner) ^ flip;
  }

  // Bit v: whether the range holds x + v.
  static __device__ unsigned bits_from(Range range, int x) {
    const int lo = min(max(range.lo, x), x + V) - x, hi = min(max(range.hi, x), x + V) - x;
    return ((1u << hi) - 1) & ~((1u << lo) - 1);
  }

  __device__ unsigned in_row(int y) const {
    return !contains(outer, y) ? outside : contains(inner, y) ? hole : ring;
  }
};

// rows[k] = source k with its rows down-sampled; if `Parts`, only pixels that composites take. The images
// of a come first. A thread has V columns of up to kTogether channels, which share the taps.
template <typename In, int V, bool Parts>
__global__ void __launch_bounds__(kLrThreads, kLrBlocks)
    composite_lr_rows_kernel(const CompositeLrParams p, const TensorView rows) {
  const CompositeParams& q = p.composite;
  const int lr_height = static_cast<int>(rows.sizes[2]), width = static_cast<int>(rows.sizes[3]);
  const int taps = static_cast<int>(p.row_index.sizes[1]);
  const std::int64_t plane = static_cast<std::int64_t>(lr_height) * width, channels = rows.sizes[1];
  const std::int64_t groups = ceil_div<std::int64_t>(channels, kTogether);
  const std::int64_t work = rows.sizes[0] * groups;
  const int* const first_index = static_cast<const int*>(p.row_index.data);
  const float* const first_weight = static_cast<const float*>(p.row_weight.data);

  for (std::int64_t item = blockIdx.y; item < work; item += gridDim.y) {
    const std::int64_t source = item / groups, channel = (item - source * groups) * kTogether;
    const int left = static_cast<int>(min(channels - channel, std::int64_t{kTogether}));
    const bool from_a = source < q.a.sizes[0];
    const In* const image = from_a ? plane_of<In>(q.a, source, channel)
                                   : plane_of<In>(q.b, source - q.a.sizes[0], channel);
    const std::int64_t down = from_a ? q.a.strides[2] : q.b.strides[2];
    const std::int64_t along = from_a ? q.a.strides[3] : q.b.strides[3];
    const std::int64_t next = from_a ? q.a.strides[1] : q.b.strides[1];
    float* const out = static_cast<float*>(rows.data) + (source * channels + channel) * plane;
    for (int x = threadIdx.x * V; x < width; x += blockDim.x * V) {
      const Taken<V> taken(q, from_a, x);
      const In* column = image + (V > 1 ? x : x * along);  // packs have a step of 1
      forget(column);
      for (int i = blockIdx.x * blockDim.y + threadIdx.y; i < lr_height;
           i += gridDim.x * blockDim.y) {
        const int* const index = first_index + static_cast<std::int64_t>(i) * taps;
        const float* const weights = first_weight + static_cast<std::int64_t>(i) * taps;
        Pack<float, V> sum[kTogether] = {};
#pragma unroll 2
        for (int t = 0; t < taps; ++t) {
          const int y = index[t];
          const float weight = weights[t];
          const unsigned bits = Parts ? taken.in_row(y) : ~0u;
          if (!bits) continue;
          const In* from = column + y * down;
#pragma unroll
          for (int c = 0; c < kTogether; ++c, from += next) {
            if (c >= left) break;
            const Pack<In, V> pixels = load<In, V>(from);
#pragma unroll
            for (int v = 0; v < V; ++v) {
              if (bits >> v & 1u) sum[c].at[v] = fmaf(weight, to_float(pixels.at[v]), sum[c].at[v]);
            }
          }
        }
        float* to = out + static_cast<std::int64_t>(i) * width + x;
#pragma unroll
        for (int c = 0; c < kTogether; ++c, to += plane) {
          if (c < left) store<true>(to, sum[c]);
        }
      }
    }
  }
}

// small = the columns of `rows` down-sampled. threadIdx.x over columns, threadIdx.y and blockIdx.x over
// groups of lines that share the taps.
__global__ void __launch_bounds__(kLrThreads, kLrBlocks)
    composite_lr_columns_kernel(const CompositeLrParams p, const TensorView rows,
                                const TensorView small) {
  const std::int64_t lines = small.sizes[0] * small.sizes[1] * small.sizes[2];
  const int lr_width = static_cast<int>(small.sizes[3]), width = static_cast<int>(rows.sizes[3]);
  const int taps = static_cast<int>(p.column_index.sizes[1]);
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.y * kLines;

  for (std::int64_t line =
           (static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y) * kLines;
       line < lines; line += step) {
    const float* from[kLines];
    from[0] = static_cast<const float*>(rows.data) + line * width;
#pragma unroll
    for (int k = 1; k < kLines; ++k) from[k] = from[k - 1] + (line + k < lines ? width : 0);
    for (int j = threadIdx.x; j < lr_width; j += blockDim.x) {
      const std::int64_t first = static_cast<std::int64_t>(j) * taps;
      const int* const index = static_cast<const int*>(p.column_index.data) + first;
      const float* const weights = static_cast<const float*>(p.column_weight.data) + first;
      float sums[kLines] = {};
#pragma unroll 4
      for (int t = 0; t < taps; ++t) {
        const int column = index[t];
        const float weight = weights[t];
#pragma unroll
        for (int k = 0; k < kLines; ++k) sums[k] = fmaf(weight, from[k][column], sums[k]);
      }
      float* to = static_cast<float*>(small.data) + line * lr_width + j;
#pragma unroll
      for (int k = 0; k < kLines; ++k, to += lr_width) {
        if (line + k < lines) *to = sums[k];
      }
    }
  }
}

// A pack in each of `left` channels, at most kTogether.
template <int V>
__device__ inline void load_parts(Pack<float, V> (&parts)[kTogether], const float* from,
                                  std::int64_t plane, int left) {
#pragma unroll
  for (int c = 0; c < kTogether; ++c, from += plane) {
    if (c < left) parts[c] = load<float, V>(from);
  }
}

// One box for all pairs: image n is the sum of its two parts, each of which is read only where it is not
// zero, and once for successive pairs that share it (but a's beside b's for each). A thread has a pack of one place in up to kTogether
// channels; blockIdx.x counts places and channels, blockIdx.y groups of kSumPairs pairs, which lie `apart`
// from one another: where each image of a meets all of b, they share their image of b.
template <typename Out, int V>
__global__ void __launch_bounds__(kLrThreads, V == 8 ? 2 : kLrBlocks)
    composite_lr_sum_kernel(const CompositeLrParams p, const TensorView small, const int scale,
                            const std::int64_t apart) {
  const CompositeParams& q = p.composite;
  const int channels = static_cast<int>(q.out.sizes[1]);
  const int lr_height = static_cast<int>(q.out.sizes[2]);
  const int lr_width = static_cast<int>(q.out.sizes[3]), packs = lr_width / V;
  const std::int64_t count = q.out.sizes[0];
  const std::int64_t groups = ceil_div(count, apart * kSumPairs) * apart;
  const std::int64_t plane = static_cast<std::int64_t>(lr_height) * lr_width;
  const std::int64_t places = static_cast<std::int64_t>(lr_height) * packs;
  const std::int64_t work = places * ceil_div(channels, kTogether), image = channels * plane;
  const Box inner = box_of(q.inner, 0), outer = box_of(q.outer, 0);

  for (std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       item < work; item += static_cast<std::int64_t>(gridDim.x) * blockDim.x) {
    const int first_channel = static_cast<int>(item / places) * kTogether;
    const int left = channels - first_channel;
    const int place = static_cast<int>(item % places);
    const int i = place / packs, j = (place - i * packs) * V;
    const Origin whole = origin(inner, outer, support(i, 1, scale, lr_height * scale),
                                support(j, V, scale, lr_width * scale));
    const std::int64_t at = first_channel * plane + static_cast<std::int64_t>(i) * lr_width + j;
    const float* const parts_a = static_cast<const float*>(small.data) + at;
    const float* const parts = parts_a + (whole == Origin::a ? 0 : q.a.sizes[0] * image);

    for (std::int64_t group = blockIdx.y; group < groups; group += gridDim.y) {
      const std::int64_t first = group + group / apart * (kSumPairs - 1) * apart;
      Pack<float, V> part[kTogether] = {}, more[kTogether] = {};  // of one source; a's if it has both
      int held = -1;
      const int pairs = static_cast<int>(min(ceil_div(count - first, apart), std::int64_t{kSumPairs}));
      Out* out = static_cast<Out*>(q.out.data) + first * image + at;
      forget(out);
#pragma unroll 1
      for (int k = 0; k < pairs; ++k, out += apart * image) {
        const Pair pair = pair_of(q, first + k * apart);
        const int wanted = static_cast<int>(whole == Origin::a ? pair.a : pair.b);
        if (pair.valid && wanted != held) {
          load_parts<V>(part, parts + wanted * image, plane, left);
          held = wanted;
        }
        if (pair.valid && whole == Origin::both) {
          load_parts<V>(more, parts_a + pair.a * image, plane, left);
        }
        Out* to = out;
#pragma unroll
        for (int c = 0; c < kTogether; ++c, to += plane) {
          Pack<float, V> sum;
#pragma unroll
          for (int v = 0; v < V; ++v) sum.at[v] = pair.valid ? part[c].at[v] + more[c].at[v] : NAN;
          if (c < left) store(to, finished<Out>(sum, p.quantize));
        }
      }
    }
  }
}

// How composite_lr_boxes_kernel cuts the LR images; chosen on the host so that a strip fits in shared
// memory for any scale.
struct BandShape {
  int scale;
  int log_rows;  // LR rows of a band
  int together;  // channels of a strip

  __host__ __device__ int rows() const { return 1 << log_rows; }
  __host__ __device__ int pitch() const { return (kStripSide + 3) * scale; }  // HR columns
  __host__ std::size_t shared_bytes() const {
    return sizeof(float) * static_cast<std::size_t>(together) * rows() * pitch();
  }
};

inline bool band_shape_for(int scale, BandShape& shape) {
  for (const int together : {kTogether, 1}) {
    for (int log_rows = 5; log_rows >= 0; --log_rows) {
      shape = {scale, log_rows, together};
      if (shape.shared_bytes() <= kSharedLimit) return true;
    }
  }
  return false;
}

// The LR pixels whose supports may hold both sources: rows within `band`, and columns.
struct Rim {
  Range rows, columns;

  __device__ Rim(const Box& inner, const Box& outer, Range band, int scale, int height, int width)
      : rows{0, 0}, columns{0, 0} {
    const Range y = support(band.lo, band.hi - band.lo, scale, height), image = {0, width};
    const bool within = contains(outer.y, y) && contains(outer.x, image);
    const auto of_box = [within](Range first, Range second) -> Range {  // by value, in registers
      return {within ? first.lo : second.lo, within ? first.hi : second.hi};
    };
    const Range cut_y = overlap(of_box(inner.y, outer.y), y);
    const Range cut_x = overlap(of_box(inner.x, outer.x), image);
    if (is_empty(cut_y) || is_empty(cut_x)) return;
    rows = overlap(band, meeting(cut_y, scale));
    columns = overlap({0, width / scale}, meeting(cut_x, scale));
  }

  // LR pixels whose supports meet `cut`.
  static __device__ Range meeting(Range cut, int scale) {
    const int before = 3 * scale / 2;  // as in support()
    return {(cut.lo + before) / scale - 3, ceil_div(cut.hi + before, scale)};
  }
};

// Where the taps in rows `y` of a column come from, which depends on the boxes that hold the column.
struct ColumnOrigins {
  Range outer, inner;  // columns of the boxes
  Origin ring, hole;   // of columns in `outer`; in both

  __device__ ColumnOrigins(const Box& inner_box, const Box& outer_box, Range y)
      : outer(outer_box.x), inner(inner_box.x) {
    const Range inside = overlap(outer_box.y, y), kept = overlap(inner_box.y, inside);
    const bool all = contains(outer_box.y, y);
    ring = is_empty(inside) ? Origin::a : all ? Origin::b : Origin::both;
    hole = is_empty(inside) || contains(inner_box.y, inside) ? Origin::a
           : all && is_empty(kept)                           ? Origin::b
                                                             : Origin::both;
  }

  __device__ Origin at(int x) const {
    return !contains(outer, x) ? Origin::a : contains(inner, x) ? hole : ring;
  }
};

// Bytes from a row to the next one, and from channel to channel: a channel that is missing is read as
// the last one. near_enough() tells whether 32 bits suffice.
struct Steps {
  int down, next[kTogether - 1];

  __device__ Steps(const TensorView& images, int bytes, int together) {
    down = static_cast<int>(images.strides[2]) * bytes;
#pragma unroll
    for (int c = 0; c + 1 < kTogether; ++c) {
      next[c] = c + 1 < together ? static_cast<int>(images.strides[1]) * bytes : 0;
    }
  }
};

inline bool near_enough(const TensorView& images, std::int64_t bytes) {
  constexpr std::int64_t most = std::numeric_limits<int>::max();
  return std::max(images.strides[1], images.strides[2]) * bytes <= most &&
         std::min(images.strides[1], images.strides[2]) >= 0;
}

// A box for each pair. A block computes a band of LR rows of one pair, all its channels: first copies,
// then strips of columns around the rims.
template <typename In, typename Out, int V>
__global__ void __launch_bounds__(kBoxThreads, kBoxBlocks)
    composite_lr_boxes_kernel(const CompositeLrParams p, const CompositeLrScratch scratch,
                              const BandShape shape) {
  FASTBG_DYNAMIC_SHARED(float, strip);  // [together][rows][pitch]
  const CompositeParams& q = p.composite;
  const int channels = static_cast<int>(q.out.sizes[1]);
  const int lr_height = static_cast<int>(q.out.sizes[2]);
  const int lr_width = static_cast<int>(q.out.sizes[3]), packs = lr_width / V;
  const int scale = shape.scale, height = lr_height * scale, width = lr_width * scale;
  const int bands = ceil_div(lr_height, shape.rows()), pitch = shape.pitch();
  const int row_taps = static_cast<int>(p.row_index.sizes[1]);
  const int column_taps = static_cast<int>(p.column_index.sizes[1]);
  const int* const row_index = static_cast<const int*>(p.row_index.data);
  const float* const row_weight = static_cast<const float*>(p.row_weight.data);
  const int* const column_index = static_cast<const int*>(p.column_index.data);
  const float* const column_weight = static_cast<const float*>(p.column_weight.data);
  const std::int64_t plane = static_cast<std::int64_t>(lr_height) * lr_width;
  const std::int64_t plane_of_rows = static_cast<std::int64_t>(lr_height) * width;
  const std::int64_t work = q.out.sizes[0] * bands;
  const int lane = threadIdx.x % warpSize, warp = threadIdx.x / warpSize;

  for (std::int64_t item = blockIdx.x; item < work; item += gridDim.x) {
    const std::int64_t n = item / bands;
    const int top = static_cast<int>(item - n * bands) << shape.log_rows;
    const int rows_out = min(shape.rows(), lr_height - top);
    const Pair pair = pair_of(q, n);
    Out* const out = static_cast<Out*>(q.out.data) + n * channels * plane;
    if (!pair.valid) {
      for (int c = 0; c < channels; ++c) {
        Out* const to = out + c * plane + static_cast<std::int64_t>(top) * lr_width;
        for (int k = threadIdx.x; k < rows_out * lr_width; k += blockDim.x) {
          to[k] = from_float<Out>(NAN);
        }
      }
      continue;
    }
    const Box inner = box_of(q.inner, n), outer = box_of(q.outer, n);
    const std::int64_t of_a = pair.a * channels, of_b = (q.a.sizes[0] + pair.b) * channels;

    const float* const small_a = static_cast<const float*>(scratch.small.data) + of_a * plane;
    const float* const small_b = static_cast<const float*>(scratch.small.data) + of_b * plane;
    for (int k = threadIdx.x; k < rows_out * packs; k += blockDim.x) {
      const int row = k / packs, i = top + row, j = (k - row * packs) * V;
      const std::int64_t at = static_cast<std::int64_t>(i) * lr_width + j;
      const Range y = support(i, 1, scale, height);
      const Origin whole = origin(inner, outer, y, support(j, V, scale, width));
      if (whole != Origin::both) {
        const float* from = (whole == Origin::a ? small_a : small_b) + at;
        Out* to = out + at;
#pragma unroll 1
        for (int c = 0; c < channels; ++c, from += plane, to += plane) {
          store(to, finished<Out>(load<float, V>(from), p.quantize));
        }
      }
    }

    const Rim rim(inner, outer, Range{top, top + rows_out}, scale, height, width);
    const int rim_rows = rim.rows.hi - rim.rows.lo;
    if (rim_rows <= 0) continue;
    const float* const rows_a = static_cast<const float*>(scratch.rows.data) + of_a * plane_of_rows;
    const float* const rows_b = static_cast<const float*>(scratch.rows.data) + of_b * plane_of_rows;
    for (int left = rim.columns.lo / V * V; left < rim.columns.hi; left += kStripSide) {
      const Range columns = overlap(rim.columns, Range{left, left + kStripSide});
      const Range x = support(columns.lo, columns.hi - columns.lo, scale, width);
      const int reach = x.hi - x.lo;
      // Columns inside the inner box come first, so that those with cut taps share warps.
      const int start = min(max(inner.x.lo, x.lo), x.hi - 1);
      for (int channel = 0; channel < channels; channel += shape.together) {
        const int together = min(shape.together, channels - channel);
        for (int r = warp; r < rim_rows; r += kBoxThreads / warpSize) {
          const int row = rim.rows.lo + r;
          const Range y = support(row, 1, scale, height);
          if (origin(inner, outer, y, x) != Origin::both) continue;
          const ColumnOrigins origins(inner, outer, y);
          const std::int64_t line =
              channel * plane_of_rows + static_cast<std::int64_t>(row) * width;
          const float *line_a = rows_a + line, *line_b = rows_b + line;
          forget(line_a), forget(line_b);
          for (int k = lane; k < reach; k += warpSize) {
            const int at = start + k < x.hi ? start + k : start + k - reach;
            const Origin whole = origins.at(at);
            float sum[kTogether] = {};
            if (whole != Origin::both) {
              const float* from = (whole == Origin::a ? line_a : line_b) + at;
#pragma unroll
              for (int c = 0; c < kTogether; ++c) {
                sum[c] = *from;
                if (c + 1 < together) from += plane_of_rows;
              }
            } else {
              const unsigned in_outer = contains(outer.x, at), in_inner = contains(inner.x, at);
              const Steps steps_a(q.a, sizeof(In), together), steps_b(q.b, sizeof(In), together);
              const char* const from_a = reinterpret_cast<const char*>(
                  plane_of<In>(q.a, pair.a, channel) + at * q.a.strides[3]);
              const char* const from_b = reinterpret_cast<const char*>(
                  plane_of<In>(q.b, pair.b, channel) + at * q.b.strides[3]);
              const std::int64_t first = static_cast<std::int64_t>(row) * row_taps;
#pragma unroll 2
              for (int t = 0; t < row_taps; ++t) {
                const int tap = row_index[first + t];
                const float weight = row_weight[first + t];
                const bool foreign = in_outer & contains(outer.y, tap) &
                                     ~(in_inner & contains(inner.y, tap));
                const std::int64_t down = foreign ? steps_b.down : steps_a.down;
                const char* at_c = (foreign ? from_b : from_a) + tap * down;
#pragma unroll
                for (int c = 0; c < kTogether; ++c) {
                  const float pixel = to_float(*reinterpret_cast<const In*>(at_c));
                  sum[c] = fmaf(weight, pixel, sum[c]);
                  if (c + 1 < kTogether) at_c += foreign ? steps_b.next[c] : steps_a.next[c];
                }
              }
            }
            float* to = strip + r * pitch + at - x.lo;
#pragma unroll
            for (int c = 0; c < kTogether; ++c, to += pitch << shape.log_rows) {
              if (c < together) *to = sum[c];
            }
          }
        }
        __syncthreads();
        for (int k = threadIdx.x; k < rim_rows * kStripSide; k += blockDim.x) {
          const int r = k / kStripSide, i = rim.rows.lo + r, j = left + k % kStripSide;
          if (j >= lr_width) continue;
          const Range y = support(i, 1, scale, height);
          // Copied above, in a pack?
          if (origin(inner, outer, y, support(j / V * V, V, scale, width)) != Origin::both) continue;
          Out* to = out + channel * plane + static_cast<std::int64_t>(i) * lr_width + j;
          const Origin whole = origin(inner, outer, y, support(j, 1, scale, width));
          if (whole != Origin::both) {
            const float* from = (whole == Origin::a ? small_a : small_b) + channel * plane +
                                static_cast<std::int64_t>(i) * lr_width + j;
#pragma unroll 1
            for (int c = 0; c < together; ++c, from += plane, to += plane) {
              *to = finished<Out>(*from, p.quantize);
            }
            continue;
          }
          const std::int64_t first = static_cast<std::int64_t>(j) * column_taps;
          float sum[kTogether] = {};
#pragma unroll 4
          for (int t = 0; t < column_taps; ++t) {
            const float weight = column_weight[first + t];
            const float* from = strip + r * pitch + column_index[first + t] - x.lo;
#pragma unroll
            for (int c = 0; c < kTogether; ++c) {
              sum[c] = fmaf(weight, *from, sum[c]);
              if (c + 1 < together) from += pitch << shape.log_rows;
            }
          }
          if (p.quantize) {
#pragma unroll
            for (int c = 0; c < kTogether; ++c) sum[c] = quantized(sum[c]);
          }
#pragma unroll
          for (int c = 0; c < kTogether; ++c, to += plane) {
            if (c < together) *to = from_float<Out>(sum[c]);
          }
        }
        __syncthreads();
      }
    }
  }
}

}  // namespace
}  // namespace fastbg
