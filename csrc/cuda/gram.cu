// Gram matrices of features, and of a convolution's features.
//
// Each block sums a square of up to 64x64 channels over a split of the pixels, and stores its sums in
// a workspace; gram_reduce_kernel adds the splits, in order and in float64. No atomics: the same bits
// in every run. Only squares on and above the diagonal are computed. Variants considered:
//   tiles of pixels in shared memory, a part of the square per warp: 4 warps read each value 4 times
//     from there, and half a diagonal square is computed for nothing.
//   pixels per warp (chosen): each warp holds a whole square (20 units of 16x8, 80 registers), and
//     features go from memory into registers, once. The warps' sums meet once, at the end.
// Tensor cores cut off instead of rounding, so that long chains of additions drift: a split is at most
// 1024 pixels (float32: 96 additions to each sum, about 2e-6) or 4096 (half types: one per step).
//
// conv_gram never stores a feature, not even in shared memory: with channels as rows and pixels as
// columns, what an mma leaves in its registers is what the next one takes as its operands. A region
// passes over steps that have no weight in it; regions that do not overlap cost one pass together.
#include "gram.h"

#include "gram_sum.cuh"

namespace fastbg {
namespace {

constexpr std::int64_t kBlocks = 2048;                // several waves on the largest GPUs
constexpr std::int64_t kRound = kWarps * kStep;       // pixels
constexpr std::int64_t kLeastPixels = 2 * kRound;     // of a split: 128 blocks for 128x128
constexpr std::int64_t kMostPixels = 1024, kMostExactPixels = 4096;
constexpr int kLargest = 64;  // channels of a square

__device__ inline int group_of_lane() { return static_cast<int>(threadIdx.x) % kWarpThreads / 4; }
__device__ inline int quarter_of_lane() { return static_cast<int>(threadIdx.x) % 4; }

struct Corner {
  int row, column;  // in squares
};

// Off the diagonal: 01, 02, 12, 03, ...
__device__ inline Corner corner_of(std::int64_t square, bool diagonal) {
  int row = static_cast<int>(square), column = diagonal ? row : 1;
  for (; !diagonal && row >= column; ++column) row -= column;
  return {row, column};
}

// ---------------------------------------------------------------------------------------------
// gram

// 4 pixels from `at` on, of which the first `left` exist, of a channel of each group. Channels that
// do not exist are read as the last one; nobody reads their sums.
template <typename T, int Groups>
__device__ inline void read_step(const TensorView& features, const T* image, int first, Cursor at,
                                 int left, bool packed, Pack<T, 4> (&to)[Groups]) {
  const int last = static_cast<int>(features.sizes[1]) - 1;
  const std::int64_t stride = features.strides[1];
  if (packed) {
    const T* from = image + at.offset(features);
#pragma unroll
    for (int n = 0; n < Groups; ++n) {
      to[n] = {};
      if (left > 0) to[n] = load<T, 4>(from + min(first + n * kGroup, last) * stride);
    }
    return;
  }
  std::int64_t offsets[4];
#pragma unroll
  for (int i = 0; i < 4; ++i, at.advance()) offsets[i] = at.offset(features);
#pragma unroll
  for (int n = 0; n < Groups; ++n) {
    const T* from = image + min(first + n * kGroup, last) * stride;
#pragma unroll
    for (int i = 0; i < 4; ++i) to[n].at[i] = i < left ? from[offsets[i]] : from_float<T>(0.0f);
  }
}

// Pixels without weight are left out, whatever they hold.
template <typename T, int Groups>
__device__ inline void as_floats(const Pack<T, 4> (&from)[Groups], bool weighted,
                                 const float (&weights)[4], float (&to)[Groups][4]) {
#pragma unroll
  for (int i = 0; i < Groups * 4; ++i) {
    const bool counts = !weighted || weights[i % 4] != 0;
    to[i / 4][i % 4] = counts ? to_float(from[i / 4].at[i % 4]) : 0.0f;
  }
}

template <typename T, bool Weighted, int Channels, bool Diagonal>
__global__ void __launch_bounds__(kGramThreads, Diagonal ? 3 : 2)
    gram_partial_kernel(const GramParams p, const GramPlan plan, float4* partial,
                        const bool packed) {
  using S = Square<Channels, Diagonal>;
  const TensorView& features = p.features;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;

  for (std::int64_t index = blockIdx.x; index < plan.items(); index += gridDim.x) {
    const GramItem item(plan, index, features.sizes[2] * features.sizes[3]);
    const Corner corner = corner_of(item.square, Diagonal);
    const int row = corner.row * Channels + group_of_lane();
    const int column = corner.column * Channels + group_of_lane();
    const T* image = static_cast<const T*>(features.data) + item.image * features.strides[0];
    const Cursor start(item.begin, features);
    float sums[S::kUnits][4] = {};

    for (int first = warp * kStep; first < item.count; first += kRound) {
      const int own = first + quarter_of_lane() * 4, left = item.count - own;
      const Cursor at = start.after(features, own);
      float weights[4] = {};
      if constexpr (Weighted) {
        read_weights(p.mask, item, at, left, weights);
        if (!any_weight(weights)) continue;
      }
      Pack<T, 4> rows[S::kGroups];
      read_step(features, image, row, at, left, packed, rows);
      if constexpr (sizeof(T) == 2 && !Weighted && Diagonal) {
        add_half_step<S>(sums, rows, rows);
      } else if constexpr (sizeof(T) == 2 && !Weighted) {
        Pack<T, 4> columns[S::kGroups];
        read_step(features, image, column, at, left, packed, columns);
        add_half_step<S>(sums, rows, columns);
      } else {
        constexpr bool kExact = sizeof(T) == 2;
        float row_values[S::kGroups][4];
        as_floats(rows, Weighted, weights, row_values);
        if constexpr (Diagonal) {
          add_step<S, Weighted, kExact>(sums, row_values, row_values, weights);
        } else {
          Pack<T, 4> columns[S::kGroups];
          float column_values[S::kGroups][4];
          read_step(features, image, column, at, left, packed, columns);
          as_floats(columns, Weighted, weights, column_values);
          add_step<S, Weighted, kExact>(sums, row_values, column_values, weights);
        }
      }
    }
    store_sums(sums, partial + index * S::kUnits * kWarpThreads);
  }
}

// out = the splits' sums, and their mirror image. A thread has the 4 sums of one lane.
template <typename T>
__global__ void __launch_bounds__(kGramThreads)
    gram_reduce_kernel(const TensorView out, const GramPlan plan, const float4* partial,
                       const int channels, const bool diagonal) {
  const std::int64_t lanes = std::int64_t{plan.units} * kWarpThreads;
  const std::int64_t of_split = plan.squares * plan.regions * lanes;
  const std::int64_t size = out.sizes[2];

  for (std::int64_t index = std::int64_t{blockIdx.x} * kGramThreads + threadIdx.x;
       index < plan.images * of_split; index += std::int64_t{gridDim.x} * kGramThreads) {
    const std::int64_t image = index / of_split, rest = index - image * of_split;
    const float4* from = partial + image * plan.splits * of_split + rest;
    double sums[4] = {};
#pragma unroll 4
    for (std::int64_t split = 0; split < plan.splits; ++split, from += of_split) {
      const float4 sum = *from;
      sums[0] += sum.x;
      sums[1] += sum.y;
      sums[2] += sum.z;
      sums[3] += sum.w;
    }
    const std::int64_t matrix = rest / lanes;  // square, then region
    const Corner corner = corner_of(matrix / plan.regions, diagonal);
    int tile = static_cast<int>(rest % lanes) / kWarpThreads, group = 0;
    for (; tile >= (diagonal ? group / 2 + 1 : channels / 16); ++group) {
      tile -= diagonal ? group / 2 + 1 : channels / 16;
    }
    const std::int64_t top = std::int64_t{corner.row} * channels + tile * 16 + group_of_lane();
    const std::int64_t left =
        std::int64_t{corner.column} * channels + group * kGroup + quarter_of_lane() * 2;
    T* to = static_cast<T*>(out.data) + (image * plan.regions + matrix % plan.regions) * size * size;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::int64_t row = top + i / 2 * kGroup, column = left + i % 2;
      if (row > column || column >= size) continue;  // another lane has it, or no channel
      const T sum = from_float<T>(static_cast<float>(sums[i]));
      to[row * size + column] = sum;
      to[column * size + row] = sum;
    }
  }
}

// ---------------------------------------------------------------------------------------------
// conv_gram

constexpr int kTaps = 27, kBias = 27, kPaddedTaps = 32;
constexpr int kDepths = kPaddedTaps / 8;  // products of 8 taps
constexpr unsigned kExists = 1u << 9;     // of the bits of `inside`

// What all steps of a block read: the weights as operands, and where taps stand.
struct Filter {
  uint4 high[kDepths][kLargest / 16][kWarpThreads], low[kDepths][kLargest / 16][kWarpThreads];
  std::int64_t offsets[kPaddedTaps];
  unsigned bits[kPaddedTaps];  // of `inside`; the bias is a tap of every pixel that exists

