// Gram matrices of features, and of a convolution's features.
//
// Each block sums a panel of up to 64x64 channels over a split of the pixels, and stores its sums
// in a workspace; gram_reduce_kernel adds the splits, in order and in float64. No atomics: the same
// bits in every run. Only panels on and above the diagonal are computed. Variants considered:
//   tiles of pixels in shared memory, a part of the panel per warp: 4 warps read each value 4
//     times from there, and half of a diagonal panel is computed in vain.
//   pixels per warp (chosen): each warp holds a whole panel (20 units of 16x8, 80 registers), and each
//     lane copies what it alone needs of the next steps while it computes (gram_steps.cuh), without
//     barriers. The warps' sums are added once, at the end.
// Tensor cores truncate instead of rounding, so that long sums drift: a split has at most 1024 pixels
// (96 additions to each sum of floats, 2e-6) or 4096 (half types: 64 additions).
//
// conv_gram never stores a feature, not even in shared memory: with channels as rows and pixels as
// columns, the result registers of one mma are the operand registers of the next one. A region skips
// steps where all its weights are 0; regions that do not overlap take one pass together.
#include "gram.h"

#include <limits>

#include "conv_features.cuh"
#include "gram_steps.cuh"
#include "gram_sum.cuh"

namespace fastbg {
namespace {

constexpr std::int64_t kBlocks = 2048;             // target: several waves on the largest GPUs
constexpr std::int64_t kRound = kWarps * kStep;    // pixels of a step of every warp
constexpr std::int64_t kLeastPixels = 2 * kRound;  // of a split: 128 blocks for 128x128
constexpr std::int64_t kMostPixels = 1024, kMostExactPixels = 4096;
constexpr int kLargest = kConvChannels;  // channels of a panel

struct Corner {
  int row, column;  // channels
};

// Panels on the diagonal are numbered along it; others row by row.
template <int Channels, bool Diagonal>
__device__ inline Corner corner_of(unsigned panel) {
  if (Diagonal) return {static_cast<int>(panel) * Channels, static_cast<int>(panel) * Channels};
  int row = static_cast<int>(panel / 2), column = 1;
  for (; row >= column; ++column) row -= column;
  return {row * Channels, column * Channels + static_cast<int>(panel % 2) * (Channels / 2)};
}

// ---------------------------------------------------------------------------------------------
// gram

// First pixel of an item: the start of its row, and the column. In an image of one row, whose length
// may not fit in 32 bits, the pixel itself.
struct Begin {
  std::int64_t y, skipped;
  int x;

  __device__ Begin(const GramItem& item, const TensorView& features) {
    const bool one_row = features.sizes[2] <= 1;
    y = one_row ? 0 : item.begin / max(features.sizes[3], std::int64_t{1});
    skipped = one_row ? item.begin : 0;
    x = static_cast<int>(item.begin - y * features.sizes[3] - skipped);
  }

