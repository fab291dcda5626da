// Sums of products over the pixels of a split, on tensor cores; shared by gram and conv_gram.
//
// Lane 4 g + t of a warp holds pixels 4t..4t+3 of a step of 16, of channel g of each group of 8.
// This is the layout of both operands of an mma: group n is the columns of B, groups 2r and 2r + 1
// are the rows of A. The order of pixels along K does not matter as long as it is the same in both
// operands, so 4 neighbours can be read by one load. Nothing goes through shared memory, and in a panel
// on the diagonal each value is read and rounded once for both operands.
#pragma once

#include "element.cuh"
#include "gram_params.h"
#include "launch.cuh"
#include "mma.cuh"

namespace fastbg {

constexpr int kWarps = 4, kWarpThreads = 32;
constexpr int kGramThreads = kWarps * kWarpThreads;
constexpr int kGroup = 8;  // channels
constexpr int kStep = 16;  // pixels
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// A panel of the matrix, in units of 16 rows x 8 columns (one mma). A panel on the diagonal is a square
// of which only units on or above the diagonal are summed: row tile r with column groups from 2r on, 20
// units of 32 for 64 channels. Other panels have half as many columns, so that registers do not spill.
template <int Channels, bool Diagonal>
struct Panel {
  static constexpr bool kOnDiagonal = Diagonal;
  static constexpr int kTiles = Channels / 16;                           // of rows
  static constexpr int kGroups = Channels / kGroup / (Diagonal ? 1 : 2);  // of columns
  static constexpr int kUnits = Diagonal ? kTiles * (kTiles + 1) : kTiles * kGroups;

  // Units of column group `n` have row tiles 0 .. tiles(n) - 1.
  static constexpr __host__ __device__ int tiles(int n) { return Diagonal ? n / 2 + 1 : kTiles; }
};

// How a sum over pixels is split, a block per item. It depends only on the shapes, so that results have
// the same bits on every GPU.
struct GramPlan {
  std::int64_t images, regions, panels, splits;
  int split_pixels;  // whole steps for every warp
  int units;         // of a panel

  // 0, which compilers cannot know.
  __device__ unsigned zero() const { return static_cast<unsigned>(units) >> 31; }

  std::int64_t items() const { return images * splits * panels * regions; }
  std::int64_t workspace_floats() const { return items() * units * kWarpThreads * 4; }
};

// The item of this block. Regions and panels that read the same pixels run at the same time.
struct GramItem {
  unsigned image, panel, region;
  std::int64_t begin;
  int count;  // pixels

  __device__ GramItem(const GramPlan& plan, const TensorView& maps) {
    const auto regions = static_cast<unsigned>(plan.regions);
    const auto panels = static_cast<unsigned>(plan.panels);
    const auto splits = static_cast<unsigned>(plan.splits);
    region = blockIdx.x % regions;
    panel = blockIdx.x / regions % panels;
    image = blockIdx.x / regions / panels / splits;
    begin = std::int64_t{blockIdx.x / regions / panels % splits} * plan.split_pixels;
    const std::int64_t left = maps.sizes[2] * maps.sizes[3] - begin;
    count = left < plan.split_pixels ? static_cast<int>(left) : plan.split_pixels;
  }

  __device__ const float* weights(const TensorView& mask) const {
    return static_cast<const float*>(mask.data) + image * mask.strides[0] +
           region * mask.strides[1];
  }
};

__device__ inline int group_of_lane() { return static_cast<int>(threadIdx.x) % kWarpThreads / 4; }
__device__ inline int quarter_of_lane() { return static_cast<int>(threadIdx.x) % 4; }

// A position that advances through an image, row after row; can_walk() tells whether `int` is enough.
struct Cursor {
  int y, x;

  __device__ Cursor after(const TensorView& image, int pixels) const {
    if (image.sizes[2] <= 1) return {y, x + pixels};
    const unsigned at = static_cast<unsigned>(x) + static_cast<unsigned>(pixels);
    const unsigned width = max(static_cast<unsigned>(image.sizes[3]), 1u), rows = at / width;
    return {y + static_cast<int>(rows), static_cast<int>(at - rows * width)};
  }

  __device__ void advance(const TensorView& image) {
    if (++x == image.sizes[3]) x = 0, ++y;
  }

  // The same from here, for a few rows at most: without a division.
  __device__ void skip(const TensorView& image, int pixels) {
    x += pixels;
    if (image.sizes[2] <= 1) return;
    const int width = static_cast<int>(image.sizes[3]);
    for (; x >= width; ++y) x -= width;
  }

  // Offset in `view`, which has the same rows and columns.
  __device__ std::int64_t offset(const TensorView& view) const {
    return y * view.strides[2] + x * view.strides[3];
  }
};

// Weights of 4 neighbours, of which the first `left` exist; whether any of the warp's is not 0.
__device__ inline void read_weights(const float* from, const TensorView& mask, Cursor at, int left,
                                    float (&weights)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i, at.advance(mask)) {
    weights[i] = i < left ? from[at.offset(mask)] : 0.0f;
  }
}

__device__ inline bool any_weight(const float (&weights)[4]) {
  const bool own = weights[0] != 0 || weights[1] != 0 || weights[2] != 0 || weights[3] != 0;
  return __any_sync(kAllLanes, own);  // NaN counts as not 0
}

