// Launchers of channel attention (Zhang et al., ECCV 2018) in float32, on maps of conv_stack.h. They enqueue on
// `stream` and never wait for the device. Maps may have any strides.
#pragma once

#include <cuda_runtime.h>

#include "conv_stack.h"

namespace fastbg {

// weights = sigmoid(excite relu(squeeze means + squeeze_bias) + excite_bias), for C channels and S hidden values.
struct ChannelAttention {
  TensorView squeeze, squeeze_bias, excite, excite_bias;  // (S,C), (S), (C,S), (C), contiguous
};

// All launchers return cudaErrorInvalidValue for more than kMostPixels pixels, or if 3 C + S is more than this.
constexpr std::int64_t kMostAttended = 12032;  // floats in shared memory
constexpr std::int64_t kMostPixels = (std::int64_t{1} << 31) - (std::int64_t{1} << 16);

// out = residual + scale * weights * y on a box (B,C,h,w); `means` (B,C), contiguous, become those of the whole map
// with `map_pixels` pixels that `y` is a part of, from its `sums` (StackLayerParams).
cudaError_t launch_channel_attention(const TensorView& y, const TensorView& residual, const TensorView& sums,
                                     const ChannelAttention& attention, float scale, std::int64_t map_pixels,
                                     const TensorView& means, const TensorView& out, cudaStream_t stream);

// out (B,C,H,W): the gradient to all of `y`, from `grad` (B,C,h,w) to a box of what launch_channel_attention
// gives, which begins at (down, right). Two launches. `dots` (B, attention_dots(h, w), C), contiguous, is scratch.
std::int64_t attention_dots(std::int64_t height, std::int64_t width);
cudaError_t launch_channel_attention_gradient(const TensorView& grad, std::int64_t down, std::int64_t right,
                                              const TensorView& y, const TensorView& means,
                                              const ChannelAttention& attention, float scale,
                                              const TensorView& dots, const TensorView& out, cudaStream_t stream);

}  // namespace fastbg
