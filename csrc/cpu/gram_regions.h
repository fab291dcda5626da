// Regions: the weights of a tile's pixels; and the final step of every sum.
#pragma once

#include <omp.h>

#include <cstring>

#include "gram_tile.h"
#include "pixels.h"
#include "transpose.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// Scratch of one thread: a block of tiles, two more of one of them (features that count, those
// weighted), weights, and the sums of a chunk that is all of its image.
struct Tiles {
  explicit Tiles(const GramWork& work, int thread)
      : features(work.scratch + thread * work.scratch_floats),
        counted(features + work.tiles * tile_floats(work)),
        weighted(counted + tile_floats(work)),
        weight(weighted + tile_floats(work)),
        sums(weight + kTilePixels),
        rest(sums + work.local_floats) {}
  float* features;
  float* counted;
  float* weighted;
  float* weight;
  float* sums;
  float* rest;  // for the kernel's own use
};

inline std::int64_t regions(const GramWork& work) { return work.out.sizes[1]; }

inline float* chunk_sums(const GramWork& work, std::int64_t chunk) {
  return work.sums + chunk * regions(work) * work.padded * work.padded;
}

// Where a chunk is summed, zeroed.
inline float* zeroed_sums(const GramWork& work, std::int64_t chunk, const Tiles& tiles) {
  float* sums = work.chunks == 1 ? tiles.sums : chunk_sums(work, chunk);
  const std::int64_t count = regions(work) * work.padded * work.padded;
  std::memset(sums, 0, static_cast<std::size_t>(count) * sizeof(float));
  return sums;
}

inline const float* weights_at(const GramWork& work, std::int64_t image, std::int64_t region,
                               std::int64_t y, std::int64_t x) {
  const std::int64_t* s = work.mask.strides;
  return static_cast<const float*>(work.mask.data) + image * s[0] + region * s[1] + y * s[2] + x * s[3];
}

// Adds a tile to a region's sum, with weight[p] for pixel p: pixels without weight are left out,
// and where all others have weight 1 there is nothing to multiply.
inline void add_weighted_tile(const Tiles& tiles, const float* tile, std::int64_t pixels,
                              const GramWork& work, float* sum) {
  std::int64_t kept = 0;
  bool ones = true;
  for (std::int64_t p = 0; p < pixels; ++p) {
    kept += tiles.weight[p] != 0.0f;
    ones &= tiles.weight[p] == 0.0f || tiles.weight[p] == 1.0f;
  }
  if (kept == 0) return;
  if (ones && kept == pixels) {
    add_tile(tile, tile, pixels, work, sum);
    return;
  }
  for (std::int64_t at = 0; at < tile_floats(work); at += kTilePixels * work.width) {
    const float* from = tile + at;
    float* counted = tiles.counted + at;
    float* weighted = tiles.weighted + at;
    for (std::int64_t p = 0; p < pixels; ++p, from += work.width) {
      if (tiles.weight[p] == 0.0f) continue;
      const Vec weight = broadcast(tiles.weight[p]);
      for (std::int64_t c = 0; c < work.width; c += kLanes) {
        const Vec value = load(from + c);
        store(counted + c, value);
        if (!ones) store(weighted + c, value * weight);
      }
      counted += work.width;
      weighted += work.width;
    }
  }
  add_tile(ones ? tiles.counted : tiles.weighted, tiles.counted, kept, work, sum);
}

// Adds the other chunks of a matrix to its first, in order, the triangle only.
inline void add_chunks(const GramWork& work, float* first) {
  const std::int64_t row = work.padded, step = regions(work) * row * row;
  for (std::int64_t i = 0; i < row; ++i) {
    for (std::int64_t j = i / kLanes * kLanes; j < row; j += kLanes) {
      float* to = first + i * row + j;
      double sum[kLanes] = {};
      for (std::int64_t c = 0; c < work.chunks; ++c) {
        for (std::int64_t lane = 0; lane < kLanes; ++lane) sum[lane] += to[c * step + lane];
      }
      for (std::int64_t lane = 0; lane < kLanes; ++lane) to[lane] = static_cast<float>(sum[lane]);
    }
  }
}

// Copies the upper triangle into the lower one.
inline void mirror(float* matrix, std::int64_t row) {
  for (std::int64_t top = 0; top < row; top += kLanes) {
    for (std::int64_t i = top; i < top + kLanes; ++i) {
      for (std::int64_t j = top; j < i; ++j) matrix[i * row + j] = matrix[j * row + i];
    }
    const float* rows[kLanes];
    for (std::int64_t r = 0; r < kLanes; ++r) rows[r] = matrix + (top + r) * row;
    for (std::int64_t right = top + kLanes; right < row; right += kLanes) {
      transpose(rows, right, matrix + right * row + top, row);
    }
  }
}

// Mirrors and writes the matrix of one image and region.
inline void write_matrix(const GramWork& work, std::int64_t image, std::int64_t region, float* matrix) {
  const std::int64_t n = work.channels;
  mirror(matrix, work.padded);
  const std::int64_t bytes = element_size(work.out.dtype);
  char* to = static_cast<char*>(work.out.data) + (image * regions(work) + region) * n * n * bytes;
  for (std::int64_t i = 0; i < n; ++i) {
    write_floats(matrix + i * work.padded, n, work.out.dtype, to + i * n * bytes);
  }
}

// Sums every chunk by sum_chunk(chunk, tiles, sums), then the chunks of each matrix.
template <typename SumChunk>
void run_chunks(const GramWork& work, int threads, SumChunk sum_chunk) {
  const std::int64_t size = work.padded * work.padded;
  const std::int64_t chunks = work.out.sizes[0] * work.chunks;
#pragma omp parallel num_threads(threads)
  {
    const Tiles tiles(work, omp_get_thread_num());
#pragma omp for schedule(dynamic)
    for (std::int64_t k = 0; k < chunks; ++k) {
      float* sums = zeroed_sums(work, k, tiles);
      sum_chunk(k, tiles, sums);
      if (work.chunks > 1) continue;
      for (std::int64_t m = 0; m < regions(work); ++m) write_matrix(work, k, m, sums + m * size);
    }
    if (work.chunks > 1) {
#pragma omp for schedule(static)
      for (std::int64_t k = 0; k < work.out.sizes[0] * regions(work); ++k) {
        const std::int64_t image = k / regions(work), region = k % regions(work);
        float* matrix = chunk_sums(work, image * work.chunks) + region * size;
        add_chunks(work, matrix);
        write_matrix(work, image, region, matrix);
      }
    }
  }
}

}  // namespace
}  // namespace fastbg::FASTBG_VARIANT
