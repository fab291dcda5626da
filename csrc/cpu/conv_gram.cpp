// conv_gram: features of a tile are computed into the cache, multiplied there, and forgotten.
#include "gram_regions.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

constexpr int kSums = kLanes == 16 ? 2 : 1;  // vectors of features at once
constexpr int kPairs = 3;                    // of pixels: 4 * kPairs * kSums registers hold sums

// Two neighbouring features need 4 products per row of 3 taps, not 6 (Winograd's F(2,3)): inputs
// d0..d3 and taps g0..g2 give
//   m0 = (d0 - d2) g0                   m1 = (d1 + d2) (g0 + g1 + g2) / 2
//   m2 = (d2 - d1) (g0 - g1 + g2) / 2   m3 = (d1 - d3) g2
//   features m0 + m1 + m2 and m1 - m2 - m3.
// The factors of the taps are in job.weight, those of the image are made once per band.
struct Factors {
  float* data;  // (3, rows + 2, kTerms, term)
  std::int64_t plane, row, term, pairs;
};

struct Band {
  std::int64_t image, y, x, rows, columns;
};

Band band_of(const ConvGramJob& job, std::int64_t chunk) {
  const std::int64_t height = job.images.sizes[2], width = job.images.sizes[3];
  const std::int64_t k = chunk % job.work.chunks;
  const std::int64_t y = k / job.bands_across * job.band_rows;
  const std::int64_t x = k % job.bands_across * job.band_columns;
  return {chunk / job.work.chunks, y, x, smaller(job.band_rows, height - y),
          smaller(job.band_columns, width - x)};
}

// One row of the band and its rim, zeros beyond the border; `to` holds 2 * pairs + 2 pixels.
void read_row(const ConvGramJob& job, const Band& band, std::int64_t channel, std::int64_t y,
              std::int64_t pixels, float* to) {
  const TensorView& images = job.images;
  std::memset(to, 0, static_cast<std::size_t>(pixels) * sizeof(float));
  if (y < 0 || y >= images.sizes[2]) return;
  const std::int64_t x0 = larger(band.x - 1, 0);
  const std::int64_t x1 = smaller(band.x + band.columns + 1, images.sizes[3]);
  const std::int64_t offset = band.image * images.strides[0] + channel * images.strides[1] +
                              y * images.strides[2] + x0 * images.strides[3];
  const char* from = static_cast<const char*>(images.data) + offset * element_size(images.dtype);
  read_floats(from, images.dtype, images.strides[3], x1 - x0, to + x0 - (band.x - 1));
}

template <std::size_t... L>
Vec even_lanes(Vec low, Vec high, std::index_sequence<L...>) {
  return __builtin_shufflevector(low, high, (2 * L)...);
}

// from[0], from[2], ...
Vec every_other(const float* from) {
  return even_lanes(load(from), load(from + kLanes), std::make_index_sequence<kLanes>{});
}

Factors factors_of(const ConvGramJob& job, const Band& band, float* scratch) {
  const std::int64_t pairs = (band.columns + 1) / 2;
  const std::int64_t term = (pairs + kLanes - 1) / kLanes * kLanes, row = kTerms * term;
  float* line = scratch;
  const Factors factors{scratch + kRowFloats, (band.rows + 2) * row, row, term, pairs};
  float* to = factors.data;
  for (std::int64_t channel = 0; channel < 3; ++channel) {
    for (std::int64_t r = 0; r < band.rows + 2; ++r, to += row) {
      read_row(job, band, channel, band.y - 1 + r, 2 * pairs + 2, line);
      for (std::int64_t p = 0; p < pairs; p += kLanes) {  // beyond `pairs`: never read
        const Vec d0 = every_other(line + 2 * p), d1 = every_other(line + 2 * p + 1);
        const Vec d2 = every_other(line + 2 * p + 2), d3 = every_other(line + 2 * p + 3);
        store(to + p, d0 - d2);
        store(to + term + p, d1 + d2);
        store(to + 2 * term + p, d2 - d1);
        store(to + 3 * term + p, d1 - d3);
      }
    }
  }
  return factors;
}

