// conv3x3 by Winograd's F(4x4, 3x3); conv.h says how the work is divided.
#include "conv.h"

#include <memory>
#include <new>

#include "register_tile.h"
#include "simd.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// The polynomials are interpolated at 0, p, -p, q, -q and infinity with p = sqrt(1/2), q = sqrt(2):
// half the rounding error of the usual 0, 1, -1, 2, -2 (a quarter of the largest), and p^2, q^2 and
// p q are powers of two.
constexpr float kP = 0.70710678f, kQ = 1.41421356f;

// B^T d of 6 inputs.
inline void input_terms(const Vec* d, Vec* t) {
  const Vec p = splat(kP), q = splat(kQ), half = splat(0.5f), two = splat(2.0f), sum = splat(2.5f);
  const Vec even_p = multiply_add(-two, d[2], d[4]), odd_p = multiply_add(-two, d[1], d[3]);
  const Vec even_q = multiply_add(-half, d[2], d[4]), odd_q = multiply_add(-half, d[1], d[3]);
  t[0] = multiply_add(-sum, d[2], d[4]) + d[0];
  t[1] = multiply_add(p, odd_p, even_p);
  t[2] = multiply_add(-p, odd_p, even_p);
  t[3] = multiply_add(q, odd_q, even_q);
  t[4] = multiply_add(-q, odd_q, even_q);
  t[5] = multiply_add(-sum, d[3], d[5]) + d[1];
}

// A^T m of 6 sums.
inline void output_values(const Vec* m, Vec* y) {
  const Vec p = splat(kP), q = splat(kQ), half = splat(0.5f), two = splat(2.0f);
  const Vec even_p = m[1] + m[2], even_q = m[3] + m[4];
  const Vec odd_p = p * (m[1] - m[2]), odd_q = q * (m[3] - m[4]);
  y[0] = m[0] + even_p + even_q;
  y[1] = odd_p + odd_q;
  y[2] = multiply_add(two, even_q, half * even_p);
  y[3] = multiply_add(two, odd_q, multiply_add(half, odd_p, m[5]));
}

// G g of 3 weights.
inline void weight_factors(const Vec* g, Vec* u) {
  const Vec at_p = splat(-1.0f / 1.5f), at_q = splat(1.0f / 6.0f);
  const Vec even_p = at_p * multiply_add(splat(0.5f), g[2], g[0]), odd_p = at_p * splat(kP) * g[1];
  const Vec even_q = at_q * multiply_add(splat(2.0f), g[2], g[0]), odd_q = at_q * splat(kQ) * g[1];
  u[0] = g[0];
  u[1] = even_p + odd_p;
  u[2] = even_p - odd_p;
  u[3] = even_q + odd_q;
  u[4] = even_q - odd_q;
  u[5] = g[2];
}

struct Tile {
  std::int64_t image, y, x;  // top-left output
};

inline Tile tile_of(const ConvJob& job, std::int64_t number) {
  const std::int64_t of_image = job.tiles_down * job.tiles_across, in_image = number % of_image;
  return {number / of_image, in_image / job.tiles_across * 4, in_image % job.tiles_across * 4};
}

inline Vec gated(Vec value, Vec gate) { return gate <= Vec{} ? Vec{} : value; }

// max(x, 0), but not-a-number stays.
inline Vec relu(Vec x) { return x < Vec{} ? Vec{} : x; }

inline Vec load_some(const float* from, std::int64_t count) {
  if (count == kLanes) return load(from);
  Vec value{};
  std::memcpy(&value, from, static_cast<std::size_t>(count) * sizeof(float));
  return value;
}

inline void store_some(float* to, Vec value, std::int64_t count) {
  if (count == kLanes) return store(to, value);
  std::memcpy(to, &value, static_cast<std::size_t>(count) * sizeof(float));
}

// The 36 terms of one tile and one vector of channels.
template <bool kGate>
void transform_input(const ConvJob& job, const Tile& tile, std::int64_t channel, float* to) {
  const std::int64_t y0 = tile.y - 1, x0 = tile.x - 1;
  const bool inside = y0 >= 0 && x0 >= 0 && y0 + 6 <= job.height && x0 + 6 <= job.width;
  const float* from = job.x.at(tile.image, y0, x0, channel);
  const float* gate = kGate ? job.gate.at(tile.image, y0, x0, channel) : nullptr;
  Vec half[6][6];
#pragma GCC unroll 6
  for (int c = 0; c < 6; ++c) {
    Vec d[6], t[6];
#pragma GCC unroll 6
    for (int r = 0; r < 6; ++r) {
      const bool there = inside || (y0 + r >= 0 && y0 + r < job.height && x0 + c >= 0 && x0 + c < job.width);
      d[r] = there ? load(from + r * job.x.row + c * job.x.column) : Vec{};
      if (kGate && there) d[r] = gated(d[r], load(gate + r * job.gate.row + c * job.gate.column));
    }
    input_terms(d, t);
#pragma GCC unroll 6
    for (int r = 0; r < 6; ++r) half[r][c] = t[r];
  }
#pragma GCC unroll 6
  for (int r = 0; r < 6; ++r) {
    Vec t[6];
    input_terms(half[r], t);
#pragma GCC unroll 6
    for (int c = 0; c < 6; ++c) store(to + (6 * r + c) * kPlaneFloats, t[c]);
  }
}

// 4x4 outputs of one tile and one vector of channels, `kept` of which exist.
void transform_output(const ConvJob& job, const Tile& tile, std::int64_t channel, std::int64_t kept,
                      Vec bias, const float* from) {
  const std::int64_t rows = smaller(4, job.height - tile.y), columns = smaller(4, job.width - tile.x);
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
        value = multiply_add(splat(job.residual_scale), value, load_some(whole, kept));
      }
      store_some(out + r * job.out.row + c * job.out.column, value, kept);
    }
  }
}

