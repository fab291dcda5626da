// Gradient of conv3x3 to its weights: the transposes of Winograd's transforms, see conv.h.
#include "winograd.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// The 36 terms of one tile of gradients and one vector of channels; returns the tile's sum.
Vec transform_gradient(const ConvWeightJob& job, const Tile& tile, std::int64_t channel, float* to) {
  const float* from = job.grad.at(tile.image, tile.y, tile.x, channel);
  const float* gate = job.gate.data ? job.gate.at(tile.image, tile.y, tile.x, channel) : nullptr;
  const std::int64_t rows = smaller(4, job.grid.height - tile.y);
  const std::int64_t columns = smaller(4, job.grid.width - tile.x);
  Vec sum{};
  Vec half[6][4];
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    Vec y[4], m[6];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const bool there = r < rows && c < columns;
      y[r] = there ? load(from + r * job.grad.row + c * job.grad.column) : Vec{};
      if (gate && there) y[r] = gated(y[r], load(gate + r * job.gate.row + c * job.gate.column));
      sum += y[r];
    }
    output_terms(y, m);
#pragma GCC unroll 6
    for (int r = 0; r < 6; ++r) half[r][c] = m[r];
  }
#pragma GCC unroll 6
  for (int r = 0; r < 6; ++r) {
    Vec m[6];
    output_terms(half[r], m);
#pragma GCC unroll 6
    for (int c = 0; c < 6; ++c) store(to + (6 * r + c) * kPlaneFloats, m[c]);
  }
  return sum;
}

// Gradients to the factors of a panel: (36, in, width) += terms^T gradients, summed over the tiles.
void add_products(const Scratch& scratch, std::int64_t in, std::int64_t width, std::int64_t tiles,
                  std::int64_t plane, float* sums) {
  for (std::int64_t k = 0; k < kTerms2d; ++k) {
    for (std::int64_t i = 0; i < in; i += kLanes) {
      add_rows(scratch.terms + k * kPlaneFloats + i, scratch.sums + k * kPlaneFloats,
               width / kLanes, tiles, kConvPanel, sums + k * plane + i * width, width);
    }
  }
}

void add_block_of_tiles(const ConvWeightJob& job, std::int64_t first, std::int64_t tiles,
                        Scratch& scratch, float* sums) {
  float* bias = sums + kTerms2d * job.in * job.out;
  for (std::int64_t chunk = 0; chunk < job.in; chunk += kConvPanel) {
    const std::int64_t in = smaller(kConvPanel, job.in - chunk);
    transform_tiles(job.grid, job.x, ConvMaps{}, first, tiles, chunk, in, scratch.terms);
    for (std::int64_t channel = 0; channel < job.out; channel += kConvPanel) {
      const std::int64_t width = smaller(kConvPanel, job.out - channel);
      for (std::int64_t t = 0; t < tiles; ++t) {
        const Tile tile = tile_of(job.grid, first + t);
        for (std::int64_t v = 0; v < width; v += kLanes) {
          const Vec sum = transform_gradient(job, tile, channel + v, scratch.sums + t * kConvPanel + v);
          float* to = bias + channel + v;
          if (chunk == 0) store(to, load(to) + sum);
        }
      }
      float* panel = sums + kTerms2d * job.in * channel + chunk * width;
      add_products(scratch, in, width, tiles, job.in * width, panel);
    }
  }
}

// Weights of input channel i, of the sums of all parts.
void finish_row(const ConvWeightJob& job, std::int64_t i, std::int64_t size) {
  for (std::int64_t channel = 0; channel < job.out; channel += kConvPanel) {
    const std::int64_t width = smaller(kConvPanel, job.out - channel);
    for (std::int64_t v = 0; v < width; v += kLanes) {
      const float* from = job.sums + kTerms2d * job.in * channel + i * width + v;
      Vec half[3][6];
      for (int c = 0; c < 6; ++c) {
        Vec u[6], g[3];
        for (int r = 0; r < 6; ++r) {
          u[r] = Vec{};
          for (std::int64_t p = 0; p < kWeightParts; ++p) {
            u[r] += load(from + p * size + (6 * r + c) * job.in * width);
          }
        }
        weight_values(u, g);
        for (int r = 0; r < 3; ++r) half[r][c] = g[r];
      }
      for (int r = 0; r < 3; ++r) {
        Vec g[3];
        weight_values(half[r], g);
        for (int c = 0; c < 3; ++c) store(job.weight + (i * 9 + 3 * r + c) * job.out + channel + v, g[c]);
      }
    }
  }
}

}  // namespace

void conv_weight_gradient(const ConvWeightJob& job, int threads) {
  const std::int64_t size = kTerms2d * job.in * job.out + job.out;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(dynamic, 1)
    for (std::int64_t part = 0; part < kWeightParts; ++part) {
      for (std::int64_t block = part; block < job.grid.blocks; block += kWeightParts) {
        const std::int64_t first = block * job.grid.block;
        const std::int64_t tiles = smaller(job.grid.block, job.grid.tiles - first);
        add_block_of_tiles(job, first, tiles, scratch_of_thread(), job.sums + part * size);
      }
    }
#pragma omp for schedule(static)
    for (std::int64_t i = 0; i < job.in; ++i) finish_row(job, i, size);
  }
  for (std::int64_t o = 0; o < job.out; ++o) {
    float sum = 0;
    for (std::int64_t p = 0; p < kWeightParts; ++p) sum += job.sums[p * size + size - job.out + o];
    job.bias[o] = sum;
  }
}

}  // namespace fastbg::FASTBG_VARIANT
