// conv_gram: the features of a tile are computed into the cache, multiplied there, and never stored.
#include "gram_regions.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// Squares of 2x2 features computed at once; each needs registers for 4 sums and a product.
constexpr std::int64_t kSquares = kLanes == 16 ? kGroup : 2;

// 2x2 neighbouring features need 16 products per channel, not 36 (Winograd's F(2x2, 3x3)). Along one
// axis, inputs d0..d3 and taps g0..g2 give
//   m0 = (d0 - d2) g0                   m1 = (d1 + d2) (g0 + g1 + g2) / 2
//   m2 = (d2 - d1) (g0 - g1 + g2) / 2   m3 = (d1 - d3) g2
//   features m0 + m1 + m2 and m1 - m2 - m3;
// here along both. The factors of the taps are in job.weight.
constexpr int kSigns[2][kTerms] = {{1, 1, 1, 0}, {0, 1, -1, -1}};

struct Factors {
  float* lines;  // (2, 3, kLineFloats): two rows of the image
  float* rows;   // (4, 3, kTerms, kTermFloats): factors along rows, of row r in place r % 4
  float* terms;  // (kTerms, kTerms, 3, kTermFloats): along both axes
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
  const std::int64_t bytes = element_size(images.dtype);
  const char* from = static_cast<const char*>(images.data) + offset * bytes;
  read_floats(from, images.dtype, images.strides[3], x1 - x0, to + x0 - (band.x - 1));
  // Prefetches the next two rows, as rows of a band are too short for the hardware prefetcher.
  const char* ahead = from + 2 * images.strides[2] * bytes;
  const std::int64_t pixel = images.strides[3] * bytes, end = (x1 - x0) * pixel;
  for (std::int64_t at = 0; at < end; at += larger(kLine, pixel)) __builtin_prefetch(ahead + at);
}

template <std::size_t... L>
Vec even_lanes(Vec low, Vec high, std::index_sequence<L...>) {
  return shuffle<2 * L...>(low, high);
}

// from[0], from[2], ...
Vec every_other(const float* from) {
  return even_lanes(load(from), load(from + kLanes), std::make_index_sequence<kLanes>{});
}

// The factors of the inputs d0..d3 of an axis, `step` apart.
void store_terms(Vec d0, Vec d1, Vec d2, Vec d3, float* to, std::int64_t step) {
  store(to, d0 - d2);
  store(to + step, d1 + d2);
  store(to + 2 * step, d2 - d1);
  store(to + 3 * step, d1 - d3);
}

// Factors along rows `first` and `first` + 1 of the band's image, counted from its rim.
void factor_rows(const ConvGramJob& job, const Band& band, std::int64_t first, const Factors& factors) {
  const std::int64_t pairs = (band.columns + 1) / 2;
  // All lines first, as loads that span several recent stores would stall.
  for (std::int64_t i = 0; i < 6; ++i) {
    read_row(job, band, i % 3, band.y - 1 + first + i / 3, 2 * pairs + 2, factors.lines + i * kLineFloats);
  }
  for (std::int64_t i = 0; i < 6; ++i) {
    const float* line = factors.lines + i * kLineFloats;
    float* to = factors.rows + (first + i / 3) % 4 * kRowFloats + i % 3 * kTerms * kTermFloats;
    for (std::int64_t p = 0; p < pairs; p += kLanes) {  // beyond `pairs`: never read
      const Vec d0 = every_other(line + 2 * p), d1 = every_other(line + 2 * p + 1);
      const Vec d2 = every_other(line + 2 * p + 2), d3 = every_other(line + 2 * p + 3);
      store_terms(d0, d1, d2, d3, to + p, kTermFloats);
    }
  }
}

// Combines the factors of rows `first` to `first` + 3.
void combine_rows(std::int64_t first, std::int64_t columns, const Factors& factors) {
  constexpr std::int64_t kStep = 3 * kTerms * kTermFloats;  // of terms of the next factor of columns
  const float* rows[4];
  for (std::int64_t r = 0; r < 4; ++r) rows[r] = factors.rows + (first + r) % 4 * kRowFloats;
  for (std::int64_t channel = 0; channel < 3; ++channel) {
    for (std::int64_t m = 0; m < kTerms; ++m) {
      const std::int64_t from = (channel * kTerms + m) * kTermFloats;
      float* to = factors.terms + (m * 3 + channel) * kTermFloats;
      for (std::int64_t p = 0; p < (columns + 1) / 2; p += kLanes) {
        const Vec d0 = load(rows[0] + from + p), d1 = load(rows[1] + from + p);
        const Vec d2 = load(rows[2] + from + p), d3 = load(rows[3] + from + p);
        store_terms(d0, d1, d2, d3, to + p, kStep);
      }
    }
  }
}

