// Channel attention: the weights of an image's channels follow from their means, and its pixels are multiplied by
// them. Every block computes the weights of its image again, which takes less time than a launch. Sums are added
// in one order, so that every run gives the same bits.
#include "channel_attention.h"

#include <initializer_list>
#include <limits>

#include "element.cuh"
#include "launch.cuh"

namespace fastbg {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kPixels = 64;      // that a block takes at once: of 64 channels, 4 packs a thread
constexpr int kDotPixels = 256;  // whose products with a gradient a block adds up
constexpr int kMostShares = 64;  // blocks of an image, each of which adds up all of its sums

// ChannelAttention for kernels.
struct Attention {
  const float *squeeze, *squeeze_bias, *excite, *excite_bias;
  int channels, squeezed;
};

// Quotients of numbers below 2^31 by one that is known at launch: a product instead of about 20 instructions.
struct Divider {
  unsigned by, factor, shift;

  __host__ explicit Divider(int by_) : by(static_cast<unsigned>(by_)), shift(0) {
    while ((std::uint64_t{1} << shift) < by) ++shift;
    factor = static_cast<unsigned>(((std::uint64_t{1} << 32) * ((std::uint64_t{1} << shift) - by)) / by + 1);
  }
  // The quotient; `value` becomes the remainder.
  __device__ int take(int& value) const {
    const unsigned number = static_cast<unsigned>(value);
    const unsigned high = static_cast<unsigned>((std::uint64_t{number} * factor) >> 32);
    const unsigned quotient = (high + number) >> shift;
    value = static_cast<int>(number - quotient * by);
    return static_cast<int>(quotient);
  }
};

// A box of maps for kernels.
struct Pixels {
  float* data;
  std::int64_t strides[4];

  __device__ float* at(std::int64_t image, int y, int x, int channel) const {
    return data + image * strides[0] + y * strides[2] + x * strides[3] + channel * strides[1];
  }
};

// Gives to `store` each channel's sum of value(i, channel), 0 <= i < count.
template <typename Value, typename Store>
__device__ inline void add_up(int count, int channels, float* shared, Value&& value, Store&& store) {
  const int across = min(ceil_div(channels, 32) * 32, kThreads), groups = kThreads / across;
  const int thread = static_cast<int>(threadIdx.x), group = thread / across;
  for (int first = 0; first < channels; first += across) {
    const int channel = first + thread % across;
    float sum = 0;
    if (group < groups && channel < channels) {
#pragma unroll 4
      for (int i = group; i < count; i += groups) sum += value(i, channel);
    }
    shared[thread] = sum;
    __syncthreads();
    if (group == 0 && channel < channels) {
#pragma unroll 1
      for (int i = 1; i < groups; ++i) sum += shared[i * across + thread];
      store(channel, sum);
    }
    __syncthreads();
  }
}

// Sum of value(i) over a warp's lanes, 0 <= i < count.
template <typename Value>
__device__ inline float warp_sum(int count, Value&& value) {
  float sum = 0;
#pragma unroll 2
  for (int i = static_cast<int>(threadIdx.x) % 32; i < count; i += 32) sum += value(i);
#pragma unroll
  for (int distance = 16; distance; distance /= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, distance);
  return sum;
}

// hidden[s], before its ReLU.
__device__ inline void find_hidden(const Attention& a, const float* means, float* hidden) {
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll 1
  for (int s = thread / 32; s < a.squeezed; s += kWarps) {
    const float* row = a.squeeze + std::int64_t{s} * a.channels;
    const float sum = warp_sum(a.channels, [&](int c) { return row[c] * means[c]; });
    if (thread % 32 == 0) hidden[s] = sum + a.squeeze_bias[s];
  }
  __syncthreads();
}

// weights[c], from the hidden layer.
__device__ inline void find_weights(const Attention& a, const float* hidden, float* weights) {
#pragma unroll 1
  for (int c = static_cast<int>(threadIdx.x); c < a.channels; c += kThreads) {
    float sum = a.excite_bias[c];
    const float* row = a.excite + std::int64_t{c} * a.squeezed;
#pragma unroll 2
    for (int s = 0; s < a.squeezed; ++s) sum += row[s] * (hidden[s] < 0 ? 0 : hidden[s]);  // keeps NaN
    weights[c] = 1 / (1 + expf(-sum));
  }
  __syncthreads();
}

// The block's share of an image: visit(y, x, channel) for each pixel and every V-th channel.
template <int V, typename Visit>
__device__ inline void visit_share(int share, int shares, int pixels, const Divider& width, const Divider& packs,
                                   Visit&& visit) {
  for (std::int64_t start = std::int64_t{share} * kPixels; start < pixels; start += std::int64_t{shares} * kPixels) {
    const int first = static_cast<int>(start), count = min(kPixels, pixels - first) * static_cast<int>(packs.by);
#pragma unroll 2
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
      int pack = i, column = first + packs.take(pack);
      const int row = width.take(column);
      visit(row, column, pack * V);
    }
  }
}

