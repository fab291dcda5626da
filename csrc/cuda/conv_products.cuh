// The products of a block of conv.cu and conv_stack.cu, what it reads of other maps, and what it writes.
//
// float32 is three products of TF32: of the high parts, and of each high part with the other's low part. Values
// are split in registers: weights that are split in memory would be twice as many bytes for each block. Tensor
// cores truncate instead of rounding, so that long sums drift: the sums of each row of taps are added, and rounded,
// by other instructions (without this, 180 channels had an error of 6e-6 of the largest result).
#pragma once

#include "conv_tile.cuh"
#include "mma.cuh"

namespace fastbg {

// Sums of a warp, by tile of channels and group of pixels.
template <int N>
struct Sums {
  static constexpr int kCount = Warps<N>::kOwn * Warps<N>::kGroups;
  float at[kCount][4];

  __device__ float (&of(int tile, int group))[4] { return at[tile * Warps<N>::kGroups + group]; }
  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kCount * 4; ++i) at[i / 4][i % 4] = 0;
  }
  __device__ void add(const Sums& other) {
#pragma unroll
    for (int i = 0; i < kCount * 4; ++i) at[i / 4][i % 4] += other.at[i / 4][i % 4];
  }
};

// One operand as tensor cores take it, and the rest of it that TF32 cannot hold. `Finite`: an infinity in it
// makes NaNs, as weights' may, which no network has; those of pixels stay infinite.
template <typename T, bool Split, int Words, bool Finite>
struct Operand {
  unsigned high[Words], low[Split ? Words : 1];

  __device__ void set(int i, unsigned bits) {
    if constexpr (Split) {
      const float value = __uint_as_float(bits);
      const Parts parts = Finite ? cut_parts_of(value) : cut_parts_of_any(value);
      high[i] = parts.high;
      low[i] = parts.low;
    } else {
      high[i] = bits;
    }
  }
};

template <typename T>
__device__ inline void multiply(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  if constexpr (sizeof(T) == 4) {
    mma_tf32(sum, a, b);
  } else {
    mma_half<T>(sum, a, b);
  }
}

// Adds the products of one row of taps and one chunk. `pixels`: the lane's part of the first pixel of the
// warp's first row, moved by the taps' row; `weights`: the lane's part of the warp's first tile.
template <typename T, bool Split, int N>
__device__ inline void add_taps(const uint4* pixels, const uint4* weights, Sums<N>& total) {
  using W = Warps<N>;
  Sums<N> sums = total;
  if constexpr (Split) sums.clear();
#pragma unroll
  for (int tap = 0; tap < 3; ++tap) {
    uint4 read[W::kGroups];
#pragma unroll
    for (int group = 0; group < W::kGroups; ++group) {
      read[group] = pixels[(group / 2 * kHaloColumns + group % 2 * 8 + tap) * kPieces];
    }
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      Operand<T, Split, 4, true> rows[W::kOwn];
      Operand<T, Split, 2, false> columns[W::kGroups];
#pragma unroll
      for (int tile = 0; tile < W::kOwn; ++tile) {
        const uint4 weight = weights[((tap * kSteps + step) * W::kTiles + tile) * 32];
        const unsigned words[4] = {weight.x, weight.y, weight.z, weight.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) rows[tile].set(i, words[i]);
      }
#pragma unroll
      for (int group = 0; group < W::kGroups; ++group) {
        unsigned words[2] = {step ? read[group].z : read[group].x, step ? read[group].w : read[group].y};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if constexpr (sizeof(T) == 4 && !Split) words[i] = round_to_tf32(__uint_as_float(words[i]));
          columns[group].set(i, words[i]);
        }
      }
      // Small products first, in rounds, so that no product waits for the previous one.
#pragma unroll
      for (int i = 0; i < W::kOwn * W::kGroups * (Split ? 3 : 1); ++i) {
        const int tile = i % W::kOwn, group = i / W::kOwn % W::kGroups;
        const int round = Split ? i / (W::kOwn * W::kGroups) : 2;
        if constexpr (Split) {
          multiply<T>(sums.of(tile, group), round == 0 ? rows[tile].low : rows[tile].high,
                      round == 1 ? columns[group].low : columns[group].high);
        } else {
          multiply<T>(sums.of(tile, group), rows[tile].high, columns[group].high);
        }
      }
    }
  }
  if constexpr (Split) {
    total.add(sums);
  } else {
    total = sums;
  }
}

