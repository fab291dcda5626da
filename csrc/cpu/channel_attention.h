// Channel attention after a 3x3 convolution of a stack (Zhang et al., ECCV 2018): its weights, and the part
// of the gradient to the convolution's input that passes through them.
//
// The mean over a convolution's result is linear in the sums of its input over the pixels that each of the
// nine taps reads. So the weights are known before the convolution is computed, which can scale its own
// result. The gradient to a mean is the same at every pixel, so its contribution to the input depends only
// on which neighbours a pixel has (kStackZones).
#pragma once

#include <vector>

#include "conv_stack.h"

namespace fastbg {

// weight = sigmoid (excite relu (squeeze mean + squeeze_bias) + excite_bias).
struct ChannelAttention {
  std::int64_t squeezed;
  const float* taps;  // (3,3,inputs,channels) of the convolution
  const float *squeeze, *squeeze_bias;  // (squeezed, channels)
  const float *excite, *excite_bias;    // (channels, squeezed)
};

// One image of a layer with attention: `inputs` and `channels` of its convolution, on a map of `pixels`.
struct AttentionLayer {
  ChannelAttention attention;
  std::int64_t inputs, channels;
  std::int64_t height, width;

  // `sums` (cells, input.channels) of the convolution's whole input. Computes `weight` (channels), and
  // `hidden` (squeezed) after its ReLU for the gradient.
  void weigh(const StackMap& input, std::int64_t image, const float* sums, std::int64_t cells, const float* bias,
             float* weight, float* hidden) const;

  // `along` (channels): the gradient to each weight. Computes the gradient (kStackZones, padded inputs) to the
  // convolution's input through the mean.
  void add_through_mean(const double* along, const float* weight, const float* hidden, std::int64_t padded,
                        float* zones) const;
};

}  // namespace fastbg
