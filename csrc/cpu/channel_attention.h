// Channel attention behind a 3x3 convolution of a stack (Zhang et al., ECCV 2018): its weights, and what
// their gradient adds to the convolution's input.
//
// The mean over a map of a convolution's result is linear in the sums of its input over the pixels that each
// of the nine taps sees. So the weights are known before the convolution is computed, which then scales its
// own result; and as the gradient to a mean is the same at every pixel, what it adds to the input depends
// only on which neighbours a pixel has (kStackZones).
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

  // `sums` (cells, input.channels) of the convolution's whole input. Gives `weight` (channels) and what the
  // gradient takes: `hidden` (squeezed) behind its ReLU.
  void weigh(const StackMap& input, std::int64_t image, const float* sums, std::int64_t cells, const float* bias,
             float* weight, float* hidden) const;

  // `along` (channels): the gradient to each weight. Gives the gradient (kStackZones, padded inputs) to the
  // convolution's input that comes of the mean.
  void add_through_mean(const double* along, const float* weight, const float* hidden, std::int64_t padded,
                        float* zones) const;
};

}  // namespace fastbg