  __device__ std::int64_t offset(const TensorView& view) const {
    return y * view.strides[2] + skipped * view.strides[3];
  }
};

// sums += rows columns^T over a step; pixels of weight 0 are left out, even if they are NaN.
template <class Panel, bool Weighted, typename T>
__device__ inline void add_pixels(float (&sums)[Panel::kUnits][4], const Pack<T, 4> (&rows)[Panel::kTiles * 2],
                                  const Pack<T, 4> (&columns)[Panel::kGroups], const float (&weights)[4],
                                  unsigned zero) {
  if constexpr (sizeof(T) == 2 && !Weighted) {
    add_half_step<Panel>(sums, rows, columns);
  } else {
    float row_values[Panel::kTiles * 2][4], column_values[Panel::kGroups][4];
    as_floats(rows, Weighted, weights, row_values);
    as_floats(columns, Weighted, weights, column_values);
    add_step<Panel, Weighted, sizeof(T) == 2>(sums, row_values, column_values, weights, zero);
  }
}

// The same of floats without weights, over one of the two halves of a step.
template <class Panel, class Stages>
__device__ inline void add_pairs_of(float (&sums)[Panel::kUnits][4], const Stages& stages, int half, unsigned zero) {
  float rows[Panel::kTiles * 2][2], columns[Panel::kGroups][2];
  stages.read_pairs(0, half, rows);
  if constexpr (Panel::kOnDiagonal) {
    memcpy(columns, rows, sizeof(columns));
  } else {
    stages.read_pairs(Panel::kTiles * 2, half, columns);
  }
  const float weights[2] = {};
  add_pairs<Panel, false, false>(sums, rows, columns, weights, zero);
}

// Blocks per multiprocessor: allows 168 or 255 registers per thread, so that none spills.
template <typename T, bool Weighted, bool Packed>
constexpr int kGramBlocks = Weighted || (!Packed && sizeof(T) == 4) ? 2 : 3;

// `Packed`: 4 pixels can be copied at once.
template <typename T, bool Weighted, bool Packed, int Channels, bool Diagonal>
__global__ void __launch_bounds__(kGramThreads, kGramBlocks<T, Weighted, Packed>)
    gram_partial_kernel(const GramParams p, const GramPlan plan, float4* partial) {
  using S = Panel<Channels, Diagonal>;
  using Stages = GramStages<T, S>;
  __shared__ uint4 memory[Packed ? Stages::kMemory : Stages::kSums];
  const TensorView& features = p.features;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const GramItem item(plan, features);
  const Corner corner = corner_of<Channels, Diagonal>(item.panel);
  if (!Diagonal && corner.column >= features.sizes[1]) return;  // the last panel has 32 channels or less
  const Begin begin(item, features);
  const T* image = static_cast<const T*>(features.data) + item.image * features.strides[0] +
                   begin.offset(features);
  const float* weights_from = Weighted ? item.weights(p.mask) + begin.offset(p.mask) : nullptr;
  const int row = corner.row + group_of_lane(), column = corner.column + group_of_lane();
  Pack<T, 4> rows[S::kTiles * 2], columns[S::kGroups];
  float sums[S::kUnits][4] = {};

  if constexpr (Packed) {
    Stages stages(memory);
    float weights[Stages::kCount][4] = {};  // of the step to be added, and of those under way
    int left = item.count - warp * kStep - quarter_of_lane() * 4;
    Walk<T> walk(features, image, Cursor{0, begin.x}.after(features, item.count - left), row);
    const auto advance = [&] { left -= kRound, walk.skip(features, kRound); };
    // Starts to copy the warp's next step that has a weight; whether there is one.
    const auto copy_step = [&](float (&step_weights)[4]) -> bool {
      const int last_lane = quarter_of_lane() * 4;
      if constexpr (Weighted) {
        for (; left + last_lane > 0; advance()) {
          read_weights(weights_from, p.mask, walk.at, left, step_weights);
          if (any_weight(step_weights)) break;
        }
      }
      const bool exists = left + last_lane > 0;  // the same for all lanes
      if (exists) {
        copy_channels<T, S::kTiles * 2>(features, walk.from, row, left > 0, stages.next(0));
        if constexpr (!Diagonal) {
          const T* from = walk.from + (column - row) * features.strides[1];
          copy_channels<T, S::kGroups>(features, from, column, left > 0, stages.next(S::kTiles * 2));
        }
        advance();
      }
      commit_copies();
      stages.advance();
      return exists;
    };
    int under_way = 0;
#pragma unroll
    for (int i = 0; i < Stages::kAhead; ++i) under_way += copy_step(weights[i]);
    while (under_way > 0) {
      under_way += copy_step(weights[Stages::kAhead]) - 1;
      wait_for_copies<Stages::kAhead>();  // now the stage that is filled next holds a step
      if constexpr (sizeof(T) == 4 && !Weighted) {
        add_pairs_of<S>(sums, stages, 0, plan.zero());
        __syncwarp();  // or ptxas would load the others early, and spill registers
        add_pairs_of<S>(sums, stages, 1, plan.zero());
      } else {
        stages.read(0, rows);
        if constexpr (Diagonal) {
          memcpy(columns, rows, sizeof(columns));
        } else {
          stages.read(S::kTiles * 2, columns);
        }
        add_pixels<S, Weighted>(sums, rows, columns, weights[0], plan.zero());
      }
#pragma unroll
      for (int i = 0; i < Stages::kAhead * 4; ++i) weights[i / 4][i % 4] = weights[i / 4 + 1][i % 4];
    }
    wait_for_copies<0>();
    __syncthreads();  // the sums take the place of the stages
  } else {
    const Cursor start = {0, begin.x};
    for (int first = warp * kStep; first < item.count; first += kRound) {
      const int own = first + quarter_of_lane() * 4, left = item.count - own;
      const Cursor at = start.after(features, own);
      float weights[4] = {};
      if constexpr (Weighted) {
        read_weights(weights_from, p.mask, at, left, weights);
        if (!any_weight(weights)) continue;
      }
      read_channels(features, image, row, at, left, rows);
      if constexpr (Diagonal) {
        memcpy(columns, rows, sizeof(columns));
      } else {
        read_channels(features, image, column, at, left, columns);
      }
      add_pixels<S, Weighted>(sums, rows, columns, weights, plan.zero());
    }
  }
  store_sums(sums, reinterpret_cast<float4*>(memory), partial);
}

// out = the sums of all splits, mirrored at the diagonal. blockIdx.x counts panels of matrices; a thread
// has the 4 sums of one lane.
template <typename T, int Channels, bool Diagonal>
__global__ void __launch_bounds__(kGramThreads)
    gram_reduce_kernel(const TensorView out, const GramPlan plan, const float4* partial) {
  using S = Panel<Channels, Diagonal>;
  constexpr unsigned kLanes = S::kUnits * kWarpThreads;
  const auto regions = static_cast<unsigned>(plan.regions);
  const auto panels = static_cast<unsigned>(plan.panels);
  const unsigned place = blockIdx.y * kGramThreads + threadIdx.x;
  const unsigned matrix = blockIdx.x / (regions * panels) * regions + blockIdx.x % regions;
  const Corner corner = corner_of<Channels, Diagonal>(blockIdx.x / regions % panels);
  const std::int64_t size = out.sizes[2];

  int tile = static_cast<int>(place) / kWarpThreads, group = 0;
  for (; tile >= S::tiles(group); ++group) tile -= S::tiles(group);
  const int top = corner.row + tile * 16 + group_of_lane();
  const int left = corner.column + group * kGroup + quarter_of_lane() * 2;
  if (place >= kLanes || left >= size || top > left + 1) return;  // belongs to another lane or to none

  const std::int64_t of_split = std::int64_t{regions * panels} * kLanes;
  const std::int64_t image = blockIdx.x / (regions * panels);
  const float4* from = partial + image * plan.splits * of_split +
                       std::int64_t{blockIdx.x % (regions * panels)} * kLanes + place;
  double sums[4] = {};
#pragma unroll 4
  for (int split = 0; split < static_cast<int>(plan.splits); ++split, from += of_split) {
    const float4 sum = *from;
    sums[0] += sum.x;
    sums[1] += sum.y;
    sums[2] += sum.z;
    sums[3] += sum.w;
  }
  T* to = static_cast<T*>(out.data) + matrix * size * size;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = top + i / 2 * kGroup, column = left + i % 2;
    if (row > column || column >= size) continue;
    const T sum = from_float<T>(static_cast<float>(sums[i]));
    to[row * size + column] = sum;
    to[column * size + row] = sum;
  }
}

// ---------------------------------------------------------------------------------------------
// conv_gram

// Floats are copied ahead; copies of half types would be narrower than any there is.
template <typename T, bool Weighted>
__global__ void __launch_bounds__(kGramThreads, 2)
    conv_gram_partial_kernel(const ConvGramParams p, const GramPlan plan, float4* partial) {
  using S = Panel<kLargest, true>;
  constexpr bool copied = sizeof(T) == 4;
  constexpr int sums_size = S::kUnits * kWarpThreads;  // in 16 bytes
  static_assert(TapStages::kMemory >= sums_size, "the sums take the place of the stages");
  __shared__ Filter filter;
  __shared__ uint4 memory[copied ? TapStages::kMemory : sums_size];
  const TensorView& images = p.images;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int column = group_of_lane() / 2 * 4 + group_of_lane() % 2;  // pixel of a half step
  filter.read(p);
  __syncthreads();
  const GramItem item(plan, images);
  const T* image = static_cast<const T*>(images.data) + item.image * images.strides[0];
  const float* weights_from = Weighted ? item.weights(p.mask) : nullptr;
  const std::int64_t width = max(images.sizes[3], std::int64_t{1});
  const Cursor start = {static_cast<int>(item.begin / width),
                        static_cast<int>(item.begin % width)};
  float sums[S::kUnits][4] = {};

  const auto weights_of = [&](int first, float (&weights)[4]) -> bool {
    const int own = first + quarter_of_lane() * 4;
    read_weights(weights_from, p.mask, start.after(images, own), item.count - own, weights);
    return any_weight(weights);
  };
  const auto add = [&](float (&features)[S::kGroups][4], const float (&weights)[4]) {
    if constexpr (Weighted) {
#pragma unroll
      for (int i = 0; i < S::kGroups * 4; ++i) {
        if (weights[i % 4] == 0) features[i / 4][i % 4] = 0;  // even if NaN
      }
    }
    add_step<S, Weighted, false>(sums, features, features, weights, plan.zero());
  };
  if constexpr (copied) {
    TapStages stages(reinterpret_cast<unsigned*>(memory), filter);
    int next = warp * kStep, steps[TapStages::kCount];
    float weights[TapStages::kCount][4] = {};
    Cursor here = start.after(images, next + column);
    const auto copy_step = [&](int& step, float (&step_weights)[4]) {
      const auto advance = [&] { next += kRound, here.skip(images, kRound); };
      if constexpr (Weighted) {
        while (next < item.count && !weights_of(next, step_weights)) advance();
      }
      step = next;
      if (next < item.count) {
        const int pixel = next + column;
        Cursor beside = here;
        beside.skip(images, 2);
        stages.copy({{image, images, here, pixel < item.count}, {image, images, beside, pixel + 2 < item.count}});
        advance();
      }
      commit_copies();
      stages.advance();
    };
#pragma unroll
    for (int i = 0; i < TapStages::kAhead; ++i) copy_step(steps[i], weights[i]);
    while (steps[0] < item.count) {
      copy_step(steps[TapStages::kAhead], weights[TapStages::kAhead]);
      wait_for_copies<TapStages::kAhead>();  // now the stage that is filled next holds a step
      const int left = item.count - steps[0] - column;
      float features[S::kGroups][4];
      convolve<false>(filter, [&](int half, int i) { return stages.tap(half, i, left > half * 2); }, features);
      add(features, weights[0]);
#pragma unroll
      for (int i = 0; i < TapStages::kAhead; ++i) {
        steps[i] = steps[i + 1];
        memcpy(weights[i], weights[i + 1], sizeof(weights[i]));
      }
    }
    wait_for_copies<0>();
    __syncthreads();
  } else {
    for (int first = warp * kStep; first < item.count; first += kRound) {
      float weights[4] = {};
      if (Weighted && !weights_of(first, weights)) continue;
      const int pixel = first + column;
      const Cursor here = start.after(images, pixel);
      const Centre<T> centres[2] = {
          {image, images, here, pixel < item.count},
          {image, images, here.after(images, 2), pixel + 2 < item.count},
      };
      const int lane = static_cast<int>(threadIdx.x) % 4;
      float features[S::kGroups][4];
      convolve<true>(filter, [&](int half, int i) { return centres[half].tap(filter, i * 4 + lane); }, features);
      add(features, weights);
    }
  }
  store_sums(sums, reinterpret_cast<float4*>(memory), partial);
}

// ---------------------------------------------------------------------------------------------
// Launches

GramPlan plan_for(const TensorView& maps, const TensorView& out, std::int64_t panels, int units,
                  std::int64_t most) {
  const std::int64_t pixels = maps.sizes[2] * maps.sizes[3];
  const std::int64_t rest = std::max<std::int64_t>(out.sizes[0] * out.sizes[1] * panels, 1);
  const std::int64_t fewest = std::max<std::int64_t>(ceil_div(pixels, most), 1);
  const std::int64_t splits = std::clamp(
      ceil_div(kBlocks, rest), fewest, std::max(ceil_div(pixels, kLeastPixels), fewest));
  const std::int64_t rounds = std::max<std::int64_t>(ceil_div(pixels, splits * kRound), 1);
  return {out.sizes[0], out.sizes[1], panels,
          std::max<std::int64_t>(ceil_div(pixels, rounds * kRound), 1),
          static_cast<int>(rounds * kRound), units};
}

// Whether H x W pixels are contiguous, so that they can be seen as one row.
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

// Whether the 32 bits of a Cursor suffice for all rows and columns, and a split more.
bool can_walk(const TensorView& maps) {
  constexpr std::int64_t most = std::numeric_limits<int>::max() - kMostExactPixels;
  return maps.sizes[2] <= most && maps.sizes[3] <= most;
}

bool holds(const TensorView& workspace, const GramPlan& plan) {
  return plan.items() <= std::numeric_limits<int>::max() && contiguous(workspace) &&
         workspace.dtype == DType::float32 &&
         element_count(workspace) >= plan.workspace_floats();
}

bool exact_products(const GramParams& p) {
  return p.features.dtype != DType::float32 && !p.mask.data;
}

template <int Channels, bool Diagonal>
GramPlan plan_for(const GramParams& p) {
  const std::int64_t side = ceil_div<std::int64_t>(p.out.sizes[2], Channels);
  return plan_for(p.features, p.out, Diagonal ? side : side * (side - 1),
                  Panel<Channels, Diagonal>::kUnits,
                  exact_products(p) ? kMostExactPixels : kMostPixels);
}

// Calls run(channels of a panel) with the smallest panel that does not increase their number.
template <typename Run>
auto with_channels(std::int64_t channels, Run&& run) {
  if (channels <= 16) return run(std::integral_constant<int, 16>{});
  if (channels <= 32) return run(std::integral_constant<int, 32>{});
  return run(std::integral_constant<int, kLargest>{});
}

template <typename T, int Channels, bool Diagonal>
cudaError_t reduce(const TensorView& out, const GramPlan& plan, const float4* partial,
                   cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(plan.items() / plan.splits),
                  static_cast<unsigned>(ceil_div(plan.units * kWarpThreads, kGramThreads)));
  FASTBG_LAUNCH((gram_reduce_kernel<T, Channels, Diagonal>), grid, dim3(kGramThreads), 0, stream,
                out, plan, partial);
  return cudaGetLastError();
}

