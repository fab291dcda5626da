// 3x3 convolution on CPUs: further parameters of its kernels, and their variants.
//
// Winograd's F(4x4, 3x3): a tile of 6x6 inputs becomes 36 numbers per channel; each of the 36 is one
// small matrix product over the channels, tiles against output channels; 36 sums per channel become
// 4x4 outputs. That is a quarter of the multiplications of the direct sum, which already runs at the
// CPU's peak rate. Tiles are computed kTiles at a time, so that they stay in the second-level cache; a
// tile's result does not depend on other tiles, nor on the number of threads.
#pragma once

#include "conv_params.h"
#include "fingerprint.h"
#include "isa.h"

namespace fastbg {

constexpr std::int64_t kConvLanes = 16;   // channels come in multiples of it: the widest vector
constexpr std::int64_t kConvPanel = 64;   // channels at once, in and out
constexpr std::int64_t kTerms2d = 36;     // 6x6
constexpr std::int64_t kTiles = 36;       // at once: their 36 planes take 330 KiB of the second-level cache
// Padded, as the 36 planes would otherwise be multiples of 4096 bytes apart and share a few cache sets.
constexpr std::int64_t kPlaneFloats = kTiles * kConvPanel + 16;

// FeatureMaps with strides in floats, per block of r x r pixels.
struct ConvMaps {
  float* data;
  std::int64_t image, row, column;
  std::int64_t block_row, block_column;  // inside a block
  std::int64_t upscale;
  std::int64_t group;  // channels of a pixel

  float* at(std::int64_t b, std::int64_t y, std::int64_t x, std::int64_t channel) const {
    const std::int64_t place = channel / group;
    return data + b * image + y * row + x * column + place / upscale * block_row +
           place % upscale * block_column + channel % group;
  }
};

// Tiles of 4x4 outputs, image by image, and the number computed together.
struct ConvGrid {
  std::int64_t height, width;
  std::int64_t down, across, tiles;
  std::int64_t block, blocks;
};

// A weight in memory, and its fingerprint at the time when its factors were computed.
struct ConvContents {
  const char* weight;
  std::int64_t bytes;  // 0: nothing to compare
  const std::uint64_t* secret;
  FingerprintState* states;  // of each piece
};

struct ConvJob {
  ConvGrid grid;
  ConvMaps x, gate, residual, out;
  const float* factors;
  const float* bias;
  bool relu;
  float residual_scale;
  std::int64_t in, out_padded;  // channels, in multiples of kConvLanes
  std::int64_t group_padded;    // of out.group
  ConvContents contents;
  bool* changed;  // set if the fingerprint differs
};

// Blocks are assigned to a fixed number of parts, each with its own sums, so that results do not depend
// on the number of threads.
constexpr std::int64_t kWeightParts = 4;

struct ConvWeightJob {
  ConvGrid grid;
  ConvMaps x, grad, gate;  // gate belongs to grad
  std::int64_t in, out;    // channels, in multiples of kConvLanes
  float* sums;             // (kWeightParts, 36 * in * out + out): zeros at first
  float* weight;           // (in,3,3,out)
  float* bias;             // (out)
};

struct ConvFactorsJob {
  const float* weight;
  float* factors;
  std::int64_t in, out, group;
};

FASTBG_DECLARE_VARIANTS(conv3x3, ConvJob)
FASTBG_DECLARE_VARIANTS(conv_fingerprint, ConvContents)
FASTBG_DECLARE_VARIANTS(conv_factors, ConvFactorsJob)
FASTBG_DECLARE_VARIANTS(conv_weight_gradient, ConvWeightJob)

}  // namespace fastbg
