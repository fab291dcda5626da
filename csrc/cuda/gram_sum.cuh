// What gram and conv_gram share: sums of products over a split's pixels, on tensor cores.
//
// Lane 4 g + t of a warp holds pixels 4t..4t+3 of a step of 16, of channel g of each group of 8. That
// is how an mma wants both of its operands: group n is the columns of B, groups 2r and 2r + 1 are
// the rows of A. Which pixel stands at which place of K does not matter, as long as it is the same
// in both; so 4 neighbours, one load, are as good as any. Nothing goes through shared memory, and
// of a block on the diagonal each value is read and rounded once for both operands.
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

// A square of the matrix, in units of 16 rows x 8 columns (one mma). Of a square on the diagonal only
// units that reach above it: rows r with columns 2r and up, 20 of 32 for 64 channels.
template <int Channels, bool Diagonal>
struct Square {
  static constexpr int kGroups = Channels / kGroup;
  static constexpr int kTiles = kGroups / 2;
  static constexpr int kUnits = Diagonal ? kTiles * (kTiles + 1) : kTiles * kGroups;
  static constexpr bool kOnDiagonal = Diagonal;

  // Units of column group `n` have row tiles 0 .. tiles(n) - 1.
  static constexpr __host__ __device__ int tiles(int n) { return Diagonal ? n / 2 + 1 : kTiles; }
};

// How a sum over pixels is cut, by the shapes alone: the same bits on every GPU.
struct GramPlan {
  std::int64_t images, regions, squares, splits;
  std::int64_t split_pixels;  // whole steps for every warp
  int units;                  // of a square

  __host__ __device__ std::int64_t items() const { return images * splits * squares * regions; }
  std::int64_t workspace_floats() const { return items() * units * kWarpThreads * 4; }
};

// One block's part. Regions and squares that read the same pixels run at the same time.
struct GramItem {
  std::int64_t image, split, square, region, begin;
  int count;  // pixels

  __device__ GramItem(const GramPlan& plan, std::int64_t index, std::int64_t pixels) {
    region = index % plan.regions;
    index /= plan.regions;
    square = index % plan.squares;
    index /= plan.squares;
    split = index % plan.splits;
    image = index / plan.splits;
    begin = split * plan.split_pixels;
    count = static_cast<int>(min(plan.split_pixels, max(pixels - begin, std::int64_t{0})));
  }
};

// A pixel on its way through an image, row after row.
struct Cursor {
  std::int64_t y, x, width;

  __device__ Cursor(std::int64_t pixel, const TensorView& image) {
    width = max(image.sizes[3], std::int64_t{1});
    y = image.sizes[2] == 1 ? 0 : pixel / width;
    x = pixel - y * width;
  }

  __device__ Cursor after(const TensorView& image, int pixels) const {
    Cursor next = *this;
    if (image.sizes[2] == 1) {
      next.x += pixels;
    } else {  // widths are below 2^31, see can_walk()
      const unsigned at = static_cast<unsigned>(x) + static_cast<unsigned>(pixels);
      const unsigned rows = at / static_cast<unsigned>(width);
      next.y += rows;
      next.x = at - rows * static_cast<unsigned>(width);
    }
    return next;
  }

  __device__ void advance() {
    if (++x == width) x = 0, ++y;
  }

  __device__ std::int64_t offset(const TensorView& view) const {
    return y * view.strides[2] + x * view.strides[3];
  }
};

// Weights of 4 neighbours, of which the first `left` count.
__device__ inline void read_weights(const TensorView& mask, const GramItem& item, Cursor at,
                                    int left, float (&weights)[4]) {
  const float* from = static_cast<const float*>(mask.data) + item.image * mask.strides[0] +
                      item.region * mask.strides[1];
#pragma unroll
  for (int i = 0; i < 4; ++i, at.advance()) weights[i] = i < left ? from[at.offset(mask)] : 0.0f;
}

__device__ inline bool any_weight(const float (&weights)[4]) {
  const bool own = weights[0] != 0 || weights[1] != 0 || weights[2] != 0 || weights[3] != 0;
  return __any_sync(kAllLanes, own);  // not-a-number counts
}

