// What a block of conv.cu computes, and how it brings pixels and weights into shared memory.
//
// A block computes 8 x 16 pixels of one image and N channels. It goes through the channels that it reads in
// chunks of 16 words (16 channels in float32, 32 in half types). A chunk of a pixel is 64 bytes; lane t of a
// quad takes 16 of them at once, which are two steps of the products: words 2s and 2s + 1 are elements t and
// t + 4 (TF32) of step s. Which channel is which element of K does not matter, as weights are packed in the
// same order. So neither reads nor writes of shared memory have bank conflicts, without padding.
#pragma once

#include <limits>

#include "async_copy.cuh"
#include "conv.h"
#include "element.cuh"
#include "launch.cuh"

namespace fastbg {

constexpr int kConvWarps = 8, kConvThreads = kConvWarps * 32;
constexpr int kTileRows = 8, kTileColumns = 16;  // a row is the rows of one mma
constexpr int kHaloColumns = kTileColumns + 2, kHalo = (kTileRows + 2) * kHaloColumns;
constexpr int kParts = 4;   // of 16 bytes, of a chunk of a pixel
constexpr int kSteps = 2;   // products with K = 8 words in a chunk
constexpr int kWide = 64, kNarrow = 16;  // channels written by a block

template <typename T>
constexpr int kChunk = 64 / sizeof(T);  // channels

// How N channels are divided between the warps: each has kRows rows of pixels and kGroups x 16 channels.
template <int N>
struct Warps {
  static constexpr int kTiles = N / 8;  // columns of an mma
  static constexpr int kAcross = N == kWide ? 2 : 1;
  static constexpr int kRows = kTileRows * kAcross / kConvWarps;
  static constexpr int kOwn = kTiles / kAcross;
  static constexpr int kRowOfTaps = 3 * kSteps * kTiles * 32;  // of packed weights, in 8 bytes
};

// A convolution or its input gradient: `read` is the factor of the pixel shuffle that reading undoes,
// `written` that of the one that writing applies.
struct ConvShape {
  int inputs, outputs;  // channels, for each place in the block of a shuffle
  int read, written;
  int chunks, blocks;  // of the channels read, for all places; of the channels written, for one
  int height, width;   // of the maps, before a shuffle
  int down, across;    // numbers of tiles

  __host__ ConvShape(std::int64_t in, std::int64_t out, std::int64_t read_, std::int64_t written_,
                     std::size_t element_bytes)
      : inputs(static_cast<int>(in)), outputs(static_cast<int>(out)), read(static_cast<int>(read_)),
        written(static_cast<int>(written_)) {
    chunks = read * read * static_cast<int>(ceil_div<std::int64_t>(in, 64 / element_bytes));
    blocks = static_cast<int>(ceil_div<std::int64_t>(out, channels()));
    height = width = down = across = 0;  // of a weight
  }

  // Of a result with H x W pixels; false if their number is too large.
  __host__ bool cover(std::int64_t batch, std::int64_t h, std::int64_t w) {
    constexpr std::int64_t kMost = std::numeric_limits<int>::max();
    if (h > kMost || w > kMost) return false;  // also after a shuffle
    height = static_cast<int>(h / written);
    width = static_cast<int>(w / written);
    down = ceil_div(height, kTileRows);
    across = ceil_div(width, kTileColumns);
    const std::int64_t tiles = std::int64_t{down} * across, parts = std::int64_t{written} * written * blocks;
    return tiles <= kMost && parts <= kMost && tiles * parts <= kMost / batch;
  }
  __host__ unsigned grid(std::int64_t batch) const {
    return static_cast<unsigned>(batch * down * across * written * written * blocks);
  }

  __host__ __device__ int channels() const { return outputs <= kNarrow ? kNarrow : kWide; }
};

// The part of the result that a block computes. Blocks that read the same pixels follow one another.
struct ConvBlock {
  std::int64_t image;
  int top, left;  // first pixel
  int place;      // in the block of the pixel shuffle that is applied
  int first;      // block of channels