  __device__ void read(const ConvGramParams& p) {
    const float* weight = static_cast<const float*>(p.weight.data);
    const float* bias = static_cast<const float*>(p.bias.data);
    for (int i = threadIdx.x; i < kPaddedTaps * kLargest; i += kGramThreads) {
      const int lane = i / 4 % kWarpThreads, tile = i / 4 / kWarpThreads % (kLargest / 16);
      const int depth = i / 4 / kWarpThreads / (kLargest / 16);
      const int tap = depth * 8 + lane % 4 + i % 4 / 2 * 4, channel = tile * 16 + lane / 4 + i % 2 * 8;
      float value = 0;
      if (tap < kTaps) value = weight[tap * kLargest + channel];
      if (tap == kBias) value = bias[channel];
      const Parts parts = parts_of(value);
      reinterpret_cast<unsigned*>(&high[depth][tile][lane])[i % 4] = parts.high;
      reinterpret_cast<unsigned*>(&low[depth][tile][lane])[i % 4] = parts.low;
    }
    for (int tap = threadIdx.x; tap < kPaddedTaps; tap += kGramThreads) {
      const std::int64_t* strides = p.images.strides;
      offsets[tap] = tap / 9 * strides[1] + (tap / 3 % 3 - 1) * strides[2] + (tap % 3 - 1) * strides[3];
      bits[tap] = tap < kTaps ? 1u << tap % 9 : tap == kBias ? kExists : 0;
    }
  }
};

// A pixel and which taps around it lie in the image; none if it does not exist itself.
template <typename T>
struct Centre {
  const T* at;
  unsigned inside;