// Features of P neighbouring pairs of pixels; `from` are the factors of the first.
template <int P>
void convolve(const ConvGramJob& job, const Factors& factors, const float* from, float* to) {
  for (std::int64_t first = 0; first < kPanel; first += kSums * kLanes) {
    Vec sum[kTerms][P][kSums] = {};
#pragma GCC unroll 16
    for (int v = 0; v < kSums; ++v) {
      const Vec bias = load(job.bias + first + v * kLanes);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) sum[1][p][v] = bias;  // in both features
    }
    const float* weight = job.weight + first;
    for (int channel = 0; channel < 3; ++channel) {
      for (int y = 0; y < 3; ++y) {
        const float* factor = from + channel * factors.plane + y * factors.row;
#pragma GCC unroll 4
        for (int m = 0; m < kTerms; ++m, weight += kPanel, factor += factors.term) {
          Vec taps[kSums];
#pragma GCC unroll 16
          for (int v = 0; v < kSums; ++v) {
            taps[v] = load(weight + v * kLanes);
            keep(taps[v]);
          }
#pragma GCC unroll 16
          for (int p = 0; p < P; ++p) {
            const Vec value = broadcast(factor[p]);
#pragma GCC unroll 16
            for (int v = 0; v < kSums; ++v) {
              sum[m][p][v] = multiply_add(value, taps[v], sum[m][p][v]);
            }
          }
        }
      }
    }
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
      for (int v = 0; v < kSums; ++v) {
        float* pixel = to + 2 * p * kPanel + first + v * kLanes;
        store(pixel, relu(sum[0][p][v] + sum[1][p][v] + sum[2][p][v]));
        store(pixel + kPanel, relu(sum[1][p][v] - sum[2][p][v] - sum[3][p][v]));
      }
    }
  }
}

// Features of a row, its pairs in groups of nearly equal size. Of an odd number of pixels one too
// many is written; the next row or nobody needs its place.
void convolve_row(const ConvGramJob& job, const Factors& factors, std::int64_t row, float* to) {
  const float* from = factors.data + row * factors.row;
  std::int64_t left = factors.pairs;
  for (std::int64_t groups = (left + kPairs - 1) / kPairs; groups > 0; --groups) {
    const std::int64_t pairs = left / groups;
    switch (pairs) {
      case 3: convolve<3>(job, factors, from, to); break;
      case 2: convolve<2>(job, factors, from, to); break;
      default: convolve<1>(job, factors, from, to);
    }
    left -= pairs;
    from += pairs;
    to += 2 * pairs * kPanel;
  }
}

void read_weights(const GramWork& work, const Band& band, std::int64_t region, std::int64_t row,
                  std::int64_t rows, float* to) {
  for (std::int64_t r = row; r < row + rows; ++r) {
    const float* from = weights_at(work, band.image, region, band.y + r, band.x);
    for (std::int64_t x = 0; x < band.columns; ++x) *to++ = from[x * work.mask.strides[3]];
  }
}

void sum_band(const ConvGramJob& job, std::int64_t chunk, const Tiles& tiles, float* sums) {
  const GramWork& work = job.work;
  const Band band = band_of(job, chunk);
  const Factors factors = factors_of(job, band, tiles.rest);
  const std::int64_t size = kPanel * kPanel;
  const std::int64_t step = kTilePixels / job.band_columns;
  for (std::int64_t row = 0; row < band.rows; row += step) {
    const std::int64_t rows = smaller(step, band.rows - row);
    for (std::int64_t r = 0; r < rows; ++r) {
      convolve_row(job, factors, row + r, tiles.features + r * band.columns * kPanel);
    }
    const std::int64_t pixels = rows * band.columns;
    if (!work.mask.data) {
      add_tile(tiles.features, tiles.features, pixels, work, sums);
      continue;
    }
    for (std::int64_t m = 0; m < regions(work); ++m) {
      read_weights(work, band, m, row, rows, tiles.weight);
      add_weighted_tile(tiles, tiles.features, pixels, work, sums + m * size);
    }
  }
}

}  // namespace

void conv_gram(const ConvGramJob& job, int threads) {
  run_chunks(job.work, threads, [&](std::int64_t chunk, const Tiles& tiles, float* sums) {
    sum_band(job, chunk, tiles, sums);
  });
}

}  // namespace fastbg::FASTBG_VARIANT
