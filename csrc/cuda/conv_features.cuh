// Features of a convolution in registers: relu(conv 3x3) by tensor cores, for gram.cu.
//
// Channels are the rows of the product and pixels its columns, so that each lane gets the values that it
// needs in gram_sum.cuh.
#pragma once

#include "async_copy.cuh"
#include "gram_sum.cuh"

namespace fastbg {

constexpr int kConvChannels = 64;
constexpr int kTaps = 27, kBias = 27, kPaddedTaps = 32;
constexpr int kDepths = kPaddedTaps / 8;  // products of 8 taps
constexpr int kConvTiles = kConvChannels / 16;
constexpr unsigned kExists = 1u << 9;  // a bit of `inside`

// Shared by all steps of a block: the weights as operands, and the offsets of the taps.
struct Filter {
  uint4 high[kDepths][kConvTiles][kWarpThreads], low[kDepths][kConvTiles][kWarpThreads];
  std::int64_t offsets[kPaddedTaps];
  unsigned bits[kPaddedTaps];  // of `inside`; the bias is a tap of every pixel that exists

  __device__ void read(const ConvGramParams& p) {
    const float* weight = static_cast<const float*>(p.weight.data);
    const float* bias = static_cast<const float*>(p.bias.data);
    for (int i = threadIdx.x; i < kPaddedTaps * kConvChannels; i += kGramThreads) {
      const int lane = i / 4 % kWarpThreads, tile = i / 4 / kWarpThreads % kConvTiles;
      const int depth = i / 4 / kWarpThreads / kConvTiles;
      const int tap = depth * 8 + lane % 4 + i % 4 / 2 * 4;
      const int channel = tile * 16 + lane / 4 + i % 2 * 8;
      float value = 0;
      if (tap < kTaps) value = weight[tap * kConvChannels + channel];
      if (tap == kBias) value = bias[channel];
      const Parts parts = parts_of(value);
      reinterpret_cast<unsigned*>(&high[depth][tile][lane])[i % 4] = parts.high;
      reinterpret_cast<unsigned*>(&low[depth][tile][lane])[i % 4] = parts.low;
    }
    for (int tap = threadIdx.x; tap < kPaddedTaps; tap += kGramThreads) {
      const std::int64_t* strides = p.images.strides;
      const int y = tap / 3 % 3 - 1, x = tap % 3 - 1;
      offsets[tap] = tap / 9 * strides[1] + y * strides[2] + x * strides[3];
      bits[tap] = tap < kTaps ? 1u << tap % 9 : tap == kBias ? kExists : 0;
    }
  }
};

// A pixel, and which taps around it lie in the image; none if the pixel does not exist.
template <typename T>
struct Centre {
  const T* at;
  unsigned inside;

  __device__ Centre(const T* image, const TensorView& view, const Cursor& cursor, bool exists) {
    at = image + cursor.offset(view);
    const unsigned columns = (cursor.x > 0) | 2u | (cursor.x + 1 < view.sizes[3]) << 2;
    const unsigned rows =
        (cursor.y > 0) | 1u << 3 | static_cast<unsigned>(cursor.y + 1 < view.sizes[2]) << 6;
    inside = exists ? columns * rows | kExists : 0;  // rows has a bit for every third
  }

  __device__ float tap(const Filter& filter, int tap) const {
    if (!(inside & filter.bits[tap])) return 0;
    return tap == kBias ? 1.0f : to_float(at[filter.offsets[tap]]);
  }
};

// The taps of a lane's pixels of a few steps (float32), in shared memory, copied there while the block computes earlier
// steps; outside of the image they are zeros. Each lane copies what it alone reads, so that no barrier is needed.
class TapStages {
 public:
  static constexpr int kCount = 3, kAhead = kCount - 1;
  static constexpr int kOwn = 7;  // taps of a pixel, for each lane of a quad; the eighth is none's
  static constexpr int kMemory = kCount * 2 * kOwn * kGramThreads / 4;  // in 16 bytes

  __device__ TapStages(unsigned* memory, const Filter& filter) : own_(memory + threadIdx.x) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int tap = i * 4 + static_cast<int>(threadIdx.x) % 4;
      offsets_[i] = filter.offsets[tap];
      bits_[i] = tap < kTaps ? filter.bits[tap] : 0;
    }
  }

  // Starts to copy the taps of a step's pixels.
  __device__ void copy(const Centre<float> (&centres)[2]) {
#pragma unroll
    for (int i = 0; i < 2 * kOwn; ++i) {
      const Centre<float>& centre = centres[i / kOwn];
      copy_async(next() + i * kGramThreads, centre.at + offsets_[i % kOwn], centre.inside & bits_[i % kOwn] ? 4 : 0);
    }
  }

  __device__ void advance() { stage_ = stage_ + 1 == kCount ? 0 : stage_ + 1; }

  // Tap i of a pixel that `exists`, of the stage that is filled next.
  __device__ float tap(int half, int i, bool exists) const {
    if (i == kOwn) return 0;
    const float value = __uint_as_float(next()[(half * kOwn + i) * kGramThreads]);
    if (i < kBias / 4) return value;
    return static_cast<int>(threadIdx.x) % 4 == kBias % 4 ? static_cast<float>(exists) : value;
  }

 private:
  __device__ unsigned* next() const { return own_ + stage_ * 2 * kOwn * kGramThreads; }

  unsigned* own_;
  std::int64_t offsets_[kOwn];
  unsigned bits_[kOwn];
  int stage_ = 0;
};

// relu(conv) of a step: channel g of each group, pixels 4t..4t+3. Half a step is the columns of one
// mma: column n is pixel n / 2 * 4 + n % 2, so that the lane with columns 2t and 2t + 1 has them. `tap_of(half, i)`
// is the lane's tap i, which is tap i * 4 + t. `Exact`: taps have no low parts.
template <bool Exact, typename TapOf>
__device__ inline void convolve(const Filter& filter, const TapOf& tap_of,
                                float (&features)[kConvChannels / kGroup][4]) {
  int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  forget(lane);
  float sums[2][kConvTiles][4] = {};
#pragma unroll
  for (int depth = 0; depth < kDepths; ++depth) {
    unsigned high[2][2], low[2][2];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float value = tap_of(i / 2, depth * 2 + i % 2);
      if constexpr (Exact) {
        high[i / 2][i % 2] = __float_as_uint(value);
      } else {
        const Parts parts = parts_of(value);
        high[i / 2][i % 2] = parts.high;
        low[i / 2][i % 2] = parts.low;
      }
    }
#pragma unroll
    for (int tile = 0; tile < kConvTiles; ++tile) {
      const uint4 h = filter.high[depth][tile][lane], l = filter.low[depth][tile][lane];
      const unsigned row_high[4] = {h.x, h.y, h.z, h.w}, row_low[4] = {l.x, l.y, l.z, l.w};
#pragma unroll
      for (int half = 0; half < 2; ++half) mma_tf32(sums[half][tile], row_low, high[half]);
      if constexpr (!Exact) {
#pragma unroll
        for (int half = 0; half < 2; ++half) mma_tf32(sums[half][tile], row_high, low[half]);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) mma_tf32(sums[half][tile], row_high, high[half]);
    }
  }
#pragma unroll
  for (int i = 0; i < 8 * kConvTiles; ++i) {
    const int half = i / 4 / kConvTiles, tile = i / 4 % kConvTiles, place = i % 4;
    const float sum = sums[half][tile][place];
    features[tile * 2 + place / 2][half * 2 + place % 2] = sum < 0 ? 0 : sum;  // keeps NaN
  }
}

}  // namespace fastbg