  __device__ Centre(const T* image, const TensorView& view, const Cursor& cursor, bool exists) {
    at = image + cursor.offset(view);
    const unsigned columns = (cursor.x > 0) | 2u | (cursor.x + 1 < view.sizes[3]) << 2;
    const unsigned rows =
        (cursor.y > 0) | 1u << 3 | static_cast<unsigned>(cursor.y + 1 < view.sizes[2]) << 6;
    inside = exists ? columns * rows | kExists : 0;  // rows has a bit for every third
  }

  __device__ float tap(const Filter& filter, int tap) const {
    if (!(inside & filter.bits[tap])) return 0;
    return tap == kBias ? 1.0f : to_float(at[filter.offsets[tap]]);
  }
};

// relu(conv) of a step: channel g of each group, pixels 4t..4t+3. Half a step is the columns of one
// mma: column n is pixel n / 2 * 4 + n % 2, so that the lane with columns 2t and 2t + 1 has them.
template <typename T>
__device__ inline void convolve(const Filter& filter, const Centre<T> (&centres)[2],
                                float (&features)[kLargest / kGroup][4]) {
  constexpr bool kExact = sizeof(T) == 2;
  constexpr int kTiles = kLargest / 16;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  float sums[2][kTiles][4] = {};
#pragma unroll
  for (int depth = 0; depth < kDepths; ++depth) {
    unsigned high[2][2], low[2][2];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float value = centres[i / 2].tap(filter, depth * 8 + quarter_of_lane() + i % 2 * 4);
      if constexpr (kExact) {
        high[i / 2][i % 2] = __float_as_uint(value);
      } else {
        const Parts parts = parts_of(value);
        high[i / 2][i % 2] = parts.high;
        low[i / 2][i % 2] = parts.low;
      }
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const uint4 h = filter.high[depth][tile][lane], l = filter.low[depth][tile][lane];
      const unsigned row_high[4] = {h.x, h.y, h.z, h.w}, row_low[4] = {l.x, l.y, l.z, l.w};
#pragma unroll
      for (int half = 0; half < 2; ++half) mma_tf32(sums[half][tile], row_low, high[half]);
      if constexpr (!kExact) {
#pragma unroll
        for (int half = 0; half < 2; ++half) mma_tf32(sums[half][tile], row_high, low[half]);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) mma_tf32(sums[half][tile], row_high, high[half]);
    }
  }
#pragma unroll
  for (int i = 0; i < 8 * kTiles; ++i) {
    const int half = i / 4 / kTiles, tile = i / 4 % kTiles, place = i % 4;
    const float sum = sums[half][tile][place];
    features[tile * 2 + place / 2][half * 2 + place % 2] = sum < 0 ? 0 : sum;  // NaN stays
  }
}