// R rows of sums (tiles) times V vectors of output channels; `in` channels are summed.
template <int R, int V>
void multiply(const float* terms, const float* factors, std::int64_t in, std::int64_t width,
              bool add, float* sums) {
  Vec total[R][V];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) total[r][v] = add ? load(sums + r * kConvPanel + v * kLanes) : Vec{};
  }
  for (std::int64_t k = 0; k < in; ++k, factors += width) {
    Vec factor[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      factor[v] = load(factors + v * kLanes);
      keep(factor[v]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec term = splat(terms[r * kConvPanel + k]);
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) total[r][v] = multiply_add(term, factor[v], total[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) store(sums + r * kConvPanel + v * kLanes, total[r][v]);
  }
}

template <int R, int V>
void multiply_rows(const float* terms, const float* factors, std::int64_t in, std::int64_t width,
                   std::int64_t tiles, bool add, float* sums) {
  for (std::int64_t t = 0; t < tiles; t += R) {
    multiply<R, V>(terms + t * kConvPanel, factors, in, width, add, sums + t * kConvPanel);
  }
}

// One of the 36 products: (tiles, in) x (in, width). Sums fill the registers, 24 of 32 with AVX-512
// and 12 of 16 otherwise; rows that no tile fills are computed, and never read.
void multiply_plane(const float* terms, const float* factors, std::int64_t in, std::int64_t width,
                    std::int64_t tiles, bool add, float* sums) {
  if constexpr (kLanes == 16) {
    switch (width / kLanes) {
      case 4: multiply_rows<6, 4>(terms, factors, in, width, tiles, add, sums); break;
      case 3: multiply_rows<8, 3>(terms, factors, in, width, tiles, add, sums); break;
      case 2: multiply_rows<12, 2>(terms, factors, in, width, tiles, add, sums); break;
      default: multiply_rows<12, 1>(terms, factors, in, width, tiles, add, sums);
    }
  } else {
    for (std::int64_t n = 0; n < width; n += 2 * kLanes) {
      multiply_rows<6, 2>(terms, factors + n, in, width, tiles, add, sums + n);
    }
  }
}

// Terms and sums of a block of tiles, kept by each thread from call to call: fresh memory would be
// faulted in page by page every time, which takes as long as the transforms.
struct Scratch {
  alignas(64) float terms[kTerms2d * kPlaneFloats];
  alignas(64) float sums[kTerms2d * kPlaneFloats];
};

Scratch& scratch_of_thread() {
  static thread_local const std::unique_ptr<Scratch> scratch(new Scratch());
  return *scratch;
}

void transform_block(const ConvJob& job, std::int64_t first, std::int64_t tiles, std::int64_t chunk,
                     std::int64_t in, float* terms) {
  for (std::int64_t t = 0; t < tiles; ++t) {
    const Tile tile = tile_of(job, first + t);
    for (std::int64_t c = 0; c < in; c += kLanes) {
      float* to = terms + t * kConvPanel + c;
      if (job.gate.data) {
        transform_input<true>(job, tile, chunk + c, to);
      } else {
        transform_input<false>(job, tile, chunk + c, to);
      }
    }
  }
}

// Output channels `channel` (of the padded ones) to channel + width, which lie in one group.
void finish_block(const ConvJob& job, std::int64_t first, std::int64_t tiles, std::int64_t channel,
                  std::int64_t width, const float* sums) {
  const std::int64_t place = channel / job.group_padded, inside = channel % job.group_padded;
  const std::int64_t exist = smaller(width, job.out.group - inside);
  for (std::int64_t t = 0; t < tiles; ++t) {
    const Tile tile = tile_of(job, first + t);
    for (std::int64_t v = 0; v < exist; v += kLanes) {
      const Vec bias = job.bias ? load(job.bias + channel + v) : Vec{};
      transform_output(job, tile, place * job.out.group + inside + v, smaller(kLanes, exist - v),
                       bias, sums + t * kConvPanel + v);
    }
  }
}

void compute_block(const ConvJob& job, std::int64_t first, std::int64_t tiles, Scratch& scratch) {
  bool transformed = false;
  for (std::int64_t channel = 0; channel < job.out_padded;) {
    const std::int64_t left = job.group_padded - channel % job.group_padded;
    const std::int64_t width = smaller(kConvPanel, left);
    const float* factors = job.factors + kTerms2d * job.in * channel;
    for (std::int64_t chunk = 0; chunk < job.in; chunk += kConvPanel) {
      const std::int64_t in = smaller(kConvPanel, job.in - chunk);
      if (!transformed) transform_block(job, first, tiles, chunk, in, scratch.terms);
      transformed = job.in <= kConvPanel;  // the same terms serve all output channels
      for (std::int64_t k = 0; k < kTerms2d; ++k) {
        multiply_plane(scratch.terms + k * kPlaneFloats, factors + (k * job.in + chunk) * width, in,
                       width, tiles, chunk > 0, scratch.sums + k * kPlaneFloats);
      }
    }
    finish_block(job, first, tiles, channel, width, scratch.sums);
    channel += width;
  }
}

}  // namespace

void conv3x3(const ConvJob& job, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t block = 0; block < job.blocks; ++block) {
    const std::int64_t first = block * job.block;
    const std::int64_t tiles = smaller(job.block, job.tiles - first);
    if (tiles > 0) compute_block(job, first, tiles, scratch_of_thread());
  }
}

// Panels one after the other, each (36, in, width): see compute_block.
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
