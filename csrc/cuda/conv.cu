// 3x3 convolution and its input gradient, with bias, ReLU, residual sum and pixel shuffle, as an implicit
// matrix product on tensor cores (mma.sync): channels are the rows, pixels the columns.
//
// A block keeps its tile of pixels with a border of one in shared memory, so that each pixel is read from L2
// 1.4 times, not once for each of nine taps. While it computes a row of three taps, the weights of the next
// row and the pixels of the next chunk of channels are being copied (conv_tile.cuh). A warp has 32 channels x 32
// pixels: each value out of shared memory is used 32 times.
//
// float32 is three products of TF32: of the high parts, and of each high part with the other's low part. Values
// are split in registers: weights that are split in memory would be twice as many bytes for each block. Tensor
// cores truncate instead of rounding, so that long sums drift: the sums of each row of taps are added, and rounded,
// by other instructions (without this, 180 channels had an error of 6e-6 of the largest result).
#include "conv.h"

#include "conv_tile.cuh"
#include "mma.cuh"

namespace fastbg {
namespace {

// ---------------------------------------------------------------------------------------------
// Packing weights: packed[place written][block][chunk][tap][step][tile][lane][4 words]

template <typename T, bool Rounded>
__global__ void __launch_bounds__(kConvThreads)
    conv3x3_pack_kernel(const ConvPackParams p, const ConvShape shape, const std::int64_t count) {
  constexpr int kWord = 4 / sizeof(T);  // elements
  const TensorView& weight = p.weight;
  const std::int64_t all = std::int64_t{gridDim.x} * kConvThreads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kConvThreads + threadIdx.x; i < count; i += all) {
    std::int64_t rest = i;
    const auto take = [&](int of) {
      const int taken = static_cast<int>(rest % of);
      rest /= of;
      return taken;
    };
    const int element = take(kWord), word = take(4), lane = take(32), tile = take(shape.channels() / 16);
    const int step = take(kSteps), tap = take(9);
    const int chunk = take(shape.chunks / (shape.read * shape.read));
    const int corner = take(shape.read * shape.read), block = take(shape.blocks);
    const int place = static_cast<int>(rest);
    // A lane has rows g and g + 8 of its warp's tiles, which are neighbouring channels.
    const int own = shape.channels() == kWide ? Warps<kWide>::kOwn : Warps<kNarrow>::kOwn;
    const int in_group = lane / 4 * 2 * own + tile % own * 2 + word % 2;
    const int output = block * shape.channels() + tile / own * own * 16 + in_group;
    const int input = chunk * kChunk<T> + lane % 4 * kPackOf<T> + (step * 2 + word / 2) * kWord + element;
    T value = from_float<T>(0.0f);
    if (output < shape.outputs && input < shape.inputs) {
      const std::int64_t o = std::int64_t{output} * shape.written * shape.written + place;
      const std::int64_t c = std::int64_t{input} * shape.read * shape.read + corner;
      const int y = p.transposed ? 2 - tap / 3 : tap / 3, x = p.transposed ? 2 - tap % 3 : tap % 3;
      value = static_cast<const T*>(weight.data)[(p.transposed ? c : o) * weight.strides[0] +
                                                 (p.transposed ? o : c) * weight.strides[1] +
                                                 y * weight.strides[2] + x * weight.strides[3]];
    }
    if constexpr (Rounded) value = __uint_as_float(round_to_tf32(value) & 0xFFFFE000u);
    static_cast<T*>(p.packed.data)[i] = value;
  }
}

// ---------------------------------------------------------------------------------------------
// Products

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

// ---------------------------------------------------------------------------------------------
// What follows the products

// Whether the channels that a lane has of a pixel can be read and written at once.
struct Wide {
  bool residual, out;
};

// Some channels of one pixel of a map, of which `left` exist.
template <typename T, int Count>
__device__ inline void add_residual(const T* at, std::int64_t stride, int left, bool wide, float scale,
                                    float (&values)[Count]) {
  Pack<T, Count> read = {};
  if (wide) {
    read = load<T, Count>(at);
  } else {
#pragma unroll
    for (int i = 0; i < Count; ++i) {
      if (i < left) read.at[i] = at[i * stride];
    }
  }
#pragma unroll
  for (int i = 0; i < Count; ++i) values[i] = to_float(read.at[i]) + scale * values[i];
}

template <typename T, int Count>
__device__ inline void write(T* at, std::int64_t stride, int left, bool wide, const float (&values)[Count]) {
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

// Bias, ReLU, residual sum, and the only store.
template <typename T, int N>
__device__ inline void finish(const ConvParams& p, const ConvShape& shape, const Wide& wide, Sums<N>& sums) {
  using W = Warps<N>;
  const TensorView &out = p.out.view, &residual = p.residual.view;
  int index = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  forget(index);
  forget(thread);
  const ConvBlock block(shape, static_cast<unsigned>(index));
  const int lane = thread % 32, warp = thread / 32, written = shape.written;
  const int channel = block.first * N + warp % W::kParts * W::kOwn * 16 + lane / 4 * W::kLane;
  const int left = shape.outputs - channel;
  if (left <= 0) return;
  float bias[W::kLane] = {};
  if (p.bias.data) {
    const float* offsets = static_cast<const float*>(p.bias.data) + block.place;
#pragma unroll
    for (int i = 0; i < W::kLane; ++i) {
      if (i < left) bias[i] = offsets[std::int64_t{channel + i} * written * written];
    }
  }
  const int top = block.top + warp / W::kParts * W::kRows, first = block.left + lane % 4 * 2;
  const auto position = [&](const TensorView& view) {  // of the lane's first channel and pixel
    const int y = block.place / written, x = block.place % written;
    return block.image * view.strides[0] + channel * view.strides[1] +
           (std::int64_t{top} * written + y) * view.strides[2] +
           (std::int64_t{first} * written + x) * view.strides[3];
  };
  T* to = static_cast<T*>(out.data) + position(out);
  const T* from = residual.data ? static_cast<const T*>(residual.data) + position(residual) : nullptr;
#pragma unroll
  for (int i = 0; i < W::kGroups * 2; ++i) {
    const int group = i / 2, down = group / 2, right = group % 2 * 8 + i % 2;
    if (top + down >= shape.height || first + right >= shape.width) continue;
    float values[W::kLane];
#pragma unroll
    for (int j = 0; j < W::kLane; ++j) {
      const float sum = sums.of(j / 2, group)[j % 2 * 2 + i % 2] + bias[j];
      values[j] = p.relu && sum < 0 ? 0 : sum;  // keeps NaN
    }
    const auto beside = [&](const TensorView& view) {
      return down * written * view.strides[2] + right * written * view.strides[3];
    };
    if (from) {
      const T* at = from + beside(residual);
      add_residual<T, W::kLane>(at, residual.strides[1], left, wide.residual, p.residual_scale, values);
    }
    write<T, W::kLane>(to + beside(out), out.strides[1], left, wide.out, values);
  }
}

// Four blocks on a multiprocessor where few channels are read singly: by itself, ptxas takes one register too
// many for that on sm_90.
template <typename T, bool Split, bool Packed, int N>
__global__ void __launch_bounds__(kConvThreads, N == kWide || Packed ? 2 : 4)
    conv3x3_kernel(const ConvParams p, const ConvShape shape, const Wide wide) {
  using W = Warps<N>;
  __shared__ uint4 pixels[2][kHalo * kPieces];
  __shared__ uint4 weights[2][W::kRowOfTaps];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const ConvBlock block(shape, blockIdx.x);
  const TensorView& x = p.x.view;
  const Pixels<T, Packed> source(static_cast<const T*>(x.data) + block.image * x.strides[0], x, shape, block);
  Chunk chunk;
  const uint4* next = static_cast<const uint4*>(p.factors.data) +
                      (std::int64_t{block.place} * shape.blocks + block.first) * shape.chunks * 3 * W::kRowOfTaps;
  const int own_pixel = (warp / W::kParts * W::kRows * kHaloColumns + lane / 4) * kPieces + lane % 4;
  const int own_weight = warp % W::kParts * W::kOwn * 32 + lane;
  Sums<N> sums;
  sums.clear();

  read_weights<N>(next, weights[0]);
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
  finish<T, N>(p, shape, wide, sums);
}

// ---------------------------------------------------------------------------------------------
// Launches

std::size_t bytes_of(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

ConvShape shape_of(const ConvPackParams& p) {
  const std::int64_t places = p.upscale * p.upscale, outputs = p.weight.sizes[0] / places;
  const std::size_t bytes = bytes_of(p.weight.dtype);
  if (p.transposed) return {outputs, p.weight.sizes[1], p.upscale, 1, bytes};
  return {p.weight.sizes[1], outputs, 1, p.upscale, bytes};
}

ConvShape shape_of(const ConvParams& p) {
  return {p.x.view.sizes[1], p.out.view.sizes[1], p.x.upscale, p.out.upscale, bytes_of(p.x.view.dtype)};
}

std::int64_t packed_size(const ConvShape& shape, std::size_t element_bytes) {
  const std::int64_t matrix = std::int64_t{shape.chunks} * 64 / static_cast<std::int64_t>(element_bytes) *
                              shape.blocks * shape.channels();
  return 9 * shape.written * shape.written * matrix;
}

// Whether `pack` neighbouring channels of every pixel can be read as one, the first at a multiple of it.
bool channels_packable(const TensorView& view, int pack, std::size_t element_bytes) {
  if (view.sizes[1] > 1 && view.strides[1] != 1) return false;
  if (reinterpret_cast<std::uintptr_t>(view.data) % (pack * element_bytes) != 0) return false;
  for (const int axis : {0, 2, 3}) {
    if (view.sizes[axis] > 1 && view.strides[axis] % pack != 0) return false;
  }
  return true;
}

template <typename T, bool Split, bool Packed, int N>
cudaError_t convolve(const ConvParams& p, const ConvShape& shape, cudaStream_t stream) {
  const TensorView &out = p.out.view, &residual = p.residual.view;
  constexpr int kLane = Warps<N>::kLane;
  const bool whole = shape.outputs % kLane == 0;
  const Wide wide = {whole && residual.data && channels_packable(residual, kLane, sizeof(T)),
                     whole && channels_packable(out, kLane, sizeof(T))};
  FASTBG_LAUNCH((conv3x3_kernel<T, Split, Packed, N>), dim3(shape.grid(out.sizes[0])), dim3(kConvThreads), 0,
                stream, p, shape, wide);
  return cudaGetLastError();
}

template <typename Run>
cudaError_t with_bool(bool value, Run&& run) {
  return value ? run(std::true_type{}) : run(std::false_type{});
}

}  // namespace

std::int64_t conv3x3_packed_size(const ConvPackParams& params) {
  return packed_size(shape_of(params), bytes_of(params.weight.dtype));
}

cudaError_t launch_conv3x3_pack(const ConvPackParams& params, cudaStream_t stream) {
  const std::int64_t count = conv3x3_packed_size(params);
  if (params.packed.dtype != params.weight.dtype || !contiguous(params.packed) ||
      element_count(params.packed) != count) {
    return cudaErrorInvalidValue;
  }
  const dim3 grid(grid_size(ceil_div<std::int64_t>(count, kConvThreads))), block(kConvThreads);
  return with_float_type(params.weight.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if constexpr (sizeof(T) == 4) {
      if (params.rounded) {
        FASTBG_LAUNCH((conv3x3_pack_kernel<T, true>), grid, block, 0, stream, params, shape_of(params), count);
        return cudaGetLastError();
      }
    }
    FASTBG_LAUNCH((conv3x3_pack_kernel<T, false>), grid, block, 0, stream, params, shape_of(params), count);
    return cudaGetLastError();
  });
}

cudaError_t launch_conv3x3(const ConvParams& params, bool rounded, cudaStream_t stream) {
  const TensorView &x = params.x.view, &out = params.out.view;
  ConvShape shape = shape_of(params);
  if (element_count(out) == 0) return cudaSuccess;
  if (!shape.cover(out, x)) return cudaErrorInvalidValue;
  if (params.factors.dtype != x.dtype ||
      element_count(params.factors) != packed_size(shape, bytes_of(x.dtype)) ||
      !packable(params.factors, 16 / static_cast<int>(bytes_of(x.dtype)), bytes_of(x.dtype))) {
    return cudaErrorInvalidValue;
  }
  return with_float_type(x.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    return with_bool(channels_packable(x, kPackOf<T>, sizeof(T)), [&](auto packed) {
      return with_bool(shape.channels() == kWide, [&](auto wide) {
        constexpr int kChannels = decltype(wide)::value ? kWide : kNarrow;
        constexpr bool kPacked = decltype(packed)::value;
        if constexpr (sizeof(T) == 4) {
          if (!rounded) return convolve<T, true, kPacked, kChannels>(params, shape, stream);
        }
        return convolve<T, false, kPacked, kChannels>(params, shape, stream);
      });
    });
  });
}

}  // namespace fastbg
