// gram: tiles of features are copied channel-last into the cache and multiplied there.
#include "gram_regions.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

struct Segment {
  std::int64_t image, y, x, pixels;  // of one row
};

const char* address(const TensorView& v, const Segment& s, std::int64_t channel) {
  const std::int64_t offset = s.image * v.strides[0] + channel * v.strides[1] + s.y * v.strides[2] +
                              s.x * v.strides[3];
  return static_cast<const char*>(v.data) + offset * element_size(v.dtype);
}

// Pixels whose channels are neighbours in memory.
void copy_pixels(const GramJob& job, const Segment& s, float* to) {
  const GramWork& work = job.work;
  const char* from = address(job.features, s, 0);
  const std::int64_t bytes = element_size(job.features.dtype);
  for (std::int64_t p = 0; p < s.pixels; ++p, to += work.width) {
    const char* pixel = from + p * job.features.strides[3] * bytes;
    for (std::int64_t c = 0; c < work.channels; c += work.width) {
      const std::int64_t n = smaller(work.width, work.channels - c);
      float* panel = to + c * kTilePixels;
      read_floats(pixel + c * bytes, job.features.dtype, 1, n, panel);
      for (std::int64_t i = n; i < work.width; ++i) panel[i] = 0.0f;
    }
  }
}

// Pixels that lie channel by channel; `rows` has room for kLanes rows of a tile's pixels.
void transpose_pixels(const GramJob& job, const Segment& s, float* to, float* rows) {
  const GramWork& work = job.work;
  const bool in_place = job.features.dtype == DType::float32 && job.features.strides[3] == 1;
  const std::int64_t whole = s.pixels / kLanes * kLanes;
  for (std::int64_t c = 0; c < work.padded; c += kLanes) {
    const float* from[kLanes];
    for (std::int64_t i = 0; i < kLanes; ++i) {
      float* row = rows + i * kTilePixels;
      from[i] = row;
      if (c + i >= work.channels) {
        std::memset(row, 0, static_cast<std::size_t>(s.pixels) * sizeof(float));
      } else if (in_place) {
        from[i] = reinterpret_cast<const float*>(address(job.features, s, c + i));
      } else {
        read_floats(address(job.features, s, c + i), job.features.dtype, job.features.strides[3],
                    s.pixels, row);
      }
    }
    float* panel = to + c / work.width * work.width * kTilePixels + c % work.width;
    for (std::int64_t p = 0; p < whole; p += kLanes) {
      transpose(from, p, panel + p * work.width, work.width);
    }
    for (std::int64_t p = whole; p < s.pixels; ++p) {
      for (std::int64_t i = 0; i < kLanes; ++i) panel[p * work.width + i] = from[i][p];
    }
  }
}

// Calls visit(segment, offset) for the pieces of rows that make up pixels [begin, end).
template <typename Visit>
void for_segments(std::int64_t image, std::int64_t row, std::int64_t begin, std::int64_t end, Visit visit) {
  for (std::int64_t at = begin; at < end;) {
    const Segment s{image, at / row, at % row, smaller(row - at % row, end - at)};
    visit(s, at - begin);
    at += s.pixels;
  }
}

void sum_chunk(const GramJob& job, std::int64_t chunk, const Tiles& tiles, float* sums) {
  const GramWork& work = job.work;
  const std::int64_t row = job.features.sizes[3], pixels = job.features.sizes[2] * row;
  const std::int64_t image = chunk / work.chunks;
  const std::int64_t begin = chunk % work.chunks * job.chunk_pixels;
  const std::int64_t end = smaller(begin + job.chunk_pixels, pixels);
  const std::int64_t size = work.padded * work.padded;
  for (std::int64_t at = begin; at < end; at += kTilePixels) {
    const std::int64_t stop = smaller(at + kTilePixels, end);
    for_segments(image, row, at, stop, [&](const Segment& s, std::int64_t offset) {
      float* to = tiles.features + offset * work.width;
      if (job.features.strides[1] == 1) {
        copy_pixels(job, s, to);
      } else {
        transpose_pixels(job, s, to, tiles.rest);
      }
    });
    if (!work.mask.data) {
      add_tile(tiles.features, tiles.features, stop - at, work, sums);
      continue;
    }
    for (std::int64_t m = 0; m < regions(work); ++m) {
      for_segments(image, row, at, stop, [&](const Segment& s, std::int64_t offset) {
        const float* from = weights_at(work, image, m, s.y, s.x);
        for (std::int64_t p = 0; p < s.pixels; ++p) tiles.weight[offset + p] = from[p * work.mask.strides[3]];
      });
      add_weighted_tile(tiles, stop - at, work, sums + m * size);
    }
  }
}

}  // namespace

void gram(const GramJob& job, int threads) {
  run_chunks(job.work, threads, [&](std::int64_t chunk, const Tiles& tiles, float* sums) {
    sum_chunk(job, chunk, tiles, sums);
  });
}

}  // namespace fastbg::FASTBG_VARIANT
