// What a block of conv.cu computes, and how it brings pixels and weights into shared memory.
//
// A block computes 8 x 16 pixels of one image and N channels. It goes through the channels that it reads in
// chunks of 16 words (16 channels in float32, 32 in half types). A chunk of a pixel is 64 bytes; lane t of a
// quad takes 16 of them at once, which are two steps of the products: words 2s and 2s + 1 are elements t and
// t + 4 (TF32) of step s. Which channel is which element of K does not matter, as weights are packed in the
// same order. So neither reads nor writes of shared memory have bank conflicts, without padding, and what one
// instruction reads is an operand as it is: registers in a row.
#pragma once

#include <algorithm>
#include <limits>

#include "async_copy.cuh"
#include "conv.h"
#include "element.cuh"
#include "launch.cuh"

namespace fastbg {

constexpr int kConvWarps = 8, kConvThreads = kConvWarps * 32;
constexpr int kTileRows = 8, kTileColumns = 16;  // pixels
constexpr int kHaloColumns = kTileColumns + 2, kHalo = (kTileRows + 2) * kHaloColumns;
constexpr int kPieces = 4;  // of 16 bytes, of a chunk of a pixel
constexpr int kSteps = 2;   // products with K = 8 words in a chunk
constexpr int kWide = 64, kNarrow = 16;  // channels written by a block

template <typename T>
constexpr int kChunk = 64 / sizeof(T);  // channels

// How N channels and the pixels of a tile are divided between the warps.
template <int N>
struct Warps {
  static constexpr int kTiles = N / 16;               // of channels: rows of an mma
  static constexpr int kOwn = N == kWide ? 2 : 1;     // tiles of a warp
  static constexpr int kParts = kTiles / kOwn;        // warps that have the same pixels
  static constexpr int kRows = kTileRows * kParts / kConvWarps;  // of pixels, of a warp
  static constexpr int kGroups = kRows * 2;                      // of 8 pixels: columns of an mma
  static constexpr int kLane = 2 * kOwn;              // channels of a pixel that a lane has
  static constexpr int kRowOfTaps = 3 * kSteps * kTiles * 32;  // of packed weights, in 16 bytes
};

// The channels of a convolution or of its input gradient: `read` is the factor of the pixel shuffle that
// reading undoes, `written` that of the one that writing applies.
struct ConvChannels {
  int inputs, outputs;  // for each place in the block of a shuffle
  int read, written;
  int chunks, blocks;  // of the channels read, for all places; of the channels written, for one

  ConvChannels() = default;
  __host__ ConvChannels(std::int64_t in, std::int64_t out, std::int64_t read_, std::int64_t written_,
                        std::size_t element_bytes)
      : inputs(static_cast<int>(in)), outputs(static_cast<int>(out)), read(static_cast<int>(read_)),
        written(static_cast<int>(written_)) {
    chunks = read * read * static_cast<int>(ceil_div<std::int64_t>(in, 64 / element_bytes));
    blocks = static_cast<int>(ceil_div<std::int64_t>(out, channels()));
  }

  __host__ __device__ int channels() const { return outputs <= kNarrow ? kNarrow : kWide; }

  // Elements of the packed weight.
  __host__ std::int64_t packed_size(std::size_t element_bytes) const {
    const std::int64_t matrix = std::int64_t{chunks} * 64 / static_cast<std::int64_t>(element_bytes) * blocks;
    return 9 * written * written * matrix * channels();
  }
};

// And the pixels. Of a map that is read, pixel (above, beside) is the first one that is computed; either may
// be negative.
struct ConvShape : ConvChannels {
  int height = 0, width = 0;   // of the result, before a shuffle
  int down = 0, across = 0;    // numbers of tiles
  int rows = 0, columns = 0;   // of the map that is read, before its shuffle is undone
  int above = 0, beside = 0;
  std::int64_t row = 0, column = 0;  // from a pixel that is read to the next one, in elements

  __host__ explicit ConvShape(const ConvChannels& channels) : ConvChannels(channels) {}

  // Of a result (B,C,H,W), and of a map that is read; false if there are too many pixels.
  __host__ bool cover(const TensorView& out, const TensorView& x, std::int64_t above_ = 0,
                      std::int64_t beside_ = 0) {
    constexpr std::int64_t kMost = std::numeric_limits<int>::max();
    constexpr std::int64_t kLongest = kMost - 31;  // nor is a position in the last tile too large
    const std::int64_t batch = out.sizes[0], h = out.sizes[2], w = out.sizes[3];
    row = read * x.strides[2];
    column = read * x.strides[3];
    for (const std::int64_t side : {h, w, x.sizes[2] / read, x.sizes[3] / read}) {
      if (side > kLongest) return false;
    }
    height = static_cast<int>(h / written);
    width = static_cast<int>(w / written);
    rows = static_cast<int>(x.sizes[2] / read);
    columns = static_cast<int>(x.sizes[3] / read);
    if (std::max(above_ + height, beside_ + width) > kLongest) return false;
    if (std::min(above_, beside_) < -kLongest) return false;
    above = static_cast<int>(above_);
    beside = static_cast<int>(beside_);
    down = ceil_div(height, kTileRows);
    across = ceil_div(width, kTileColumns);
    const std::int64_t tiles = std::int64_t{down} * across, parts = std::int64_t{written} * written * blocks;
    return tiles <= kMost && parts <= kMost && tiles * parts <= kMost / batch;
  }
  __host__ unsigned grid(std::int64_t batch) const {
    return static_cast<unsigned>(batch * down * across * written * written * blocks);
  }
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

// A chunk of the channels that are read: where it begins, in elements from the first channel of a pixel.
struct Chunk {
  std::int64_t offset = 0;
  int channel = 0, y = 0, x = 0;  // the last two are the place in the block of a shuffle

