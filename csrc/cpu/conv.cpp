// conv3x3 by Winograd's F(4x4, 3x3); conv.h says how the work is divided.
#include "conv.h"

#include "stack_product.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// 4x4 outputs of one tile and one vector of channels, of which `kept` exist.
void transform_output(const ConvJob& job, const Tile& tile, std::int64_t channel, std::int64_t kept,
                      Vec bias, const float* from) {
  const std::int64_t rows = smaller(4, job.grid.height - tile.y), columns = smaller(4, job.grid.width - tile.x);
  Vec half[4][6];
#pragma GCC unroll 6
  for (int c = 0; c < 6; ++c) {
    Vec m[6], y[4];
#pragma GCC unroll 6
    for (int r = 0; r < 6; ++r) m[r] = load(from + (6 * r + c) * kPlaneFloats);
    output_values(m, y);
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) half[r][c] = y[r];
  }
  float* out = job.out.at(tile.image, tile.y, tile.x, channel);
  const float* residual =
      job.residual.data ? job.residual.at(tile.image, tile.y, tile.x, channel) : nullptr;
  for (int r = 0; r < rows; ++r) {
    Vec y[4];
    output_values(half[r], y);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      if (c >= columns) break;
      Vec value = y[c] + bias;
      if (job.relu) value = relu(value);
      if (residual) {
        const float* whole = residual + r * job.residual.row + c * job.residual.column;
        value = multiply_add(broadcast(job.residual_scale), value, load_some(whole, kept));
      }
      store_some(out + r * job.out.row + c * job.out.column, value, kept);
    }
  }
}

// Output channels `channel` (of the padded ones) to channel + width, which lie in one group.
void finish_block(const ConvJob& job, std::int64_t first, std::int64_t tiles, std::int64_t channel,
                  std::int64_t width, const float* sums) {
  const std::int64_t place = channel / job.group_padded, inside = channel % job.group_padded;
  const std::int64_t exist = smaller(width, job.out.group - inside);
  for (std::int64_t t = 0; t < tiles; ++t) {
    const Tile tile = tile_of(job.grid, first + t);
    for (std::int64_t v = 0; v < exist; v += kLanes) {
      const Vec bias = job.bias ? load(job.bias + channel + v) : Vec{};
      transform_output(job, tile, place * job.out.group + inside + v, smaller(kLanes, exist - v),
                       bias, sums + t * kConvPanel + v);
    }
  }
}

std::int64_t pieces_of(const ConvContents& contents) {
  return (contents.bytes + kFingerprintPiece - 1) / kFingerprintPiece;
}

FingerprintState state_of(const ConvContents& contents, std::int64_t piece) {
  const std::int64_t start = piece * kFingerprintPiece;
  return fingerprint(contents.weight + start, smaller(kFingerprintPiece, contents.bytes - start),
                     contents.secret);
}

bool is_changed(const ConvContents& contents, std::int64_t piece) {
  const FingerprintState now = state_of(contents, piece);
  return std::memcmp(&now, contents.states + piece, sizeof now) != 0;
}

void compute_block(const ConvJob& job, std::int64_t block, Scratch& scratch) {
  const std::int64_t first = block * job.grid.block;
  const std::int64_t tiles = smaller(job.grid.block, job.grid.tiles - first);
  // Sums may overwrite the terms of the previous product if these are not used again.
  const bool on_terms = job.in <= kConvPanel && job.out_padded <= smaller(kConvPanel, job.group_padded);
  float* sums = on_terms ? scratch.terms : scratch.sums;
  float* terms = scratch.terms + kPlaneFloats;
  bool transformed = false;
  for (std::int64_t channel = 0; channel < job.out_padded;) {
    const std::int64_t left = job.group_padded - channel % job.group_padded;
    const std::int64_t width = smaller(kConvPanel, left);
    const float* factors = job.factors + kTerms2d * job.in * channel;
    for (std::int64_t chunk = 0; chunk < job.in; chunk += kConvPanel) {
      const std::int64_t in = smaller(kConvPanel, job.in - chunk);
      if (!transformed) transform_tiles(job.grid, job.x, job.gate, first, tiles, chunk, in, terms);
      transformed = job.in <= kConvPanel;  // the same terms serve all output channels
      for (std::int64_t k = 0; k < kTerms2d; ++k) {
        multiply_plane(terms + k * kPlaneFloats, factors + (k * job.in + chunk) * width, in, width, width / kLanes,
                       tiles, chunk > 0, sums + k * kPlaneFloats);
      }
    }
    finish_block(job, first, tiles, channel, width, sums);
    channel += width;
  }
}

}  // namespace

void conv3x3(const ConvJob& job, int threads) {
  // Every thread checks its share of the weight first, which is faster than a pass of its own.
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static) nowait
    for (std::int64_t piece = 0; piece < pieces_of(job.contents); ++piece) {
      if (is_changed(job.contents, piece)) __atomic_store_n(job.changed, true, __ATOMIC_RELAXED);
    }
#pragma omp for schedule(static) nowait
    for (std::int64_t block = 0; block < job.grid.blocks; ++block) {
      compute_block(job, block, scratch_of_thread());
    }
  }
}

void conv_fingerprint(const ConvContents& contents, int) {
  for (std::int64_t piece = 0; piece < pieces_of(contents); ++piece) {
    contents.states[piece] = state_of(contents, piece);
  }
}

// Panels in turn, each (36, in, width): see compute_block.
void conv_factors(const ConvFactorsJob& job, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t i = 0; i < job.in; ++i) {
    for (std::int64_t channel = 0; channel < job.out;) {
      const std::int64_t width = smaller(kConvPanel, job.group - channel % job.group);
      float* panel = job.factors + kTerms2d * job.in * channel + i * width;
      for (std::int64_t v = 0; v < width; v += kLanes) {
        const float* weight = job.weight + i * 9 * job.out + channel + v;
        Vec half[6][3];
        for (int c = 0; c < 3; ++c) {
          Vec g[3], u[6];
          for (int r = 0; r < 3; ++r) g[r] = load(weight + (3 * r + c) * job.out);
          weight_factors(g, u);
          for (int r = 0; r < 6; ++r) half[r][c] = u[r];
        }
        for (int r = 0; r < 6; ++r) {
          Vec u[6];
          weight_factors(half[r], u);
          for (int c = 0; c < 6; ++c) store(panel + (6 * r + c) * job.in * width + v, u[c]);
        }
      }
      channel += width;
    }
  }
}

}  // namespace fastbg::FASTBG_VARIANT
