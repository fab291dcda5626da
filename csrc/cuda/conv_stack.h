// Launchers of stacks of 3x3 convolutions in float32: weights and layers. They enqueue on `stream` and never wait
// for the device. Shapes and dtypes were checked by fastbg.ops. Maps may have any strides; they are read fastest
// where the channels of a pixel are contiguous and begin at a multiple of 16 bytes.
#pragma once

#include <cuda_runtime.h>

#include <vector>

#include "conv_params.h"

namespace fastbg {

// One of the weights of a stack, and its place in the memory that all of them share.
struct StackWeight {
  TensorView weight;     // (Co,Ci,3,3) float32
  std::int64_t upscale;  // of the pixel shuffle after the convolution
  std::int64_t start;    // in elements, a multiple of 4
};

// Packs weights, 48 in a launch; `transposed`: for the gradient to the input; `rounded`: to TF32. `packed` is
// contiguous; conv3x3_packed_size (conv.h) says how much of it a weight takes.
cudaError_t launch_stack_pack(const std::vector<StackWeight>& weights, bool transposed, bool rounded,
                              const TensorView& packed, cudaStream_t stream);

// A map and the pixel in it that belongs to pixel (0, 0) of a result. What lies outside of it counts as zero.
struct PlacedMap {
  TensorView view;  // data is null where there is none
  std::int64_t down, right;
};

// out = gated(residual + scale * relu(conv 3x3 (x) + bias)), where `gated` is zero wherever gate <= 0: the
// gradient of a ReLU.
struct StackLayerParams {
  PlacedMap x;             // down and right before its pixel shuffle is undone
  std::int64_t x_upscale;  // of that shuffle
  TensorView factors;      // the packed weight
  TensorView bias;         // (Co) contiguous, or data is null
  PlacedMap residual;
  TensorView gate;         // shaped as `out`, or data is null
  TensorView sums;         // (B, blocks of pixels, channels) contiguous, or data is null
  TensorView out;          // (B,C,h,w)
  std::int64_t upscale;    // of the shuffle that writing applies
  bool relu;
  float scale;
};

// How many blocks of pixels, and of channels, `sums` has for maps (B,C,h,w) without a shuffle: each gets the sum
// of relu(conv 3x3 (x) + bias) over its pixels.
struct StackSums {
  std::int64_t blocks, channels;
};
StackSums stack_sums(std::int64_t channels, std::int64_t height, std::int64_t width);

// Products as for launch_conv3x3. For more than 2^31 - 1 blocks, or positions beyond 2^31 - 32, it returns
// cudaErrorInvalidValue.
cudaError_t launch_stack_layer(const StackLayerParams& params, bool rounded, cudaStream_t stream);

}  // namespace fastbg
