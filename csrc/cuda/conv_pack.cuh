// Packing a weight for conv_products.cuh, in the order in which tensor cores take it:
// packed[place written][block][chunk][tap][step][tile][lane][4 words]
#pragma once

#include "conv_tile.cuh"
#include "mma.cuh"

namespace fastbg {

// Blocks of a kernel that packs: all that a multiprocessor has room for.
#if defined(__CUDA_ARCH__) && \
    (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 870 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1100)
constexpr int kPackBlocks = 48 * 32 / kConvThreads;
#else
constexpr int kPackBlocks = 64 * 32 / kConvThreads;
#endif

// A weight (Co,Ci,3,3) as the convolution sees it: transposed, with its last tap first, for the gradient.
struct ConvWeight {
  const void* data;
  std::int64_t strides[4];  // of channels written and read, rows, columns

  ConvWeight() = default;
  __host__ ConvWeight(const TensorView& weight, bool transposed, std::size_t element_bytes) : data(weight.data) {
    std::copy(weight.strides, weight.strides + 4, strides);
    if (!transposed) return;
    const std::int64_t last = 2 * (strides[2] + strides[3]) * static_cast<std::int64_t>(element_bytes);
    data = static_cast<const char*>(data) + last;
    std::swap(strides[0], strides[1]);
    strides[2] = -strides[2];
    strides[3] = -strides[3];
  }
};

// Element i of the packed weight; `Rounded`: to TF32.
template <typename T, bool Rounded>
__device__ inline T packed_element(const ConvWeight& weight, const ConvChannels& channels, std::int64_t i) {
  constexpr int kWord = 4 / sizeof(T);  // elements
  std::int64_t rest = i;
  const auto take = [&](int of) {
    const int taken = static_cast<int>(rest % of);
    rest /= of;
    return taken;
  };
  const int element = take(kWord), word = take(4), lane = take(32), tile = take(channels.channels() / 16);
  const int step = take(kSteps), tap = take(9);
  const int chunk = take(channels.chunks / (channels.read * channels.read));
  const int corner = take(channels.read * channels.read), block = take(channels.blocks);
  const int place = static_cast<int>(rest);
  // A lane has rows g and g + 8 of its warp's tiles, which are neighbouring channels.
  const int own = channels.channels() == kWide ? Warps<kWide>::kOwn : Warps<kNarrow>::kOwn;
  const int in_group = lane / 4 * 2 * own + tile % own * 2 + word % 2;
  const int output = block * channels.channels() + tile / own * own * 16 + in_group;
  const int input = chunk * kChunk<T> + lane % 4 * kPackOf<T> + (step * 2 + word / 2) * kWord + element;
  T value = from_float<T>(0.0f);
  if (output < channels.outputs && input < channels.inputs) {
    const std::int64_t o = std::int64_t{output} * channels.written * channels.written + place;
    const std::int64_t c = std::int64_t{input} * channels.read * channels.read + corner;
    value = static_cast<const T*>(weight.data)[o * weight.strides[0] + c * weight.strides[1] +
                                               tap / 3 * weight.strides[2] + tap % 3 * weight.strides[3]];
  }
  if constexpr (Rounded) value = __uint_as_float(round_to_tf32(value) & 0xFFFFE000u);
  return value;
}

// Channels of a convolution with that weight and the shuffle after it, or of its gradient.
inline ConvChannels channels_of(const TensorView& weight, std::int64_t upscale, bool transposed,
                                std::size_t element_bytes) {
  const std::int64_t outputs = weight.sizes[0] / (upscale * upscale), inputs = weight.sizes[1];
  if (transposed) return {outputs, inputs, upscale, 1, element_bytes};
  return {inputs, outputs, 1, upscale, element_bytes};
}

}  // namespace fastbg