template <typename T, bool Weighted>
__global__ void __launch_bounds__(kGramThreads, 3)
    conv_gram_partial_kernel(const ConvGramParams p, const GramPlan plan, float4* partial) {
  using S = Square<kLargest, true>;
  __shared__ Filter filter;
  const TensorView& images = p.images;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int column = group_of_lane() / 2 * 4 + group_of_lane() % 2;  // pixel of a half step
  filter.read(p);
  __syncthreads();

  for (std::int64_t index = blockIdx.x; index < plan.items(); index += gridDim.x) {
    const GramItem item(plan, index, images.sizes[2] * images.sizes[3]);
    const T* image = static_cast<const T*>(images.data) + item.image * images.strides[0];
    const Cursor start(item.begin, images);
    float sums[S::kUnits][4] = {};

    for (int first = warp * kStep; first < item.count; first += kRound) {
      float weights[4] = {};
      if constexpr (Weighted) {
        const int own = first + quarter_of_lane() * 4;
        read_weights(p.mask, item, start.after(images, own), item.count - own, weights);
        if (!any_weight(weights)) continue;
      }
      const int pixel = first + column;
      const Cursor here = start.after(images, pixel);
      const Centre<T> centres[2] = {
          {image, images, here, pixel < item.count},
          {image, images, here.after(images, 2), pixel + 2 < item.count},
      };
      float features[S::kGroups][4];
      convolve(filter, centres, features);
      if constexpr (Weighted) {
#pragma unroll
        for (int i = 0; i < S::kGroups * 4; ++i) {
          if (weights[i % 4] == 0) features[i / 4][i % 4] = 0;  // whatever it is
        }
      }
      add_step<S, Weighted, false>(sums, features, features, weights);
    }
    store_sums(sums, partial + index * S::kUnits * kWarpThreads);
  }
}

// ---------------------------------------------------------------------------------------------
// Launches

GramPlan plan_for(const TensorView& maps, const TensorView& out, std::int64_t squares, int units,
                  std::int64_t most) {
  const std::int64_t pixels = maps.sizes[2] * maps.sizes[3];
  const std::int64_t rest = std::max<std::int64_t>(out.sizes[0] * out.sizes[1] * squares, 1);
  const std::int64_t fewest = std::max<std::int64_t>(ceil_div(pixels, most), 1);
  const std::int64_t splits = std::clamp(
      ceil_div(kBlocks, rest), fewest, std::max(ceil_div(pixels, kLeastPixels), fewest));
  const std::int64_t rounds = std::max<std::int64_t>(ceil_div(pixels, splits * kRound), 1);
  return {out.sizes[0], out.sizes[1], squares,
          std::max<std::int64_t>(ceil_div(pixels, rounds * kRound), 1), rounds * kRound, units};
}

// H x W pixels as one row, where they lie so.
bool lie_in_one_row(const TensorView& maps) {
  return maps.sizes[2] == 1 || maps.sizes[3] == 1 ||
         maps.strides[2] == maps.sizes[3] * maps.strides[3];
}

TensorView as_one_row(TensorView maps) {
  if (maps.sizes[3] == 1) maps.strides[3] = maps.strides[2];
  maps.sizes[3] *= maps.sizes[2];
  maps.sizes[2] = 1;
  return maps;
}

GramParams with_long_rows(GramParams p) {
  if (lie_in_one_row(p.features) && (!p.mask.data || lie_in_one_row(p.mask))) {
    p.features = as_one_row(p.features);
    if (p.mask.data) p.mask = as_one_row(p.mask);
  }
  return p;
}

bool can_walk(const TensorView& maps) {
  return maps.sizes[2] == 1 || maps.sizes[3] < std::int64_t{1} << 31;
}

bool holds(const TensorView& workspace, const GramPlan& plan) {
  return workspace.dtype == DType::float32 && contiguous(workspace) &&
         element_count(workspace) >= plan.workspace_floats();
}

bool exact_products(const GramParams& p) {
  return p.features.dtype != DType::float32 && !p.mask.data;
}

template <class S>
GramPlan plan_for(const GramParams& p, int channels) {
  const std::int64_t side = ceil_div<std::int64_t>(p.out.sizes[2], channels);
  return plan_for(p.features, p.out, S::kOnDiagonal ? side : side * (side - 1) / 2, S::kUnits,
                  exact_products(p) ? kMostExactPixels : kMostPixels);
}

// Calls run(channels of a square) with the least that needs no more squares.
template <typename Run>
auto with_channels(std::int64_t channels, Run&& run) {
  if (channels <= 16) return run(std::integral_constant<int, 16>{});
  if (channels <= 32) return run(std::integral_constant<int, 32>{});
  return run(std::integral_constant<int, kLargest>{});
}

