// Pixels of some channels on their way from memory into a lane's registers, for gram.cu.
//
// Where 4 of them can be copied at once, they are copied into shared memory while earlier ones are computed. Each
// lane copies what it alone reads there, so that no barrier is needed. Elsewhere they are loaded one by one.
#pragma once

#include <algorithm>

#include "async_copy.cuh"
#include "gram_sum.cuh"

namespace fastbg {

// What the block's shared memory holds: a few steps, each of 4 pixels of some channels ("pieces") for each lane;
// then the sums.
template <typename T, class S>
class GramStages {
 public:
  using Word = std::conditional_t<sizeof(T) == 4, uint4, uint2>;  // a Pack<T, 4>
  static constexpr int kPieces = S::kTiles * 2 + (S::kOnDiagonal ? 0 : S::kGroups);
  static constexpr int kBytes = kPieces * kGramThreads * static_cast<int>(sizeof(Word));
  // Three stages of a panel of 64x64 floats on the diagonal fill 48 KiB; of others there is room for two.
  static constexpr int kCount = std::min(3, static_cast<int>(kSharedLimit) / kBytes), kAhead = kCount - 1;
  static constexpr int kSums = S::kUnits * kWarpThreads;  // in 16 bytes
  static constexpr int kMemory = std::max(kCount * kBytes / 16, kSums);

  __device__ explicit GramStages(uint4* memory) : own_(reinterpret_cast<Word*>(memory) + threadIdx.x) {}

  // Where pieces from `piece` on of the next step go.
  __device__ Word* next(int piece) const { return own_ + (stage_ * kPieces + piece) * kGramThreads; }

  __device__ void advance() { stage_ = stage_ + 1 == kCount ? 0 : stage_ + 1; }

  // Pieces from `piece` on.
  template <int Count>
  __device__ void read(int piece, Pack<T, 4> (&to)[Count]) const {
#pragma unroll
    for (int n = 0; n < Count; ++n) {
      const Word word = next(piece)[n * kGramThreads];
      memcpy(&to[n], &word, sizeof(word));
    }
  }

  // The first or second pair of pixels of each piece.
  template <int Count>
  __device__ void read_pairs(int piece, int half, float (&to)[Count][2]) const {
#pragma unroll
    for (int n = 0; n < Count; ++n) {
      const float2 pair = reinterpret_cast<const float2*>(next(piece) + n * kGramThreads)[half];
      to[n][0] = pair.x, to[n][1] = pair.y;
    }
  }

 private:
  Word* own_;
  int stage_ = 0;
};

// Neighbouring pixels (one element apart) of a channel, that walks through an image with a lane.
template <typename T>
struct Walk {
  Cursor at;
  const T* from;

  __device__ Walk(const TensorView& features, const T* image, Cursor start, int channel)
      : at(start), from(image + channel * features.strides[1] + start.offset(features)) {}

  // `pixels` further; without a division, as these are a few rows at most.
  __device__ void skip(const TensorView& features, int pixels) {
    at.x += pixels;
    from += pixels;
    if (features.sizes[2] <= 1) return;
    const int width = static_cast<int>(features.sizes[3]);
    for (; at.x >= width; ++at.y) at.x -= width, from += features.strides[2] - width;
  }
};

// Starts to copy 4 pixels of one channel of each group, the first from `from` on, which is channel `first`. Zeros
// take the place of channels that do not exist, and of all pixels unless `exist`.
template <typename T, int Groups, typename Word>
__device__ inline void copy_channels(const TensorView& features, const T* from, int first, bool exist, Word* to) {
  const std::int64_t stride = features.strides[1];
  int count = static_cast<int>(features.sizes[1]) - first;  // of channels from `first` on
  forget(count);
#pragma unroll
  for (int n = 0; n < Groups; ++n) {
    const bool copied = exist && n * kGroup < count;
    copy_async(to + n * kGramThreads, from, copied ? static_cast<int>(sizeof(Word)) : 0);
    from += kGroup * stride;
    forget(from);
  }
}

// Loads 4 pixels from `at` on, of which the first `left` exist, of one channel of each group; in the first group it
// is channel `first`. For channels that do not exist another one is read; their sums are unused.
template <typename T, int Groups>
__device__ inline void read_channels(const TensorView& features, const T* image, int first, Cursor at, int left,
                                     Pack<T, 4> (&to)[Groups]) {
  forget(first);
  const int last = static_cast<int>(features.sizes[1]) - 1;
  const std::int64_t stride = features.strides[1];
  const T* from = image + min(first, last) * stride;
  std::int64_t offsets[4];
#pragma unroll
  for (int i = 0; i < 4; ++i, at.advance(features)) offsets[i] = at.offset(features);
#pragma unroll
  for (int n = 0; n < Groups; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) to[n].at[i] = i < left ? from[offsets[i]] : from_float<T>(0.0f);
    if (first + (n + 1) * kGroup <= last) from += kGroup * stride;
  }
}

// Pixels of weight 0 are left out, even if they are NaN.
template <typename T, int Groups>
__device__ inline void as_floats(const Pack<T, 4> (&from)[Groups], bool weighted,
                                 const float (&weights)[4], float (&to)[Groups][4]) {
#pragma unroll
  for (int i = 0; i < Groups * 4; ++i) {
    const bool counts = !weighted || weights[i % 4] != 0;
    to[i / 4][i % 4] = counts ? to_float(from[i / 4].at[i % 4]) : 0.0f;
  }
}

}  // namespace fastbg