  template <typename T>
  __device__ void advance(const ConvShape& shape, const TensorView& view) {
    channel += kChunk<T>;
    if (channel >= shape.inputs) {
      channel = 0;
      if (++x == shape.read) x = 0, ++y;
    }
    offset = y * view.strides[2] + x * view.strides[3] + channel * view.strides[1];
  }
};

// Whether a map that is read has that pixel.
__device__ inline bool inside(const ConvShape& shape, int y, int x) {
  return static_cast<unsigned>(y) < static_cast<unsigned>(shape.rows) &&
         static_cast<unsigned>(x) < static_cast<unsigned>(shape.columns);
}

// The pixels of a tile and their neighbours that a thread brings into shared memory, zeros for those outside
// of the image and for channels that do not exist. `Packed`: 16 bytes at a time, while the block computes.
template <typename T, bool Packed>
struct Pixels {
  static constexpr int kRounds = (kHalo * kPieces + kConvThreads - 1) / kConvThreads;
  const T* at[kRounds];
  bool exists[kRounds];

  __device__ Pixels(const T* image, const TensorView&, const ConvShape& shape, const ConvBlock& block) {
    const int top = block.top + shape.above - 1, left = block.left + shape.beside - 1;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int i = round * kConvThreads + static_cast<int>(threadIdx.x);
      const int y = top + i / kPieces / kHaloColumns, x = left + i / kPieces % kHaloColumns;
      exists[round] = inside(shape, y, x);
      at[round] = exists[round] ? image + y * shape.row + x * shape.column : image;
    }
  }

  __device__ void read(const ConvShape& shape, const Chunk& chunk, uint4* to) const {
    const int thread = static_cast<int>(threadIdx.x), first = thread % kPieces * kPackOf<T>;
    const int left = min(shape.inputs - chunk.channel - first, kPackOf<T>);
    const std::int64_t offset = left > 0 ? chunk.offset + first : 0;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int i = round * kConvThreads + thread;
      if (i >= kHalo * kPieces) break;
      copy_async(to + i, at[round] + offset, exists[round] && left > 0 ? left * static_cast<int>(sizeof(T)) : 0);
    }
  }
};

template <typename T>
struct Pixels<T, false> {
  const T* image;
  const TensorView& view;
  int top, left;

  __device__ Pixels(const T* image_, const TensorView& view_, const ConvShape& shape, const ConvBlock& block)
      : image(image_), view(view_), top(block.top + shape.above - 1), left(block.left + shape.beside - 1) {}

  __device__ void read(const ConvShape& shape, const Chunk& chunk, uint4* to) const {
    int thread = static_cast<int>(threadIdx.x);
    forget(thread);
    T* const values = reinterpret_cast<T*>(to);
    const bool channels_first = view.strides[1] <= view.strides[3];  // of neighbouring lanes
#pragma unroll 2
    for (int i = thread; i < kHalo * kChunk<T>; i += kConvThreads) {
      const int pixel = channels_first ? i / kChunk<T> : i % kHalo;
      const int c = channels_first ? i % kChunk<T> : i / kHalo;
      const int y = top + pixel / kHaloColumns, x = left + pixel % kHaloColumns;
      T value = from_float<T>(0.0f);
      if (chunk.channel + c < shape.inputs && inside(shape, y, x)) {
        value = image[chunk.offset + y * shape.row + x * shape.column + c * view.strides[1]];
      }
      values[pixel * kChunk<T> + c] = value;
    }
  }
};

// Brings the weights of a chunk and of one row of taps into shared memory.
template <int N>
__device__ inline void read_weights(const uint4* from, uint4* to) {
  constexpr int kCopies = Warps<N>::kRowOfTaps;
#pragma unroll
  for (int i = 0; i < (kCopies + kConvThreads - 1) / kConvThreads; ++i) {
    const int at = i * kConvThreads + static_cast<int>(threadIdx.x);
    if (kCopies % kConvThreads != 0 && at >= kCopies) break;
    copy_async(to + at, from + at, 16);
  }
}

}  // namespace fastbg