// Calls run(element type) for float types.
template <typename Run>
cudaError_t with_float_type(DType dtype, Run&& run) {
  return with_types(dtype, [&](auto in, auto out) -> cudaError_t {
    if constexpr (std::is_same_v<decltype(in), decltype(out)>) {
      return run(in);
    } else {
      return cudaErrorInvalidValue;  // grey levels
    }
  });
}

template <typename T>
cudaError_t reduce(const TensorView& out, const GramPlan& plan, const float4* partial, int channels,
                   bool diagonal, cudaStream_t stream) {
  const std::int64_t threads = plan.images * plan.regions * plan.squares * plan.units * kWarpThreads;
  FASTBG_LAUNCH((gram_reduce_kernel<T>), dim3(grid_size(ceil_div<std::int64_t>(threads, kGramThreads))),
                dim3(kGramThreads), 0, stream, out, plan, partial, channels, diagonal);
  return cudaGetLastError();
}

template <typename T, int Channels, bool Diagonal>
cudaError_t sum_squares(const GramParams& p, const TensorView& workspace, cudaStream_t stream) {
  const GramPlan plan = plan_for<Square<Channels, Diagonal>>(p, Channels);
  if (!holds(workspace, plan)) return cudaErrorInvalidValue;
  float4* const partial = static_cast<float4*>(workspace.data);
  const bool packed = packable(p.features, 4, sizeof(T));
  const dim3 grid(grid_size(plan.items()));
  if (p.mask.data) {
    FASTBG_LAUNCH((gram_partial_kernel<T, true, Channels, Diagonal>), grid, dim3(kGramThreads), 0,
                  stream, p, plan, partial, packed);
  } else {
    FASTBG_LAUNCH((gram_partial_kernel<T, false, Channels, Diagonal>), grid, dim3(kGramThreads), 0,
                  stream, p, plan, partial, packed);
  }
  return reduce<T>(p.out, plan, partial, Channels, Diagonal, stream);
}

GramPlan conv_plan(const ConvGramParams& p) {
  return plan_for(p.images, p.out, 1, Square<kLargest, true>::kUnits, kMostPixels);
}

}  // namespace

std::int64_t gram_workspace(const GramParams& params) {
  return with_channels(params.out.sizes[2], [&](auto constant) {
    constexpr int channels = decltype(constant)::value;
    const std::int64_t on = plan_for<Square<channels, true>>(params, channels).workspace_floats();
    if (params.out.sizes[2] <= channels) return on;
    return std::max(on, plan_for<Square<kLargest, false>>(params, kLargest).workspace_floats());
  });
}

std::int64_t conv_gram_workspace(const ConvGramParams& params) {
  return conv_plan(params).workspace_floats();
}

cudaError_t launch_gram(const GramParams& params, const TensorView& workspace,
                        cudaStream_t stream) {
  if (element_count(params.out) == 0) return cudaSuccess;
  const GramParams p = with_long_rows(params);
  if (!can_walk(p.features)) return cudaErrorInvalidValue;
  return with_float_type(p.features.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    return with_channels(p.out.sizes[2], [&](auto constant) {
      constexpr int channels = decltype(constant)::value;
      const cudaError_t error = sum_squares<T, channels, true>(p, workspace, stream);
      if (error != cudaSuccess || p.out.sizes[2] <= channels) return error;
      return sum_squares<T, kLargest, false>(p, workspace, stream);
    });
  });
}

cudaError_t launch_conv_gram(const ConvGramParams& p, const TensorView& workspace,
                             cudaStream_t stream) {
  if (element_count(p.out) == 0) return cudaSuccess;
  const GramPlan plan = conv_plan(p);
  if (!can_walk(p.images) || !holds(workspace, plan)) return cudaErrorInvalidValue;
  return with_float_type(p.images.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    float4* const partial = static_cast<float4*>(workspace.data);
    const dim3 grid(grid_size(plan.items()));
    if (p.mask.data) {
      FASTBG_LAUNCH((conv_gram_partial_kernel<T, true>), grid, dim3(kGramThreads), 0, stream, p,
                    plan, partial);
    } else {
      FASTBG_LAUNCH((conv_gram_partial_kernel<T, false>), grid, dim3(kGramThreads), 0, stream, p,
                    plan, partial);
    }
    return reduce<T>(p.out, plan, partial, kLargest, true, stream);
  });
}

}  // namespace fastbg