// sums += rows columns^T over half a step, pairs of pixels. Each product of floats is three products of TF32; the
// product of the low parts is left out, as it is below 2^-22 of the result. `Exact` columns have no low parts. On the
// diagonal `columns` are `rows`. An operand's registers are neighbours; `zero` makes ptxas copy what belongs to two
// operands once. Otherwise it copies one of them before almost every product.
template <class Panel, bool Weighted, bool Exact>
__device__ inline void add_pairs(float (&sums)[Panel::kUnits][4], const float (&rows)[Panel::kTiles * 2][2],
                                 const float (&columns)[Panel::kGroups][2], const float (&weights)[2],
                                 unsigned zero) {
  unsigned high[Panel::kTiles][4], low[Panel::kTiles][4];
#pragma unroll
  for (int i = 0; i < Panel::kTiles * 4; ++i) {
    float value = rows[i / 2][i % 2];
    if constexpr (Weighted) value *= weights[i % 2];
    const Parts parts = parts_of(value);
    high[i / 4][i / 2 % 2 + i % 2 * 2] = parts.high;
    low[i / 4][i / 2 % 2 + i % 2 * 2] = parts.low;
  }
  int unit = 0;
#pragma unroll
  for (int n = 0; n < Panel::kGroups; ++n) {
    unsigned column_high[2], column_low[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if constexpr (Panel::kOnDiagonal && !Weighted) {
        column_high[i] = high[n / 2][n % 2 + i * 2] ^ zero;
        column_low[i] = low[n / 2][n % 2 + i * 2] ^ zero;
      } else if constexpr (Exact) {
        column_high[i] = __float_as_uint(columns[n][i]);
      } else {
        const Parts parts = parts_of(columns[n][i]);
        column_high[i] = parts.high;
        column_low[i] = parts.low;
      }
    }
    // Small products first, in three rounds, so that no mma waits for the previous one.
#pragma unroll
    for (int r = 0; r < Panel::tiles(n); ++r) mma_tf32(sums[unit + r], low[r], column_high);
    if constexpr (!Exact) {
#pragma unroll
      for (int r = 0; r < Panel::tiles(n); ++r) mma_tf32(sums[unit + r], high[r], column_low);
    }
#pragma unroll
    for (int r = 0; r < Panel::tiles(n); ++r) mma_tf32(sums[unit + r], high[r], column_high);
    unit += Panel::tiles(n);
  }
}

// The same over one step.
template <class Panel, bool Weighted, bool Exact>
__device__ inline void add_step(float (&sums)[Panel::kUnits][4],
                                const float (&rows)[Panel::kTiles * 2][4],
                                const float (&columns)[Panel::kGroups][4],
                                const float (&weights)[4], unsigned zero) {
#pragma unroll
  for (int k = 0; k < 4; k += 2) {
    float row_pairs[Panel::kTiles * 2][2], column_pairs[Panel::kGroups][2];
    const float weight_pair[2] = {weights[k], weights[k + 1]};
#pragma unroll
    for (int i = 0; i < Panel::kTiles * 4; ++i) row_pairs[i / 2][i % 2] = rows[i / 2][k + i % 2];
#pragma unroll
    for (int i = 0; i < Panel::kGroups * 2; ++i) column_pairs[i / 2][i % 2] = columns[i / 2][k + i % 2];
    add_pairs<Panel, Weighted, Exact>(sums, row_pairs, column_pairs, weight_pair, zero);
  }
}

// The same for half types without weights, whose products are exact.
template <class Panel, typename Half>
__device__ inline void add_half_step(float (&sums)[Panel::kUnits][4],
                                     const Pack<Half, 4> (&rows)[Panel::kTiles * 2],
                                     const Pack<Half, 4> (&columns)[Panel::kGroups]) {
  int unit = 0;
#pragma unroll
  for (int n = 0; n < Panel::kGroups; ++n) {
    unsigned column[2];
    memcpy(column, columns[n].at, sizeof(column));
#pragma unroll
    for (int r = 0; r < Panel::tiles(n); ++r, ++unit) {
      unsigned even[2], odd[2];
      memcpy(even, rows[2 * r].at, sizeof(even));
      memcpy(odd, rows[2 * r + 1].at, sizeof(odd));
      mma_half<Half>(sums[unit], {even[0], odd[0], even[1], odd[1]}, column);
    }
  }
}

// Adds the sums of the block's warps, in order, and stores them as units of 32 lanes. `total` is shared
// memory of the same size.
template <int Units>
__device__ inline void store_sums(const float (&sums)[Units][4], float4* total, float4* partial) {
  float4* const to = partial + std::int64_t{blockIdx.x} * Units * kWarpThreads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  for (int turn = 0; turn < kWarps; ++turn) {
    if (turn > 0) __syncthreads();
    if (warp != turn) continue;
#pragma unroll
    for (int u = 0; u < Units; ++u) {
      const int at = u * kWarpThreads + lane;
      const float4 before = turn > 0 ? total[at] : make_float4(0, 0, 0, 0);
      const float4 sum = make_float4(before.x + sums[u][0], before.y + sums[u][1],
                                     before.z + sums[u][2], before.w + sums[u][3]);
      if (turn < kWarps - 1) {
        total[at] = sum;
      } else {
        to[at] = sum;
      }
    }
  }
}

}  // namespace fastbg
