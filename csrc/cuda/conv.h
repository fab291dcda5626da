// Launchers of the 3x3 convolution. They enqueue on `stream` and never wait for the device. Shapes and
// dtypes were checked by fastbg.ops. All maps and the weight may have any strides; they are read fastest
// where the channels of a pixel are contiguous and begin at a multiple of 16 bytes.
#pragma once

#include <cuda_runtime.h>

#include "conv_params.h"

namespace fastbg {

// Packs a weight for launch_conv3x3: padded with zeros, in the order in which tensor cores take it.
struct ConvPackParams {
  TensorView weight;     // (Co,Ci,3,3) float
  std::int64_t upscale;  // of the pixel shuffle after the convolution
  bool transposed;       // for the gradient to the input
  bool rounded;          // float32: to TF32
  TensorView packed;     // dtype of the weight, contiguous, aligned to 16 bytes
};

// How many elements `packed` has.
std::int64_t conv3x3_packed_size(const ConvPackParams& params);
cudaError_t launch_conv3x3_pack(const ConvPackParams& params, cudaStream_t stream);

// `factors` is the packed weight, `gate` is not used, and bias[c r^2 + dy r + dx] belongs to channel c of
// the pixels (dy, dx) of `out`. float32 is computed as three products of TF32, or, if `rounded`, as one.
// For more than 2^31 - 1 blocks, or more than 2^31 - 32 rows or columns, it returns cudaErrorInvalidValue.
cudaError_t launch_conv3x3(const ConvParams& params, bool rounded, cudaStream_t stream);

}  // namespace fastbg
