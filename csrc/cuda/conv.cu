// 3x3 convolution and its input gradient, with bias, ReLU, residual sum and pixel shuffle, as an implicit
// matrix product on tensor cores (mma.sync): pixels are the rows, channels the columns.
//
// A block keeps its tile of pixels with a border of one in shared memory, so that each pixel is read from L2
// 1.4 times, not once for each of nine taps. While it computes a row of three taps, the weights of the next
// row and the pixels of the next chunk of channels are being copied (conv_tile.cuh). A warp has 32 pixels x 32
// channels: each value out of shared memory is used 32 times.
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
// Packing weights: packed[place written][block][chunk][tap][step][tile][lane][2 words]

template <typename T, bool Rounded>
__global__ void __launch_bounds__(kConvThreads)
    conv3x3_pack_kernel(const ConvPackParams p, const ConvShape shape, const std::int64_t count) {
  constexpr int kPair = 8 / sizeof(T);  // elements of two words
  const TensorView& weight = p.weight;
  const std::int64_t all = std::int64_t{gridDim.x} * kConvThreads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kConvThreads + threadIdx.x; i < count; i += all) {
    std::int64_t rest = i;
    const auto take = [&](int of) {
      const int taken = static_cast<int>(rest % of);
      rest /= of;
      return taken;
    };
    const int element = take(kPair), lane = take(32), tile = take(shape.channels() / 8);
    const int step = take(kSteps), tap = take(9);
    const int chunk = take(shape.chunks / (shape.read * shape.read));
    const int corner = take(shape.read * shape.read), block = take(shape.blocks);
    const int place = static_cast<int>(rest), column = lane / 4;
    // Lane t has columns 2t and 2t + 1: of two tiles together, channels 4t to 4t + 3 of 16.
    const int output = block * shape.channels() + tile / 2 * 16 + column / 2 * 4 + tile % 2 * 2 + column % 2;
    const int input = chunk * kChunk<T> + lane % 4 * kPackOf<T> + step * kPair + element;
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

// Sums of a warp, by row of pixels and tile of channels.
template <int N>
struct Sums {
  float at[Warps<N>::kRows][Warps<N>::kOwn][4];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < Warps<N>::kRows * Warps<N>::kOwn * 4; ++i) entry(i) = 0;
  }
  __device__ void add(const Sums& other) {
#pragma unroll
    for (int i = 0; i < Warps<N>::kRows * Warps<N>::kOwn * 4; ++i) entry(i) += other.entry(i);
  }
  __device__ float& entry(int i) { return at[i / 4 / Warps<N>::kOwn][i / 4 % Warps<N>::kOwn][i % 4]; }
  __device__ const float& entry(int i) const { return at[i / 4 / Warps<N>::kOwn][i / 4 % Warps<N>::kOwn][i % 4]; }
};

// The operands of a step out of what a lane has of a chunk of two pixels.
template <typename T, bool Split>
__device__ inline void operands(const uint4 (&pixels)[2], int step, unsigned (&high)[4], unsigned (&low)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint4& pixel = pixels[i % 2];
    const unsigned bits = step == 0 ? (i < 2 ? pixel.x : pixel.y) : (i < 2 ? pixel.z : pixel.w);
    if constexpr (Split) {
      const Parts parts = cut_parts_of(__uint_as_float(bits));
      high[i] = parts.high;
      low[i] = parts.low;
    } else if constexpr (sizeof(T) == 4) {
      high[i] = round_to_tf32(__uint_as_float(bits));
    } else {
      high[i] = bits;
    }
  }
}

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
__device__ inline void add_taps(const uint4* pixels, const uint2* weights, Sums<N>& total) {
  using W = Warps<N>;
  Sums<N> sums = total;
  if constexpr (Split) sums.clear();
#pragma unroll
  for (int tap = 0; tap < 3; ++tap) {
    uint4 read[W::kRows][2];
#pragma unroll
    for (int row = 0; row < W::kRows; ++row) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        read[row][half] = pixels[(row * kHaloColumns + tap + half * 8) * kParts];
      }
    }
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      unsigned high[W::kRows][4], low[W::kRows][4];
#pragma unroll
      for (int row = 0; row < W::kRows; ++row) operands<T, Split>(read[row], step, high[row], low[row]);
#pragma unroll
      for (int tile = 0; tile < W::kOwn; ++tile) {
        const uint2 weight = weights[((tap * kSteps + step) * W::kTiles + tile) * 32];
        if constexpr (Split) {
          const Parts first = cut_parts_of(__uint_as_float(weight.x));
          const Parts second = cut_parts_of(__uint_as_float(weight.y));
          const unsigned columns[2] = {first.high, second.high}, lows[2] = {first.low, second.low};
          // Small products first, in three rounds, so that no product waits for the previous one.
#pragma unroll
          for (int row = 0; row < W::kRows; ++row) multiply<T>(sums.at[row][tile], low[row], columns);
#pragma unroll
          for (int row = 0; row < W::kRows; ++row) multiply<T>(sums.at[row][tile], high[row], lows);
#pragma unroll
          for (int row = 0; row < W::kRows; ++row) multiply<T>(sums.at[row][tile], high[row], columns);
        } else {
          const unsigned columns[2] = {weight.x, weight.y};
#pragma unroll
          for (int row = 0; row < W::kRows; ++row) multiply<T>(sums.at[row][tile], high[row], columns);
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

// Whether the 4 channels that a lane has of a pixel can be read and written at once.
struct Wide {
  bool residual, out;
};

// 4 channels from `channel` on of one pixel of a map, of which `left` exist.
template <typename T>
__device__ inline void add_residual(const T* at, std::int64_t stride, int left, bool wide, float scale,
                                    float (&values)[4]) {
  Pack<T, 4> read = {};
  if (wide) {
    read = load<T, 4>(at);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < left) read.at[i] = at[i * stride];
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) values[i] = to_float(read.at[i]) + scale * values[i];
}

template <typename T>
__device__ inline void write(T* at, std::int64_t stride, int left, bool wide, const float (&values)[4]) {
  Pack<T, 4> pack;
#pragma unroll
  for (int i = 0; i < 4; ++i) pack.at[i] = from_float<T>(values[i]);
  if (wide) {
    store_kept<T, 4>(at, pack);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < left) at[i * stride] = pack.at[i];
    }
  }
}