template <int V>
__global__ void __launch_bounds__(kThreads)
    attention_forward_kernel(const Attention a, const Pixels y, const Pixels residual, const Pixels out,
                             const float* sums, const int blocks, const std::int64_t sums_stride,
                             const float scale, const float map_pixels, float* const all_means, const int pixels,
                             const Divider width, const Divider packs, const int shares) {
  FASTBG_DYNAMIC_SHARED(float, shared);
  float *const means = shared + kThreads, *const weights = means + a.channels, *const hidden = weights + a.channels;
  const std::int64_t image = blockIdx.x / static_cast<unsigned>(shares);
  const int share = static_cast<int>(blockIdx.x % static_cast<unsigned>(shares));
  const float* own = sums + image * blocks * sums_stride;
  add_up(blocks, a.channels, shared, [&](int i, int c) { return own[i * sums_stride + c]; },
         [&](int c, float sum) {
           means[c] = sum / map_pixels;
           if (share == 0) all_means[image * a.channels + c] = means[c];
         });
  find_hidden(a, means, hidden);
  find_weights(a, hidden, weights);
  visit_share<V>(share, shares, pixels, width, packs, [&](int row, int column, int c) {
    const Pack<float, V> seen = load<float, V>(y.at(image, row, column, c));
    Pack<float, V> values = load<float, V>(residual.at(image, row, column, c));
#pragma unroll
    for (int i = 0; i < V; ++i) values.at[i] += scale * weights[c + i] * seen.at[i];
    store<true>(out.at(image, row, column, c), values);
  });
}

// dots[image, block, channel]: a part of the gradient to a channel's weight.
__global__ void __launch_bounds__(kThreads)
    attention_dot_kernel(const Pixels grad, const Pixels y, float* const dots, const int channels, const int pixels,
                         const Divider width, const int blocks) {
  __shared__ float shared[kThreads];
  const std::int64_t image = blockIdx.x / static_cast<unsigned>(blocks);
  const int first = static_cast<int>(blockIdx.x % static_cast<unsigned>(blocks)) * kDotPixels;
  const auto product = [&](int i, int c) {
    int column = first + i;
    const int row = width.take(column);
    return *grad.at(image, row, column, c) * *y.at(image, row, column, c);
  };
  const auto keep = [&](int c, float sum) { dots[std::int64_t{blockIdx.x} * channels + c] = sum; };
  add_up(min(kDotPixels, pixels - first), channels, shared, product, keep);
}

// The box of a map that has a gradient.
struct Place {
  int down, right, height, width;
};