template <typename T, int Channels, bool Diagonal>
cudaError_t sum_panels(const GramParams& p, const TensorView& workspace, cudaStream_t stream) {
  const GramPlan plan = plan_for<Channels, Diagonal>(p);
  if (!holds(workspace, plan)) return cudaErrorInvalidValue;
  float4* const partial = static_cast<float4*>(workspace.data);
  const dim3 grid(static_cast<unsigned>(plan.items()));
  const auto launch = [&](auto weighted, auto packed) {
    FASTBG_LAUNCH((gram_partial_kernel<T, decltype(weighted)::value, decltype(packed)::value, Channels, Diagonal>),
                  grid, dim3(kGramThreads), 0, stream, p, plan, partial);
  };
  const auto with_packed = [&](auto weighted) {
    if (packable(p.features, 4, sizeof(T))) {
      launch(weighted, std::true_type{});
    } else {
      launch(weighted, std::false_type{});
    }
  };
  if (p.mask.data) {
    with_packed(std::true_type{});
  } else {
    with_packed(std::false_type{});
  }
  return reduce<T, Channels, Diagonal>(p.out, plan, partial, stream);
}

GramPlan conv_plan(const ConvGramParams& p) {
  return plan_for(p.images, p.out, 1, Panel<kLargest, true>::kUnits, kMostPixels);
}

}  // namespace

