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

// kLanes channels of pixels that lie channel by channel; `rows` has room for as many rows of a tile.
void transpose_pixels(const GramJob& job, const Segment& s, std::int64_t c, float* to, float* rows) {
  const GramWork& work = job.work;
  const bool in_place = job.features.dtype == DType::float32 && job.features.strides[3] == 1;
  const std::int64_t whole = s.pixels / kLanes * kLanes;
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

// Calls visit(segment, offset) for the pieces of rows and tiles that make up pixels [begin, end).
template <typename Visit>
void for_segments(std::int64_t image, std::int64_t row, std::int64_t begin, std::int64_t end, Visit visit) {
  for (std::int64_t at = begin; at < end;) {
    const std::int64_t in_tile = kTilePixels - (at - begin) % kTilePixels;
    const Segment s{image, at / row, at % row, smaller(smaller(row - at % row, in_tile), end - at)};
    visit(s, at - begin);
    at += s.pixels;
  }
}

// Address of a block's pixel; its further panels are kTilePixels * width floats apart.
float* place(const GramWork& work, const Tiles& tiles, std::int64_t offset) {
  return tiles.features + offset / kTilePixels * tile_floats(work) + offset % kTilePixels * work.width;
}

// Copies pixels [begin, end) to a block of tiles. Planes are read by groups of channels, in runs that are
// long enough for the hardware prefetcher.
void read_block(const GramJob& job, std::int64_t image, std::int64_t begin, std::int64_t end,
                const Tiles& tiles) {
  const GramWork& work = job.work;
  const std::int64_t row = job.features.sizes[3];
  if (job.features.strides[1] == 1) {
    for_segments(image, row, begin, end, [&](const Segment& s, std::int64_t offset) {
      copy_pixels(job, s, place(work, tiles, offset));
    });
    return;
  }
  for (std::int64_t c = 0; c < work.padded; c += kLanes) {
    for_segments(image, row, begin, end, [&](const Segment& s, std::int64_t offset) {
      transpose_pixels(job, s, c, place(work, tiles, offset), tiles.rest);
    });
  }
}

// Whether the features already have the layout of a tile.
bool is_tile(const GramJob& job) {
  const TensorView& f = job.features;
  return f.dtype == DType::float32 && f.sizes[2] == 1 && f.strides[1] == 1 &&
         f.strides[3] == job.work.width && job.work.channels == job.work.width;
}

void add_pixels(const GramJob& job, std::int64_t image, std::int64_t begin, std::int64_t pixels,
                const Tiles& tiles, const float* tile, float* sums) {
  const GramWork& work = job.work;
  if (!work.mask.data) {
    add_tile(tile, tile, pixels, work, sums);
    return;
  }
  const std::int64_t row = job.features.sizes[3];
  for (std::int64_t m = 0; m < regions(work); ++m) {
    for_segments(image, row, begin, begin + pixels, [&](const Segment& s, std::int64_t offset) {
      const float* from = weights_at(work, image, m, s.y, s.x);
      for (std::int64_t p = 0; p < s.pixels; ++p) tiles.weight[offset + p] = from[p * work.mask.strides[3]];
    });
    add_weighted_tile(tiles, tile, pixels, work, sums + m * work.padded * work.padded);
  }
}

void sum_chunk(const GramJob& job, std::int64_t chunk, const Tiles& tiles, float* sums) {
  const GramWork& work = job.work;
  const std::int64_t pixels = job.features.sizes[2] * job.features.sizes[3];
  const std::int64_t image = chunk / work.chunks;
  const std::int64_t begin = chunk % work.chunks * job.chunk_pixels;
  const std::int64_t end = smaller(begin + job.chunk_pixels, pixels);
  const bool in_place = is_tile(job);
  for (std::int64_t block = begin; block < end; block += work.tiles * kTilePixels) {
    const std::int64_t stop = smaller(block + work.tiles * kTilePixels, end);
    if (!in_place) read_block(job, image, block, stop, tiles);
    for (std::int64_t at = block; at < stop; at += kTilePixels) {
      const float* tile =
          in_place ? reinterpret_cast<const float*>(address(job.features, {image, 0, at, 0}, 0))
                   : place(work, tiles, at - block);
      add_pixels(job, image, at, smaller(kTilePixels, stop - at), tiles, tile, sums);
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