template <int V>
__global__ void __launch_bounds__(kThreads)
    attention_backward_kernel(const Attention a, const Pixels grad, const Place there, const Pixels out,
                              const float* means, const float* dots, const int blocks, const float scale,
                              const int pixels, const Divider width, const Divider packs, const int shares) {
  FASTBG_DYNAMIC_SHARED(float, shared);
  float *const to_means = shared + kThreads, *const weights = to_means + a.channels;
  float *const excited = weights + a.channels, *const hidden = excited + a.channels;
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t image = blockIdx.x / static_cast<unsigned>(shares);
#pragma unroll 1
  for (int c = thread; c < a.channels; c += kThreads) to_means[c] = means[image * a.channels + c];
  __syncthreads();
  find_hidden(a, to_means, hidden);
  find_weights(a, hidden, weights);
  const float* own = dots + image * blocks * a.channels;
  add_up(blocks, a.channels, shared, [&](int i, int c) { return own[std::int64_t{i} * a.channels + c]; },
         [&](int c, float sum) { excited[c] = scale * sum * weights[c] * (1 - weights[c]); });
#pragma unroll 1
  for (int s = thread / 32; s < a.squeezed; s += kWarps) {
    const float sum =
        warp_sum(a.channels, [&](int c) { return a.excite[std::int64_t{c} * a.squeezed + s] * excited[c]; });
    if (thread % 32 == 0) hidden[s] = hidden[s] <= 0 ? 0 : sum;
  }
  __syncthreads();
#pragma unroll 1
  for (int c = thread; c < a.channels; c += kThreads) {
    float sum = 0;
#pragma unroll 2
    for (int s = 0; s < a.squeezed; ++s) sum += a.squeeze[std::int64_t{s} * a.channels + c] * hidden[s];
    to_means[c] = sum / static_cast<float>(pixels);
  }
  __syncthreads();
  const int share = static_cast<int>(blockIdx.x % static_cast<unsigned>(shares));
  visit_share<V>(share, shares, pixels, width, packs, [&](int row, int column, int c) {
    Pack<float, V> values = {};
    const int y = row - there.down, x = column - there.right;
    if (y >= 0 && y < there.height && x >= 0 && x < there.width) values = load<float, V>(grad.at(image, y, x, c));
#pragma unroll
    for (int i = 0; i < V; ++i) values.at[i] = scale * weights[c + i] * values.at[i] + to_means[c + i];
    store<true>(out.at(image, row, column, c), values);
  });
}

// ---------------------------------------------------------------------------------------------
// Launches

Attention plain(const ChannelAttention& a) {
  const auto floats = [](const TensorView& view) { return static_cast<const float*>(view.data); };
  return {floats(a.squeeze), floats(a.squeeze_bias), floats(a.excite), floats(a.excite_bias),
          static_cast<int>(a.squeeze.sizes[1]), static_cast<int>(a.squeeze.sizes[0])};
}

Pixels plain(const TensorView& maps) {
  Pixels found = {static_cast<float*>(maps.data), {}};
  std::copy(maps.strides, maps.strides + 4, found.strides);
  return found;
}

bool too_large(const ChannelAttention& a, const TensorView& maps) {
  constexpr std::int64_t kMostBlocks = std::numeric_limits<int>::max();
  const std::int64_t pixels = maps.sizes[2] * maps.sizes[3];
  return 3 * a.squeeze.sizes[1] + a.squeeze.sizes[0] > kMostAttended || pixels > kMostPixels ||
         maps.sizes[0] > kMostBlocks / ceil_div<std::int64_t>(pixels, kPixels);
}

// Calls run with how many channels of a pixel can be read and written at once in all maps, 4 or 1.
template <typename Run>
cudaError_t with_vectors(std::initializer_list<TensorView> maps, Run&& run) {
  for (const TensorView& view : maps) {
    if (view.sizes[1] % 4 != 0 || !channels_packable(view, 4, sizeof(float))) {
      return run(std::integral_constant<int, 1>{});
    }
  }
  return run(std::integral_constant<int, 4>{});
}

