// Parameters of the path family's kernels, on any device.
#pragma once

#include "tensor_view.h"

namespace fastbg {

// Taps are symmetric, (K,k) with k odd; borders are mirrored without repeating the border pixel; H, W > k / 2.

// out[:,k] = image filtered with taps[k] along both axes.
struct BlurPathParams {
  TensorView image;  // (B,C,H,W) float
  TensorView taps;   // (K,k) float32
  TensorView out;    // (B,K,C,H,W) same dtype as image
};

// out = sum over k of gradients[:,k] times step k, where step k is `image` under the kernel
// change[k] x level[k] + level[k] x change[k].
struct PathIntegralParams {
  TensorView gradients;  // (B,K,C,H,W) same dtype as image
  TensorView image;      // (B,C,H,W) float
  TensorView change;     // (K,k) float32
  TensorView level;      // (K,k) float32
  TensorView out;        // (B,C,H,W) same dtype as image
};

// out[b] = sum over channels and window of sqrt(dh^2 + dw^2), forward differences.
struct GradientDetectorParams {
  TensorView sr;       // (B,C,H,W) float
  TensorView windows;  // (4) or (B,4) int32: y0, x0, y1, x1, half-open
  TensorView out;      // (B) float32
};

// out = gradient of sum_b grad[b] * detector(sr)[b] with respect to sr; that of sqrt at 0 is 0.
struct GradientDetectorBackwardParams {
  TensorView grad;     // (B) float32
  TensorView sr;       // (B,C,H,W) float
  TensorView windows;  // (4) or (B,4) int32
  TensorView out;      // (B,C,H,W) same dtype as sr
};

}  // namespace fastbg