__device__ inline std::int64_t position(const TensorView& view, const ConvBlock& block, std::int64_t y,
                                        std::int64_t x, int channel) {
  return block.image * view.strides[0] + channel * view.strides[1] + y * view.strides[2] +
         x * view.strides[3];
}

// Bias, ReLU, residual sum, and the only store.
template <typename T, int N>
__device__ inline void finish(const ConvParams& p, const ConvShape& shape, const Wide& wide,
                              const Sums<N>& sums) {
  using W = Warps<N>;
  const TensorView &out = p.out.view, &residual = p.residual.view;
  int index = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  forget(index);
  forget(thread);
  const ConvBlock block(shape, static_cast<unsigned>(index));
  const int lane = thread % 32, warp = thread / 32, written = shape.written;
  const int top = block.top + warp / W::kAcross * W::kRows;
  const int first_channel = block.first * N + warp % W::kAcross * W::kOwn * 8;
#pragma unroll
  for (int pair = 0; pair < W::kOwn / 2; ++pair) {
    const int channel = first_channel + pair * 16 + lane % 4 * 4, left = shape.outputs - channel;
    if (left <= 0) continue;
    float bias[4] = {};
    if (p.bias.data) {
      const float* from = static_cast<const float*>(p.bias.data) + block.place;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (i < left) bias[i] = from[std::int64_t{channel + i} * written * written];
      }
    }
#pragma unroll
    for (int i = 0; i < W::kRows * 2; ++i) {
      const int row = i / 2, half = i % 2;
      const int y = top + row, x = block.left + lane / 4 + half * 8;
      if (y >= shape.height || x >= shape.width) continue;
      float values[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float sum = sums.at[row][pair * 2 + j / 2][half * 2 + j % 2] + bias[j];
        values[j] = p.relu && sum < 0 ? 0 : sum;  // keeps NaN
      }
      const std::int64_t row_out = std::int64_t{y} * written + block.place / written;
      const std::int64_t column_out = std::int64_t{x} * written + block.place % written;
      if (residual.data) {
        const T* at = static_cast<const T*>(residual.data) +
                      position(residual, block, row_out, column_out, channel);
        add_residual<T>(at, residual.strides[1], left, wide.residual, p.residual_scale, values);
      }
      T* at = static_cast<T*>(out.data) + position(out, block, row_out, column_out, channel);
      write<T>(at, out.strides[1], left, wide.out, values);
    }
  }
}

template <typename T, bool Split, bool Packed, int N>
__global__ void __launch_bounds__(kConvThreads, 2)
    conv3x3_kernel(const ConvParams p, const ConvShape shape, const Wide wide) {
  using W = Warps<N>;
  __shared__ uint4 pixels[2][kHalo * kParts];
  __shared__ uint4 weights[2][W::kRowOfTaps / 2];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int first_row = warp / W::kAcross * W::kRows, first_tile = warp % W::kAcross * W::kOwn;
  const ConvBlock block(shape, blockIdx.x);
  const TensorView& x = p.x.view;
  const Source<T> source = {static_cast<const T*>(x.data) + block.image * x.strides[0], x, shape};
  const uint4* next = static_cast<const uint4*>(p.factors.data) +
                      (std::int64_t{block.place} * shape.blocks + block.first) * shape.chunks * 3 *
                          (W::kRowOfTaps / 2);
  const int own_pixel = (first_row * kHaloColumns + lane / 4) * kParts + lane % 4;
  Sums<N> sums;
  sums.clear();

  read_weights<N>(next, weights[0]);
  read_pixels<T, Packed>(source, block, 0, pixels[0]);
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();
  int buffer = 0;
  for (int chunk = 0; chunk < shape.chunks; ++chunk) {
    const bool last = chunk + 1 == shape.chunks;
    if (!last) read_pixels<T, Packed>(source, block, chunk + 1, pixels[(chunk + 1) % 2]);
#pragma unroll 1
    for (int row = 0; row < 3; ++row) {
      if (row < 2 || !last) {
        next += W::kRowOfTaps / 2;
        read_weights<N>(next, weights[buffer ^ 1]);
      }
      commit_copies();
      add_taps<T, Split, N>(pixels[chunk % 2] + own_pixel + row * kHaloColumns * kParts,
                            reinterpret_cast<const uint2*>(weights[buffer]) + first_tile * 32 + lane, sums);
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
  const bool whole = shape.outputs % 4 == 0;
  const Wide wide = {whole && residual.data && channels_packable(residual, 4, sizeof(T)),
                     whole && channels_packable(out, 4, sizeof(T))};
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
  if (!shape.cover(out.sizes[0], out.sizes[2], out.sizes[3])) return cudaErrorInvalidValue;
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
