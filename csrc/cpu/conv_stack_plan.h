// Plans a whole stack of 3x3 convolutions: the cells that each layer computes, and their memory.
#pragma once

#include <optional>
#include <vector>

#include "channel_attention.h"
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
  bool attends;                    // whether `attention` weights what is added to the residual
  ChannelAttention attention;      // by means over the whole map
};

// Divides a job's cells into blocks of equal size, at least as many as threads if possible.
void divide(StackJob& job, int threads);

// Bias by place, each place's channels padded with zeros to `padded`.
std::vector<float> padded_bias(const StackLayer& layer, std::int64_t padded);

class StackPlan {
 public:
  // Throws std::invalid_argument unless each layer's input and residual exist. A tail follows the layers;
  // with a tail there may be no layers.
  StackPlan(const TensorView& input, std::vector<StackLayer> layers, std::optional<StackTail> tail);

  // Bytes that a forward pass stores for the gradient: the signs of each ReLU; for each attention its
  // convolution's values, its weights and its hidden layer.
  std::int64_t kept_bytes() const { return kept_bytes_; }
  StackBox result_box() const { return tail_ ? tail_->box : maps_.back().valid; }
  std::int64_t result_channels() const { return tail_ ? tail_->channels : layers_.back().channels; }

  // `kept` may be null without a gradient. All of `result` is written.
  void forward(const TensorView& input, std::uint8_t* kept, const TensorView& result, int threads) const;

  // `grad` is shaped as the result, `to_input` as the input; only the part that the first layer reads is written.
  void backward(const TensorView& grad, std::uint8_t* kept, const TensorView& to_input, int threads) const;

 private:
  struct Lives;
  struct AttentionKept {
    StackMap plain;           // the convolution's values, or without data
    float *weights, *hidden;  // (images, channels), (images, squeezed), or null
  };
  StackMap map_of(const StackBox& box, std::int64_t upscale, std::int64_t channels) const;
  StackSigns signs_of(std::size_t map, std::uint8_t* kept) const;
  AttentionKept attention_of(std::size_t map, std::uint8_t* kept) const;
  AttentionLayer attention_layer(std::size_t layer) const;
  std::vector<float> weigh(std::size_t layer, const StackMap& input, const std::vector<float>& sums,
                           const AttentionKept& kept) const;
  std::vector<float> through_mean(std::size_t layer, const std::vector<float>& sums, const AttentionKept& kept) const;
  bool attends(std::size_t layer) const { return layer >= 1 && layer <= layers_.size() && layers_[layer - 1].attends; }
  StackJob job_of(const StackBox& box, int threads) const;
  std::vector<float> cell_sums(const StackBox& box, std::int64_t channels) const;
  StackBox seen_by(std::size_t layer) const;  // the pixels of its input map that it reads

  std::int64_t channels_of(std::size_t map) const { return map ? layers_[map - 1].channels : channels_; }
  StackBox tail_box() const;  // on the grid of the last map
  StackBorderJob border_job(const StackMap& map, const TensorView& result) const;
  void run_tail(const StackMap& map, const TensorView& result, int threads) const;

  std::int64_t images_, channels_;
  std::vector<StackLayer> layers_;
  std::optional<StackTail> tail_;
  std::vector<StackMap> maps_;  // 0 to the number of layers, without data
  std::vector<std::int64_t> heights_, widths_, kept_places_;
  std::int64_t kept_bytes_ = 0;
};

}  // namespace fastbg
