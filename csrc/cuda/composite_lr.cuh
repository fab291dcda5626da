// Kernels of composite_lr that work per source first (composite.cu has the variants considered).
//
// Down-sampling is separable: rows first, then columns. `rows` holds each source's rows (H/s of them, as
// wide as the image), `small` its LR image. With a box for each pair, composite_lr_boxes.cuh follows.
#pragma once

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

// small = the columns of `rows` down-sampled; `Finished`: as they stand in the output. threadIdx.x over
// columns, threadIdx.y and blockIdx.x over groups of lines that share the taps.
template <typename Out, bool Finished>
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
      Pack<float, kLines> sums = {};
#pragma unroll 4
      for (int t = 0; t < taps; ++t) {
        const int column = index[t];
        const float weight = weights[t];
#pragma unroll
        for (int k = 0; k < kLines; ++k) sums.at[k] = fmaf(weight, from[k][column], sums.at[k]);
      }
      const Pack<Out, kLines> results = finished<Out>(sums, Finished && p.quantize);
      Out* to = static_cast<Out*>(small.data) + line * lr_width + j;
#pragma unroll
      for (int k = 0; k < kLines; ++k, to += lr_width) {
        if (line + k < lines) *to = results.at[k];
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
// zero, and once for successive pairs that share it (but a's beside b's for each). A thread has a pack of
// one place in up to kTogether channels; blockIdx.x counts places and channels, blockIdx.y groups of
// kSumPairs pairs, which lie `apart` from one another: where each image of a meets all of b, they share
// their image of b.
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

}  // namespace
}  // namespace fastbg