int shares_of(const TensorView& maps) {
  const std::int64_t parts = ceil_div<std::int64_t>(maps.sizes[2] * maps.sizes[3], kPixels);
  return static_cast<int>(std::min<std::int64_t>(parts, kMostShares));
}

}  // namespace

cudaError_t launch_channel_attention(const TensorView& y, const TensorView& residual, const TensorView& sums,
                                     const ChannelAttention& attention, float scale, std::int64_t map_pixels,
                                     const TensorView& means, const TensorView& out, cudaStream_t stream) {
  if (element_count(out) == 0) return cudaSuccess;
  if (too_large(attention, out) || !contiguous(sums) || sums.sizes[1] > kMostPixels) return cudaErrorInvalidValue;
  const Attention a = plain(attention);
  const int shares = shares_of(out), pixels = static_cast<int>(out.sizes[2] * out.sizes[3]);
  const Divider width(static_cast<int>(out.sizes[3]));
  const dim3 grid(static_cast<unsigned>(out.sizes[0] * shares)), block(kThreads);
  const std::size_t bytes = (kThreads + 2 * a.channels + a.squeezed) * sizeof(float);
  const Pixels seen = plain(y), other = plain(residual), to = plain(out);
  const float* const own = static_cast<const float*>(sums.data);
  const float of_map = static_cast<float>(map_pixels);
  float* const found = static_cast<float*>(means.data);
  const int blocks = static_cast<int>(sums.sizes[1]);
  return with_vectors({y, residual, out}, [&](auto vector) {
    FASTBG_LAUNCH((attention_forward_kernel<decltype(vector)::value>), grid, block, bytes, stream, a, seen, other, to,
                  own, blocks, sums.sizes[2], scale, of_map, found, pixels, width,
                  Divider(a.channels / decltype(vector)::value), shares);
    return cudaGetLastError();
  });
}

std::int64_t attention_dots(std::int64_t height, std::int64_t width) {
  return ceil_div<std::int64_t>(height * width, kDotPixels);
}

cudaError_t launch_channel_attention_gradient(const TensorView& grad, std::int64_t down, std::int64_t right,
                                              const TensorView& y, const TensorView& means,
                                              const ChannelAttention& attention, float scale,
                                              const TensorView& dots, const TensorView& out, cudaStream_t stream) {
  if (element_count(out) == 0) return cudaSuccess;
  if (too_large(attention, out) || !contiguous(dots)) return cudaErrorInvalidValue;
  const Attention a = plain(attention);
  const Place there = {static_cast<int>(down), static_cast<int>(right), static_cast<int>(grad.sizes[2]),
                       static_cast<int>(grad.sizes[3])};
  const int blocks = static_cast<int>(attention_dots(there.height, there.width));
  Pixels from = plain(grad), seen = plain(y);
  seen.data += down * y.strides[2] + right * y.strides[3];
  float* const products = static_cast<float*>(dots.data);
  FASTBG_LAUNCH((attention_dot_kernel), dim3(static_cast<unsigned>(out.sizes[0] * blocks)), dim3(kThreads), 0, stream,
                from, seen, products, a.channels, there.height * there.width, Divider(there.width), blocks);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return error;
  const int shares = shares_of(out), pixels = static_cast<int>(out.sizes[2] * out.sizes[3]);
  const Divider width(static_cast<int>(out.sizes[3]));
  const std::size_t bytes = (kThreads + 3 * a.channels + a.squeezed) * sizeof(float);
  const dim3 grid(static_cast<unsigned>(out.sizes[0] * shares)), block(kThreads);
  const Pixels to = plain(out);
  const float* const of_map = static_cast<const float*>(means.data);
  return with_vectors({grad, out}, [&](auto vector) {
    FASTBG_LAUNCH((attention_backward_kernel<decltype(vector)::value>), grid, block, bytes, stream, a, from, there, to,
                  of_map, products, blocks, scale, pixels, width, Divider(a.channels / decltype(vector)::value),
                  shares);
    return cudaGetLastError();
  });
}

}  // namespace fastbg