  __device__ ConvBlock(const ConvShape& shape, unsigned at) {
    const auto take = [&](int of) {
      const unsigned taken = at % static_cast<unsigned>(of);
      at /= static_cast<unsigned>(of);
      return static_cast<int>(taken);
    };
    first = take(shape.blocks);
    place = take(shape.written * shape.written);
    left = take(shape.across) * kTileColumns;
    top = take(shape.down) * kTileRows;
    image = at;
  }
};

// An image that is read.
template <typename T>
struct Source {
  const T* image;
  const TensorView& view;
  const ConvShape& shape;

  // Where a pixel lies, in the corner (dy, dx) of a block of the shuffle.
  __device__ std::int64_t offset(int y, int x, int corner) const {
    return (std::int64_t{y} * shape.read + corner / shape.read) * view.strides[2] +
           (std::int64_t{x} * shape.read + corner % shape.read) * view.strides[3];
  }
  __device__ bool inside(int y, int x) const {
    return static_cast<unsigned>(y) < static_cast<unsigned>(shape.height) &&
           static_cast<unsigned>(x) < static_cast<unsigned>(shape.width);
  }
};

// Brings a chunk of the tile's pixels and of their neighbours into shared memory, zeros for those outside
// of the image and for channels that do not exist. `Packed`: 16 bytes at a time, while the block computes.
template <typename T, bool Packed>
__device__ inline void read_pixels(const Source<T>& from, const ConvBlock& block, int chunk, uint4* to) {
  const int inputs = from.shape.inputs, chunks = (inputs + kChunk<T> - 1) / kChunk<T>;
  const int corner = chunk / chunks, channel = chunk % chunks * kChunk<T>;
  int thread = static_cast<int>(threadIdx.x);
  forget(thread);
  if constexpr (Packed) {
#pragma unroll
    for (int round = 0; round < (kHalo * kParts + kConvThreads - 1) / kConvThreads; ++round) {
      const int i = round * kConvThreads + thread;
      if (i >= kHalo * kParts) break;
      const int y = block.top - 1 + i / kParts / kHaloColumns;
      const int x = block.left - 1 + i / kParts % kHaloColumns;
      const int first = channel + i % kParts * kPackOf<T>;
      const int left = min(inputs - first, kPackOf<T>);
      const bool exists = left > 0 && from.inside(y, x);
      const T* at = exists ? from.image + from.offset(y, x, corner) + first : from.image;
      copy_async(to + i, at, exists ? left * static_cast<int>(sizeof(T)) : 0);
    }
  } else {
    T* const values = reinterpret_cast<T*>(to);
    const bool channels_first = from.view.strides[1] <= from.view.strides[3];  // of neighbouring lanes
#pragma unroll 2
    for (int i = thread; i < kHalo * kChunk<T>; i += kConvThreads) {
      const int pixel = channels_first ? i / kChunk<T> : i % kHalo;
      const int c = channels_first ? i % kChunk<T> : i / kHalo;
      const int y = block.top - 1 + pixel / kHaloColumns;
      const int x = block.left - 1 + pixel % kHaloColumns;
      T value = from_float<T>(0.0f);
      if (channel + c < inputs && from.inside(y, x)) {
        value = from.image[from.offset(y, x, corner) + (channel + c) * from.view.strides[1]];
      }
      values[pixel * kChunk<T> + c] = value;
    }
  }
}

// Brings the weights of a chunk and of one row of taps into shared memory.
template <int N>
__device__ inline void read_weights(const uint4* from, uint4* to) {
  constexpr int kCopies = Warps<N>::kRowOfTaps / 2;
#pragma unroll
  for (int i = 0; i < (kCopies + kConvThreads - 1) / kConvThreads; ++i) {
    const int at = i * kConvThreads + static_cast<int>(threadIdx.x);
    if (kCopies % kConvThreads != 0 && at >= kCopies) break;
    copy_async(to + at, from + at, 16);
  }
}

}  // namespace fastbg
