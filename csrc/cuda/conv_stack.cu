// Layers of a stack of 3x3 convolutions in float32, and of its gradient: the products of conv.cu on a part of a
// map, and everything that follows them before the only store. Channel attention follows in channel_attention.cu.
#include "conv_stack.h"

#include "conv_pack.cuh"
#include "conv_products.cuh"

namespace fastbg {
namespace {

// ---------------------------------------------------------------------------------------------
// Packing weights

struct PackedWeight {
  ConvWeight weight;
  ConvChannels channels;
  std::int64_t start, count;  // in elements
};

constexpr int kPackedAtOnce = 48;  // what a kernel can be given is limited to 4 KiB on older GPUs

struct PackedWeights {
  PackedWeight at[kPackedAtOnce];
};
static_assert(sizeof(PackedWeights) <= 4032, "and 64 bytes for the rest");

template <bool Rounded>
__global__ void __launch_bounds__(kConvThreads, kPackBlocks)
    stack_pack_kernel(const __grid_constant__ PackedWeights weights, float* const packed) {
  const PackedWeight& own = weights.at[blockIdx.y];
  const std::int64_t all = std::int64_t{gridDim.x} * kConvThreads;
#pragma unroll 1
  for (std::int64_t i = std::int64_t{blockIdx.x} * kConvThreads + threadIdx.x; i < own.count; i += all) {
    packed[own.start + i] = packed_element<float, Rounded>(own.weight, own.channels, i);
  }
}

// ---------------------------------------------------------------------------------------------
// Layers

// Whether the channels that a lane has of a pixel can be read and written at once.
struct WideMaps {
  bool residual, gate, out;
};

// Adds `own` of all lanes of a block that have the same channel, in one order, and stores the sums.
template <int N>
__device__ inline void store_sums(const TensorView& view, const ConvShape& shape, const LaneChannels<N>& lane,
                                  float (&own)[Warps<N>::kLane], float* shared) {
  using W = Warps<N>;
  constexpr int kParts = kConvWarps / W::kParts;  // warps that have the same channels
  const int at = lane.channel - lane.block.first * N;
#pragma unroll
  for (int j = 0; j < W::kLane; ++j) {
    own[j] += __shfl_xor_sync(0xFFFFFFFFu, own[j], 1);
    own[j] += __shfl_xor_sync(0xFFFFFFFFu, own[j], 2);
    if (threadIdx.x % 4 == 0) shared[lane.warp / W::kParts * N + at + j] = own[j];
  }
  __syncthreads();
  const int channel = static_cast<int>(threadIdx.x);
  if (channel >= N) return;
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kParts; ++i) sum += shared[i * N + channel];
  const std::int64_t tile = lane.block.top / kTileRows * shape.across + lane.block.left / kTileColumns;
  const std::int64_t row = lane.block.image * shape.down * shape.across + tile;
  static_cast<float*>(view.data)[(row * shape.blocks + lane.block.first) * N + channel] = sum;
}

// Bias, ReLU, sums, scale, residual, gate, and the only store of a map.
template <int N>
__device__ inline void finish(const StackLayerParams& p, const ConvShape& shape, const WideMaps& wide,
                              Sums<N>& sums, float* shared) {
  using W = Warps<N>;
  const TensorView &out = p.out, &residual = p.residual.view, &gate = p.gate;
  const LaneChannels<N> lane(shape);
  float bias[W::kLane], added[W::kLane] = {};
  lane.read_bias(p.bias, shape, bias);
  const std::int64_t to = lane.position(out, shape), from = lane.position(residual, shape);
  const std::int64_t gated = lane.position(gate, shape);
  // Of the lane's first pixel in the residual.
  const std::int64_t written = shape.written, place = lane.block.place;
  const std::int64_t down_there = lane.top * written + place / written + p.residual.down;
  const std::int64_t right_there = lane.first * written + place % written + p.residual.right;
  const std::int64_t moved = p.residual.down * residual.strides[2] + p.residual.right * residual.strides[3];
#pragma unroll
  for (int i = 0; i < W::kGroups * 2; ++i) {
    const int group = i / 2, down = group / 2, right = group % 2 * 8 + i % 2;
    if (!lane.has(shape, down, right) || lane.left <= 0) continue;
    float values[W::kLane];
#pragma unroll
    for (int j = 0; j < W::kLane; ++j) {
      const float sum = sums.of(j / 2, group)[j % 2 * 2 + i % 2] + bias[j];
      values[j] = p.relu && sum < 0 ? 0 : sum;  // keeps NaN
      added[j] += values[j];
      values[j] *= p.scale;
    }
    const std::int64_t y = down_there + down * shape.written, x = right_there + right * shape.written;
    if (residual.data && y >= 0 && y < residual.sizes[2] && x >= 0 && x < residual.sizes[3]) {
      const float* at = static_cast<const float*>(residual.data) + from + moved + offset(residual, shape, down, right);
      float other[W::kLane];
      read_lane(at, residual.strides[1], lane.left, wide.residual, other);
#pragma unroll
      for (int j = 0; j < W::kLane; ++j) values[j] += other[j];
    }
    if (gate.data) {
      const float* at = static_cast<const float*>(gate.data) + gated + offset(gate, shape, down, right);
      float passed[W::kLane];
      read_lane(at, gate.strides[1], lane.left, wide.gate, passed);
#pragma unroll
      for (int j = 0; j < W::kLane; ++j) values[j] = passed[j] <= 0 ? 0 : values[j];
    }
    float* at = static_cast<float*>(out.data) + to + offset(out, shape, down, right);
    write_lane(at, out.strides[1], lane.left, wide.out, values);
  }
  if (p.sums.data) store_sums<N>(p.sums, shape, lane, added, shared);
}

template <bool Split, bool Packed, int N>
__global__ void __launch_bounds__(kConvThreads, N == kWide || Packed ? 2 : 4)
    stack_layer_kernel(const __grid_constant__ StackLayerParams p, const ConvShape shape, const WideMaps wide) {
  __shared__ uint4 pixels[2][kHalo * kPieces];
  __shared__ uint4 weights[2][Warps<N>::kRowOfTaps];
  Sums<N> sums;
  convolve_block<float, Split, Packed, true, N>(p.x.view, p.factors.data, shape, pixels, weights, sums);
  finish<N>(p, shape, wide, sums, reinterpret_cast<float*>(pixels));
}

template <bool Split, bool Packed, int N>
cudaError_t run_layer(const StackLayerParams& p, const ConvShape& shape, cudaStream_t stream) {
  constexpr int kLane = Warps<N>::kLane;
  const auto wide = [&](const TensorView& view) {
    return view.data && shape.outputs % kLane == 0 && channels_packable(view, kLane, sizeof(float));
  };
  const WideMaps maps = {wide(p.residual.view), wide(p.gate), wide(p.out)};
  FASTBG_LAUNCH((stack_layer_kernel<Split, Packed, N>), dim3(shape.grid(p.out.sizes[0])), dim3(kConvThreads), 0,
                stream, p, shape, maps);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_stack_pack(const std::vector<StackWeight>& weights, bool transposed, bool rounded,
                              const TensorView& packed, cudaStream_t stream) {
  if (!contiguous(packed) || packed.dtype != DType::float32) return cudaErrorInvalidValue;
  for (std::size_t first = 0; first < weights.size(); first += kPackedAtOnce) {
    const std::size_t count = std::min<std::size_t>(kPackedAtOnce, weights.size() - first);
    PackedWeights some{};
    std::int64_t most = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const StackWeight& one = weights[first + i];
      const ConvChannels channels = channels_of(one.weight, one.upscale, transposed, sizeof(float));
      const std::int64_t size = channels.packed_size(sizeof(float));
      if (one.start < 0 || one.start % 4 != 0 || one.start + size > element_count(packed)) {
        return cudaErrorInvalidValue;
      }
      some.at[i] = {ConvWeight(one.weight, transposed, sizeof(float)), channels, one.start, size};
      most = std::max(most, size);
    }
    const dim3 grid(grid_size(ceil_div<std::int64_t>(most, kConvThreads)), static_cast<unsigned>(count));
    float* const to = static_cast<float*>(packed.data);
    if (rounded) {
      FASTBG_LAUNCH((stack_pack_kernel<true>), grid, dim3(kConvThreads), 0, stream, some, to);
    } else {
      FASTBG_LAUNCH((stack_pack_kernel<false>), grid, dim3(kConvThreads), 0, stream, some, to);
    }
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

StackSums stack_sums(std::int64_t channels, std::int64_t height, std::int64_t width) {
  const ConvChannels of(1, channels, 1, 1, sizeof(float));
  return {ceil_div<std::int64_t>(height, kTileRows) * ceil_div<std::int64_t>(width, kTileColumns),
          std::int64_t{of.blocks} * of.channels()};
}

cudaError_t launch_stack_layer(const StackLayerParams& p, bool rounded, cudaStream_t stream) {
  const TensorView &x = p.x.view, &out = p.out;
  ConvShape shape({x.sizes[1], out.sizes[1], p.x_upscale, p.upscale, sizeof(float)});
  if (element_count(out) == 0) return cudaSuccess;
  if (!shape.cover(out, x, p.x.down, p.x.right)) return cudaErrorInvalidValue;
  if (element_count(p.factors) < shape.packed_size(sizeof(float)) || !packable(p.factors, 4, sizeof(float))) {
    return cudaErrorInvalidValue;
  }
  const StackSums needed = stack_sums(out.sizes[1], out.sizes[2], out.sizes[3]);
  if (p.sums.data && (p.upscale != 1 || element_count(p.sums) != out.sizes[0] * needed.blocks * needed.channels)) {
    return cudaErrorInvalidValue;
  }
  return with_bool(rounded, [&](auto once) {
    return with_bool(channels_packable(x, kPackOf<float>, sizeof(float)), [&](auto packed) {
      return with_bool(shape.channels() == kWide, [&](auto wide) {
        constexpr bool kSplit = !decltype(once)::value, kPacked = decltype(packed)::value;
        return run_layer<kSplit, kPacked, decltype(wide)::value ? kWide : kNarrow>(p, shape, stream);
      });
    });
  });
}

}  // namespace fastbg
