// The Gram family on CPUs: further parameters of its kernels, and their variants.
//
// Pixels are divided into chunks and chunks into tiles. This depends only on the shapes, so that sums do not
// depend on the number of threads. A tile is stored channel-last in the first-level cache, in panels of 64
// channels; its products are summed in registers, tiles of a chunk in float32, chunks in float64.
#pragma once

#include "gram_params.h"
#include "isa.h"

namespace fastbg {

constexpr std::int64_t kPanel = 64;          // channels
constexpr std::int64_t kTilePixels = 96;    // a panel is 24 KiB
constexpr std::int64_t kBlockFloats = 48 * 1024;  // a block of tiles lies in the second-level cache
constexpr std::int64_t kChunkPixels = 4096;  // at least: a thread's unit of work

struct GramWork {
  TensorView mask;  // (B,M,H,W) float32, or data is null
  TensorView out;   // (B,M,C,C)
  std::int64_t channels;
  std::int64_t padded;  // channels, up to whole vectors of any variant
  std::int64_t width;   // of a panel: kPanel, or less where there are fewer channels
  std::int64_t chunks;  // per image
  std::int64_t tiles;   // of a block: read at once, multiplied one by one
  float* sums;          // (B,chunks,M,padded,padded): the triangle on and above the diagonal;
                        // where there is one chunk per image, in the threads' scratch instead
  std::int64_t local_floats;
  float* scratch;       // per thread, scratch_floats each
  std::int64_t scratch_floats;
};

// Of one tile: whole panels.
constexpr std::int64_t tile_floats(const GramWork& work) {
  return (work.padded + work.width - 1) / work.width * work.width * kTilePixels;
}

struct GramJob {
  TensorView features;  // (B,C,H,W); one row of H*W pixels where that is possible
  GramWork work;
  std::int64_t chunk_pixels;
};

constexpr std::int64_t kTerms = 4;  // what conv_gram.cpp multiplies with 3 taps of an axis
constexpr std::int64_t kFactors = kTerms * kTerms * 3;  // along both axes, of three channels
constexpr std::int64_t kSlice = 16;                     // features whose factors lie together
constexpr std::int64_t kGroup = 4;                      // squares of 2x2 features at once, at most

// Scratch of conv_gram.cpp.
constexpr std::int64_t kTermFloats = 32;  // one for each square of 2x2 pixels in two rows of a tile
constexpr std::int64_t kLineFloats = 2 * kTermFloats + 32;  // a row of pixels, its rim, a vector's rest
constexpr std::int64_t kRowFloats = 3 * kTerms * kTermFloats;  // factors along a row
constexpr std::int64_t kConvFloats = 6 * kLineFloats + 4 * kRowFloats + kFactors * kTermFloats;

// A chunk is a rectangle of band_rows x band_columns pixels, no wider than two rows of a tile; both
// are even.
struct ConvGramJob {
  TensorView images;
  const float* weight;  // (64/kSlice,kTerms,kTerms,3,kSlice): factors of the taps, channel
  const float* bias;    // (64)
  GramWork work;
  std::int64_t band_rows, band_columns;
  std::int64_t bands_across;
};

FASTBG_DECLARE_VARIANTS(gram, GramJob)
FASTBG_DECLARE_VARIANTS(conv_gram, ConvGramJob)

}  // namespace fastbg