std::int64_t gram_workspace(const GramParams& params) {
  return with_channels(params.out.sizes[2], [&](auto constant) {
    constexpr int channels = decltype(constant)::value;
    const std::int64_t on = plan_for<channels, true>(params).workspace_floats();
    if (params.out.sizes[2] <= channels) return on;
    return std::max(on, plan_for<kLargest, false>(params).workspace_floats());
  });
}

std::int64_t conv_gram_workspace(const ConvGramParams& params) {
  return conv_plan(params).workspace_floats();
}

cudaError_t launch_gram(const GramParams& params, const TensorView& workspace,
                        cudaStream_t stream) {
  if (element_count(params.out) == 0) return cudaSuccess;
  GramParams p = with_long_rows(params);
  if (p.features.sizes[1] == 1) p.features.strides[1] = 0;  // copies of no bytes need aligned addresses too
  if (p.features.sizes[2] > 1 && !can_walk(p.features)) return cudaErrorInvalidValue;
  return with_float_type(p.features.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    return with_channels(p.out.sizes[2], [&](auto constant) {
      constexpr int channels = decltype(constant)::value;
      const cudaError_t error = sum_panels<T, channels, true>(p, workspace, stream);
      if (error != cudaSuccess || p.out.sizes[2] <= channels) return error;
      return sum_panels<T, kLargest, false>(p, workspace, stream);
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
    const dim3 grid(static_cast<unsigned>(plan.items()));
    if (p.mask.data) {
      FASTBG_LAUNCH((conv_gram_partial_kernel<T, true>), grid, dim3(kGramThreads), 0, stream, p,
                    plan, partial);
    } else {
      FASTBG_LAUNCH((conv_gram_partial_kernel<T, false>), grid, dim3(kGramThreads), 0, stream, p,
                    plan, partial);
    }
    return reduce<T, kLargest, true>(p.out, plan, partial, stream);
  });
}

}  // namespace fastbg
