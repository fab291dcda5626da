// 3x3 convolution and its input gradient, with bias, ReLU, residual sum and pixel shuffle, as an implicit
// matrix product on tensor cores (mma.sync): channels are the rows, pixels the columns.
//
// A block keeps its tile of pixels with a border of one in shared memory, so that each pixel is read from L2
// 1.4 times, not once for each of nine taps. While it computes a row of three taps, the weights of the next
// row and the pixels of the next chunk of channels are being copied (conv_tile.cuh). A warp has 32 channels x 32
// pixels: each value out of shared memory is used 32 times.
#include "conv.h"

#include "conv_pack.cuh"
#include "conv_products.cuh"

namespace fastbg {
namespace {

template <typename T, bool Rounded>
__global__ void __launch_bounds__(kConvThreads, kPackBlocks)
    conv3x3_pack_kernel(const ConvWeight weight, const ConvChannels channels, T* const packed,
                        const std::int64_t count) {
  const std::int64_t all = std::int64_t{gridDim.x} * kConvThreads;
#pragma unroll 1
  for (std::int64_t i = std::int64_t{blockIdx.x} * kConvThreads + threadIdx.x; i < count; i += all) {
    packed[i] = packed_element<T, Rounded>(weight, channels, i);
  }
}

// Whether the channels that a lane has of a pixel can be read and written at once.
struct Wide {
  bool residual, out;
};

// Bias, ReLU, residual sum, and the only store.
template <typename T, int N>
__device__ inline void finish(const ConvParams& p, const ConvShape& shape, const Wide& wide, Sums<N>& sums) {
  using W = Warps<N>;
  const TensorView &out = p.out.view, &residual = p.residual.view;
  const LaneChannels<N> lane(shape);
  if (lane.left <= 0) return;
  float bias[W::kLane];
  lane.read_bias(p.bias, shape, bias);
  T* to = static_cast<T*>(out.data) + lane.position(out, shape);
  const T* from = residual.data ? static_cast<const T*>(residual.data) + lane.position(residual, shape) : nullptr;
#pragma unroll
  for (int i = 0; i < W::kGroups * 2; ++i) {
    const int group = i / 2, down = group / 2, right = group % 2 * 8 + i % 2;
    if (!lane.has(shape, down, right)) continue;
    float values[W::kLane];
#pragma unroll
    for (int j = 0; j < W::kLane; ++j) {
      const float sum = sums.of(j / 2, group)[j % 2 * 2 + i % 2] + bias[j];
      values[j] = p.relu && sum < 0 ? 0 : sum;  // keeps NaN
    }
    if (from) {
      float added[W::kLane];
      read_lane(from + offset(residual, shape, down, right), residual.strides[1], lane.left, wide.residual, added);
#pragma unroll
      for (int j = 0; j < W::kLane; ++j) values[j] = added[j] + p.residual_scale * values[j];
    }
    write_lane(to + offset(out, shape, down, right), out.strides[1], lane.left, wide.out, values);
  }
}

// Four blocks on a multiprocessor where few channels are read singly: by itself, ptxas takes one register too
// many for that on sm_90.
template <typename T, bool Split, bool Packed, int N>
__global__ void __launch_bounds__(kConvThreads, N == kWide || Packed ? 2 : 4)
    conv3x3_kernel(const ConvParams p, const ConvShape shape, const Wide wide) {
  __shared__ uint4 pixels[2][kHalo * kPieces];
  __shared__ uint4 weights[2][Warps<N>::kRowOfTaps];
  Sums<N> sums;
  convolve_block<T, Split, Packed, false, N>(p.x.view, p.factors.data, shape, pixels, weights, sums);
  finish<T, N>(p, shape, wide, sums);
}

// ---------------------------------------------------------------------------------------------
// Launches

std::size_t bytes_of(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

ConvChannels channels_of(const ConvPackParams& p) {
  return channels_of(p.weight, p.upscale, p.transposed, bytes_of(p.weight.dtype));
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

}  // namespace

std::int64_t conv3x3_packed_size(const ConvPackParams& params) {
  return channels_of(params).packed_size(bytes_of(params.weight.dtype));
}

cudaError_t launch_conv3x3_pack(const ConvPackParams& params, cudaStream_t stream) {
  const std::int64_t count = conv3x3_packed_size(params);
  if (params.packed.dtype != params.weight.dtype || !contiguous(params.packed) ||
      element_count(params.packed) != count) {
    return cudaErrorInvalidValue;
  }
  const ConvChannels channels = channels_of(params);
  const ConvWeight weight(params.weight, params.transposed, bytes_of(params.weight.dtype));
  const dim3 grid(grid_size(ceil_div<std::int64_t>(count, kConvThreads))), block(kConvThreads);
  return with_float_type(params.weight.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    T* const packed = static_cast<T*>(params.packed.data);
    if constexpr (sizeof(T) == 4) {
      if (params.rounded) {
        FASTBG_LAUNCH((conv3x3_pack_kernel<T, true>), grid, block, 0, stream, weight, channels, packed, count);
        return cudaGetLastError();
      }
    }
    FASTBG_LAUNCH((conv3x3_pack_kernel<T, false>), grid, block, 0, stream, weight, channels, packed, count);
    return cudaGetLastError();
  });
}

cudaError_t launch_conv3x3(const ConvParams& params, bool rounded, cudaStream_t stream) {
  const TensorView &x = params.x.view, &out = params.out.view;
  const std::size_t bytes = bytes_of(x.dtype);
  ConvShape shape({x.sizes[1], out.sizes[1], params.x.upscale, params.out.upscale, bytes});
  if (element_count(out) == 0) return cudaSuccess;
  if (!shape.cover(out, x)) return cudaErrorInvalidValue;
  if (params.factors.dtype != x.dtype || element_count(params.factors) != shape.packed_size(bytes) ||
      !packable(params.factors, 16 / static_cast<int>(bytes), bytes)) {
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