// Adds the product of number m of an axis to the feature of number i.
void add_product(int m, int i, Vec product, Vec& feature) {
  if (m == i) {
    feature = product;  // the first one
  } else if (kSigns[i][m] != 0) {
    feature = kSigns[i][m] > 0 ? feature + product : feature - product;
  }
}

// A vector of the features of P neighbouring squares of 2x2 pixels; `from` are the terms of the first.
template <int P>
void convolve(const float* weight, Vec bias, const float* from, float* to, std::int64_t row) {
  Vec sum[2][2][P];
#pragma GCC unroll 4
  for (int down = 0; down < kTerms; ++down) {
    Vec of_row[2][P];
#pragma GCC unroll 4
    for (int across = 0; across < kTerms; ++across) {
      Vec product[P];
#pragma GCC unroll 3
      for (int channel = 0; channel < 3; ++channel, weight += kSlice, from += kTermFloats) {
        Vec taps = load(weight);
        keep(taps);
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) {
          const Vec value = broadcast(from[p]);
          if (channel > 0) {
            product[p] = multiply_add(value, taps, product[p]);
          } else if (down == 1 && across == 1) {  // which all four features take once
            product[p] = multiply_add(value, taps, bias);
          } else {
            product[p] = value * taps;
          }
        }
      }
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        add_product(across, 0, product[p], of_row[0][p]);
        add_product(across, 1, product[p], of_row[1][p]);
        keep(of_row[0][p]);  // now: products that wait for their sums would not fit
        if (across > 0) keep(of_row[1][p]);
      }
    }
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
      for (int x = 0; x < 2; ++x) {
        add_product(down, 0, of_row[x][p], sum[0][x][p]);
        add_product(down, 1, of_row[x][p], sum[1][x][p]);
      }
    }
  }
#pragma GCC unroll 2
  for (int y = 0; y < 2; ++y, to += row) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      store(to + 2 * p * kPanel, relu(sum[y][0][p]));
      store(to + (2 * p + 1) * kPanel, relu(sum[y][1][p]));
    }
  }
}

// Features of two rows, in groups of nearly equal size. For odd numbers of columns or rows, one more is
// written to a place that is filled later (hence from right to left) or not used.
void convolve_rows(const ConvGramJob& job, const Factors& factors, std::int64_t columns, float* to) {
  const std::int64_t row = columns * kPanel;
  for (std::int64_t k = 0; k < kPanel; k += kLanes) {
    const Vec bias = load(job.bias + k);
    const float* weight = job.weight + k / kSlice * kFactors * kSlice + k % kSlice;
    std::int64_t left = (columns + 1) / 2;
    for (std::int64_t groups = (left + kSquares - 1) / kSquares; groups > 0; --groups) {
      const std::int64_t squares = left / groups;
      left -= squares;
      const float* from = factors.terms + left;
      float* features = to + 2 * left * kPanel + k;
      switch (squares) {
        case 4: convolve<4>(weight, bias, from, features, row); break;
        case 3: convolve<3>(weight, bias, from, features, row); break;
        case 2: convolve<2>(weight, bias, from, features, row); break;
        default: convolve<1>(weight, bias, from, features, row);
      }
    }
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
  float* rows_of_factors = tiles.rest + 6 * kLineFloats;
  const Factors factors{tiles.rest, rows_of_factors, rows_of_factors + 4 * kRowFloats};
  const std::int64_t size = kPanel * kPanel;
  const std::int64_t step = kTilePixels / job.band_columns / 2 * 2;
  factor_rows(job, band, 0, factors);
  for (std::int64_t row = 0; row < band.rows; row += step) {
    const std::int64_t rows = smaller(step, band.rows - row);
    for (std::int64_t r = row; r < row + rows; r += 2) {
      factor_rows(job, band, r + 2, factors);
      combine_rows(r, band.columns, factors);
      convolve_rows(job, factors, band.columns, tiles.features + (r - row) * band.columns * kPanel);
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
