// Parameters of the convolution's kernels.
#pragma once

#include "tensor_view.h"

namespace fastbg {

// Feature maps (B,C,H,W), float32, channels next to each other in memory. A map that is shuffled by
// `upscale` r stands for (B, C r^2, H/r, W/r): channel (dy r + dx) C + c of a pixel is channel c of
// the pixel (dy, dx) in its block of r x r.
struct FeatureMaps {
  TensorView view;  // data is null where there are none
  std::int64_t upscale;
};

// out = residual + residual_scale * relu(conv 3x3 (x) + bias), padded with zeros. If there is a
// `gate`, x is taken as 0 wherever gate <= 0: the backward pass of a ReLU.
struct ConvParams {
  FeatureMaps x, gate;  // gate is shaped as x
  TensorView factors;   // of the weights, by `conv_factors`
  TensorView bias;      // (channels of factors) contiguous float32, or data is null
  FeatureMaps residual, out;  // with the same `upscale`
  bool relu;
  float residual_scale;
};

// weight[i,y,x,o] = sum over pixels of x[i] at (y-1, x-1) times grad[o], and bias[o] = sum of grad[o],
// where grad is taken as 0 wherever gate <= 0.
struct ConvWeightParams {
  FeatureMaps x, grad, gate;  // gate is shaped as grad, or its data is null
  TensorView sums;            // workspace, zeros: see cpu/conv.h
  TensorView weight;          // (Ci,3,3,Co) contiguous float32
  TensorView bias;            // (Co) contiguous float32
};

// Transforms weights into the factors of Winograd's F(4x4, 3x3): U = G g G^T.
struct ConvFactorsParams {
  TensorView weight;   // (Ci,3,3,Co) contiguous float32
  std::int64_t group;  // output channels per group; panels do not cross groups
  TensorView factors;  // (36 * Ci * Co) float32
};

}  // namespace fastbg
