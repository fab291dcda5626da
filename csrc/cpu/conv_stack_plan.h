// A stack of 3x3 convolutions as a whole: which cells each layer computes, and where they lie in memory.
#pragma once

#include <vector>

#include "conv_stack.h"

namespace fastbg {

// Layer i (from 1) reads map i - 1 and makes map i; map 0 is the input. See fastbg/ops/conv_stack.py.
struct StackLayer {
  StackBox box;  // computed, on the grid of map i - 1
  bool relu;
  std::int64_t upscale, residual;  // the map that is added, or -1
  float scale;                     // of what is added to the residual
  std::int64_t channels;           // of map i
  const float* factors;            // of the convolution, or of its transpose
  const float* bias;               // in pixel-shuffle order, or null
};

// Sets a job's blocks of cells: of equal size, as many as threads can share.
void divide(StackJob& job, int threads);

// Bias by place, with zeros behind each place's channels up to `padded`.
std::vector<float> padded_bias(const StackLayer& layer, std::int64_t padded);

class StackPlan {
 public:
  // Throws std::invalid_argument unless each layer's input and residual are there.
  StackPlan(const TensorView& input, std::vector<StackLayer> layers);

  // Bytes that the signs of all ReLUs take.
  std::int64_t sign_bytes() const { return sign_bytes_; }
  StackBox result_box() const { return maps_.back().valid; }
  std::int64_t result_channels() const { return layers_.back().channels; }

  // `signs` may be null if no gradient is wanted. Of `result` the whole is written.
  void forward(const TensorView& input, std::uint8_t* signs, const TensorView& result, int threads) const;

  // `grad` as the result, `to_input` as the input: only the part that the first layer reads is written.
  void backward(const TensorView& grad, std::uint8_t* signs, const TensorView& to_input, int threads) const;

 private:
  struct Lives;
  StackMap map_of(const StackBox& box, std::int64_t upscale, std::int64_t channels) const;
  StackSigns signs_of(std::size_t map, std::uint8_t* signs) const;
  StackJob job_of(const StackBox& box, int threads) const;
  StackBox seen_by(std::size_t layer) const;  // the pixels of its input map that it reads

  std::int64_t images_, height_, width_, channels_;
  std::vector<StackLayer> layers_;
  std::vector<StackMap> maps_;  // 0 to the number of layers, without data
  std::vector<std::int64_t> heights_, widths_, sign_places_;
  std::int64_t sign_bytes_ = 0;
};

}  // namespace fastbg
