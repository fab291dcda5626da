// Parameters of the Gram family's kernels, on any device.
#pragma once

#include "tensor_view.h"

namespace fastbg {

// out[b,m,i,j] = sum over pixels of mask[b,m] features[b,i] features[b,j].
struct GramParams {
  TensorView features;  // (B,C,H,W) float
  TensorView mask;      // (B,M,H,W) float32; data is null: M is 1 and every weight 1
  TensorView out;       // (B,M,C,C) contiguous, dtype of features
};

// The same for features = relu(conv 3x3 (images)), padded with zeros.
struct ConvGramParams {
  TensorView images;  // (B,3,H,W) float
  TensorView weight;  // (27,64) contiguous float32: tap (channel, row, column) outermost
  TensorView bias;    // (64) contiguous float32
  TensorView mask;    // as above
  TensorView out;     // (B,M,64,64)
};

}  // namespace fastbg