// All products of a block: the sums of its pixels and channels. `pixels` and `weights` are shared memory, which
// nobody reads any more afterwards. `WeightsFirst`: the first copies of weights start before those of pixels; of
// both orders, one makes ptxas spill registers of conv3x3_kernel on sm_80, and the other those of stack_layer_kernel.
template <typename T, bool Split, bool Packed, bool WeightsFirst, int N>
__device__ inline void convolve_block(const TensorView& x, const void* factors, const ConvShape& shape,
                                      uint4 (&pixels)[2][kHalo * kPieces],
                                      uint4 (&weights)[2][Warps<N>::kRowOfTaps], Sums<N>& sums) {
  using W = Warps<N>;
  const ConvBlock block(shape, blockIdx.x);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const uint4* next = static_cast<const uint4*>(factors) +
                      (std::int64_t{block.place} * shape.blocks + block.first) * shape.chunks * 3 * W::kRowOfTaps;
  if constexpr (WeightsFirst) read_weights<N>(next, weights[0]);
  const Pixels<T, Packed> source(static_cast<const T*>(x.data) + block.image * x.strides[0], x, shape, block);
  Chunk chunk;
  const int own_pixel = (warp / W::kParts * W::kRows * kHaloColumns + lane / 4) * kPieces + lane % 4;
  const int own_weight = warp % W::kParts * W::kOwn * 32 + lane;
  sums.clear();

  if constexpr (!WeightsFirst) read_weights<N>(next, weights[0]);
  source.read(shape, chunk, pixels[0]);
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();
  int buffer = 0;
  for (int i = 0; i < shape.chunks; ++i) {
    const bool last = i + 1 == shape.chunks;
    if (!last) {
      chunk.advance<T>(shape, x);
      source.read(shape, chunk, pixels[(i + 1) % 2]);
    }
#pragma unroll 1
    for (int row = 0; row < 3; ++row) {
      if (row < 2 || !last) {
        next += W::kRowOfTaps;
        read_weights<N>(next, weights[buffer ^ 1]);
      }
      commit_copies();
      add_taps<T, Split, N>(pixels[i % 2] + own_pixel + row * kHaloColumns * kPieces,
                            weights[buffer] + own_weight, sums);
      buffer ^= 1;
      wait_for_copies<0>();
      __syncthreads();  // also: nobody reads any more what is overwritten next
    }
  }
}

// The channels and pixels of a lane: `kLane` neighbouring channels, of which `left` exist, of pixels (down, right)
// from its first one. Found again after the products, so that it occupies no registers meanwhile.
template <int N>
struct LaneChannels {
  using W = Warps<N>;
  ConvBlock block;
  int warp, channel, left, top, first;

  __device__ explicit LaneChannels(const ConvShape& shape) : block(shape, hidden(blockIdx.x)) {
    const int thread = static_cast<int>(hidden(threadIdx.x)), lane = thread % 32;
    warp = thread / 32;
    channel = block.first * N + warp % W::kParts * W::kOwn * 16 + lane / 4 * W::kLane;
    left = shape.outputs - channel;
    top = block.top + warp / W::kParts * W::kRows;
    first = block.left + lane % 4 * 2;
  }

  __device__ bool has(const ConvShape& shape, int down, int right) const {
    return top + down < shape.height && first + right < shape.width;
  }

  // Of the first channel and pixel in a map of the result's shape, in elements.
  __device__ std::int64_t position(const TensorView& view, const ConvShape& shape) const {
    const int y = block.place / shape.written, x = block.place % shape.written;
    return block.image * view.strides[0] + channel * view.strides[1] +
           (std::int64_t{top} * shape.written + y) * view.strides[2] +
           (std::int64_t{first} * shape.written + x) * view.strides[3];
  }

  // Zeros without a bias.
  __device__ void read_bias(const TensorView& bias, const ConvShape& shape, float (&values)[W::kLane]) const {
#pragma unroll
    for (int i = 0; i < W::kLane; ++i) values[i] = 0;
    if (!bias.data) return;
    const float* offsets = static_cast<const float*>(bias.data) + block.place;
#pragma unroll
    for (int i = 0; i < W::kLane; ++i) {
      if (i < left) values[i] = offsets[std::int64_t{channel + i} * shape.written * shape.written];
    }
  }

 private:
  static __device__ unsigned hidden(unsigned value) {
    int known = static_cast<int>(value);
    forget(known);
    return static_cast<unsigned>(known);
  }
};

// From a pixel to another one in a map of the result's shape, in elements.
__device__ inline std::int64_t offset(const TensorView& view, const ConvShape& shape, int down, int right) {
  return down * shape.written * view.strides[2] + right * shape.written * view.strides[3];
}

// A lane's channels of one pixel; `wide`: at once.
template <typename T, int Count>
__device__ inline void read_lane(const T* at, std::int64_t stride, int left, bool wide, float (&values)[Count]) {
  Pack<T, Count> pack = {};
  if (wide) {
    pack = load<T, Count>(at);
  } else {
#pragma unroll
    for (int i = 0; i < Count; ++i) {
      if (i < left) pack.at[i] = at[i * stride];
    }
  }
#pragma unroll
  for (int i = 0; i < Count; ++i) values[i] = to_float(pack.at[i]);
}

template <typename T, int Count>
__device__ inline void write_lane(T* at, std::int64_t stride, int left, bool wide, const float (&values)[Count]) {
  Pack<T, Count> pack;
#pragma unroll
  for (int i = 0; i < Count; ++i) pack.at[i] = from_float<T>(values[i]);
  if (wide) {
    store<true>(at, pack);
  } else {
#pragma unroll
    for (int i = 0; i < Count; ++i) {
      if (i < left) at[i * stride] = pack.at[i];
    }
  }
}

template <typename Run>
cudaError_t with_bool(bool value, Run&& run) {
  return value ? run(std::true_type{}) : run(std::false_type{});
}

}  // namespace fastbg
