#include "gram_plan.h"

#include <algorithm>

#include "divide.h"

namespace fastbg {
namespace {

constexpr std::int64_t kWidestVector = 16;

Floats floats(std::int64_t count) {
  const auto bytes = static_cast<std::size_t>(count) * sizeof(float);
  return Floats(static_cast<float*>(::operator new[](bytes, kCacheLine)));
}

// Whether rows follow each other, so that an image is one row of pixels.
bool is_one_row(const TensorView& maps) {
  return maps.sizes[2] == 1 || maps.strides[2] == maps.sizes[3] * maps.strides[3];
}

void make_one_row(TensorView& maps) {
  maps.sizes[3] *= maps.sizes[2];
  maps.sizes[2] = 1;
}

GramWork divided(const TensorView& mask, const TensorView& out) {
  GramWork work{};
  work.mask = mask;
  work.out = out;
  work.channels = out.sizes[3];
  work.padded = up_to_multiple(work.channels, kWidestVector);
  work.width = std::min(work.padded, kPanel);
  work.tiles = 1;
  return work;
}

void allocate(GramWork& work, std::int64_t kernel_floats, int threads, Floats& sums, Floats& scratch) {
  const std::int64_t of_chunk = work.out.sizes[1] * work.padded * work.padded;
  work.local_floats = work.chunks == 1 ? of_chunk : 0;
  sums = floats(work.chunks == 1 ? 0 : work.out.sizes[0] * work.chunks * of_chunk);
  work.sums = sums.get();
  const std::int64_t needed =
      (work.tiles + 2) * tile_floats(work) + kTilePixels + work.local_floats + kernel_floats;
  work.scratch_floats = up_to_multiple(needed, kWidestVector);
  scratch = floats(work.scratch_floats * threads);
  work.scratch = scratch.get();
}

// The factors of taps g0, g1, g2 named in conv_gram.cpp.
void tap_factors(const float* g, std::int64_t step, float* to, std::int64_t to_step) {
  const float outer = g[0] + g[2 * step], inner = g[step];
  to[0] = g[0];
  to[to_step] = (outer + inner) / 2;
  to[2 * to_step] = (outer - inner) / 2;
  to[3 * to_step] = g[2 * step];
}

// (27,64) taps, by channel, row and column, as the factors of ConvGramJob.
Floats tap_factors(const float* taps) {
  constexpr std::int64_t kStep = 3 * kSlice;  // from factor to factor of rows
  Floats factors = floats(kFactors * kPanel);
  for (int channel = 0; channel < 3; ++channel) {
    for (int k = 0; k < kPanel; ++k) {
      const float* of_channel = taps + 9 * channel * kPanel + k;
      float along_rows[3 * kTerms];
      for (int row = 0; row < 3; ++row) {
        tap_factors(of_channel + 3 * row * kPanel, kPanel, along_rows + row * kTerms, 1);
      }
      float* to = factors.get() + k / kSlice * kFactors * kSlice + channel * kSlice + k % kSlice;
      for (int m = 0; m < kTerms; ++m) {
        tap_factors(along_rows + m, kTerms, to + m * kStep, kTerms * kStep);
      }
    }
  }
  return factors;
}

}  // namespace

GramPlan::GramPlan(const GramParams& params, int threads) {
  job.features = params.features;
  job.work = divided(params.mask, params.out);
  if (is_one_row(job.features) && (!job.work.mask.data || is_one_row(job.work.mask))) {
    make_one_row(job.features);
    if (job.work.mask.data) make_one_row(job.work.mask);
  }
  const std::int64_t pixels = job.features.sizes[2] * job.features.sizes[3];
  job.work.chunks = parts(pixels, std::max(kChunkPixels, 8 * job.work.padded));
  job.chunk_pixels = up_to_multiple(parts(pixels, job.work.chunks), kTilePixels);
  job.work.tiles = std::max<std::int64_t>(kBlockFloats / tile_floats(job.work), 1);
  allocate(job.work, kWidestVector * kTilePixels, threads, sums_, scratch_);
}

ConvGramPlan::ConvGramPlan(const ConvGramParams& params, int threads) {
  job.images = params.images;
  weight_ = tap_factors(static_cast<const float*>(params.weight.data));
  job.weight = weight_.get();
  job.bias = static_cast<const float*>(params.bias.data);
  job.work = divided(params.mask, params.out);
  const std::int64_t height = job.images.sizes[2], width = job.images.sizes[3];
  const std::int64_t bands = parts(width, kTilePixels / 2);
  job.band_columns = up_to_multiple(parts(width, bands), bands > 1 ? 2 * kGroup : 2);
  job.bands_across = parts(width, job.band_columns);
  const std::int64_t down = std::max<std::int64_t>(height * job.band_columns / kChunkPixels, 1);
  job.band_rows = up_to_multiple(parts(height, down), kTilePixels / job.band_columns / 2 * 2);
  job.work.chunks = parts(height, job.band_rows) * job.bands_across;
  allocate(job.work, kConvFloats, threads, sums_, scratch_);
}

}  // namespace fastbg