// sums += rows columns^T over one step, each product of floats as three of TF32: what both low parts
// make is below 2^-22 of it. `Exact` columns have no low parts. `rows` and `columns` may be one.
template <class Square, bool Weighted, bool Exact>
__device__ inline void add_step(float (&sums)[Square::kUnits][4],
                                const float (&rows)[Square::kGroups][4],
                                const float (&columns)[Square::kGroups][4],
                                const float (&weights)[4]) {
  constexpr int kGroups = Square::kGroups, kTiles = Square::kTiles;
#pragma unroll
  for (int k = 0; k < 4; k += 2) {
    unsigned high[kTiles][4], low[kTiles][4];
#pragma unroll
    for (int i = 0; i < kGroups * 2; ++i) {
      const float value = rows[i / 2][k + i % 2];
      const Parts parts = parts_of(Weighted ? value * weights[k + i % 2] : value);
      high[i / 4][i / 2 % 2 + i % 2 * 2] = parts.high;
      low[i / 4][i / 2 % 2 + i % 2 * 2] = parts.low;
    }
    int unit = 0;
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
      unsigned column_high[2], column_low[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if constexpr (Square::kOnDiagonal && !Weighted) {
          column_high[i] = high[n / 2][n % 2 + i * 2];
          column_low[i] = low[n / 2][n % 2 + i * 2];
        } else if constexpr (Exact) {
          column_high[i] = __float_as_uint(columns[n][k + i]);
        } else {
          const Parts parts = parts_of(columns[n][k + i]);
          column_high[i] = parts.high;
          column_low[i] = parts.low;
        }
      }
      // The small products first; three rounds, so that no mma waits for the one before it.
#pragma unroll
      for (int r = 0; r < Square::tiles(n); ++r) mma_tf32(sums[unit + r], low[r], column_high);
      if constexpr (!Exact) {
#pragma unroll
        for (int r = 0; r < Square::tiles(n); ++r) mma_tf32(sums[unit + r], high[r], column_low);
      }
#pragma unroll
      for (int r = 0; r < Square::tiles(n); ++r) mma_tf32(sums[unit + r], high[r], column_high);
      unit += Square::tiles(n);
    }
  }
}

// The same of half types without weights: their products are exact.
template <class Square, typename Half>
__device__ inline void add_half_step(float (&sums)[Square::kUnits][4],
                                     const Pack<Half, 4> (&rows)[Square::kGroups],
                                     const Pack<Half, 4> (&columns)[Square::kGroups]) {
  int unit = 0;
#pragma unroll
  for (int n = 0; n < Square::kGroups; ++n) {
    unsigned column[2];
    memcpy(column, columns[n].at, sizeof(column));
#pragma unroll
    for (int r = 0; r < Square::tiles(n); ++r, ++unit) {
      unsigned even[2], odd[2];
      memcpy(even, rows[2 * r].at, sizeof(even));
      memcpy(odd, rows[2 * r + 1].at, sizeof(odd));
      mma_half<Half>(sums[unit], {even[0], odd[0], even[1], odd[1]}, column);
    }
  }
}

// Adds up the sums of a block's warps, in order, and stores them as units of 32 lanes.
template <int Units>
__device__ inline void store_sums(const float (&sums)[Units][4], float4* to) {
  __shared__ float4 total[Units * kWarpThreads];
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  for (int turn = 0; turn < kWarps; ++turn) {
    __syncthreads();
    if (warp != turn) continue;
#pragma unroll
    for (int u = 0; u < Units; ++u) {
      float4 sum = make_float4(sums[u][0], sums[u][1], sums[u][2], sums[u][3]);
      const int at = u * kWarpThreads + lane;
      if (turn > 0) {
        const float4 before = total[at];
        sum = make_float4(before.x + sum.x, before.y + sum.y, before.z + sum.z, before.w + sum.w);
      }
      (turn < kWarps - 1 ? total : to)[at] = sum;
    }
  }
}

}  // namespace fastbg
