// mosaic: a grid of flipped, turned and zoomed copies of a tile, output row by output row.
#include <omp.h>

#include "composite.h"
#include "pixels.h"
#include "regions.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// Codes of fastbg.Transform.
enum Transform {
  kIdentity,
  kFlipHorizontal,
  kFlipVertical,
  kRotate90,
  kRotate180,
  kRotate270,
  kZoom2,
  kZoom4,
};

std::int64_t zoomed(std::int64_t v, std::int64_t size, std::int64_t factor) {
  return (v + size * (factor - 1) / 2) / factor;
}

// to[x] = from[x * step]
template <typename T>
void copy_run(const T* from, std::int64_t step, std::int64_t width, T* to) {
  if (step == 1) {
    std::memcpy(to, from, static_cast<std::size_t>(width) * sizeof(T));
  } else {
    for (std::int64_t x = 0; x < width; ++x) to[x] = from[x * step];
  }
}

// Row y of a cell: a row or a column of the tile, read forwards or backwards, or a zoomed row.
template <typename T>
void write_cell_row(const T* tile, std::int64_t stride_y, std::int64_t stride_x,
                    std::int64_t height, std::int64_t width, std::int64_t code, std::int64_t y,
                    T* to) {
  const std::int64_t up = height - 1 - y;
  const std::int64_t last_x = (width - 1) * stride_x, last_y = (height - 1) * stride_y;
  switch (code) {
    case kIdentity: return copy_run(tile + y * stride_y, stride_x, width, to);
    case kFlipHorizontal: return copy_run(tile + y * stride_y + last_x, -stride_x, width, to);
    case kFlipVertical: return copy_run(tile + up * stride_y, stride_x, width, to);
    case kRotate90: return copy_run(tile + up * stride_x, stride_y, width, to);
    case kRotate180: return copy_run(tile + up * stride_y + last_x, -stride_x, width, to);
    case kRotate270: return copy_run(tile + y * stride_x + last_y, -stride_y, width, to);
    default: break;
  }
  const std::int64_t factor = code == kZoom2 ? 2 : 4;
  const T* row = tile + zoomed(y, height, factor) * stride_y;
  for (std::int64_t x = 0; x < width; ++x) to[x] = row[zoomed(x, width, factor) * stride_x];
}

template <typename T>
void write_rows(const MosaicParams& p, int threads) {
  const std::int64_t channels = p.tiles.sizes[1], height = p.tiles.sizes[2];
  const std::int64_t width = p.tiles.sizes[3], grid = p.cells.sizes[1];
  const auto* codes = static_cast<const std::int32_t*>(p.cells.data);
  const std::int64_t bands = p.tiles.sizes[0] * channels * grid;  // one row of cells each

#pragma omp parallel for num_threads(threads) schedule(static)
  for (std::int64_t band = 0; band < bands; ++band) {
    const std::int64_t r = band % grid, channel = band / grid % channels;
    const std::int64_t n = band / grid / channels;
    const T* tile = static_cast<const T*>(p.tiles.data) + n * p.tiles.strides[0] +
                    channel * p.tiles.strides[1];
    const std::int32_t* row_codes = codes + n * p.cells.strides[0] + r * p.cells.strides[1];
    T* to = static_cast<T*>(p.out.data) + n * p.out.strides[0] + channel * p.out.strides[1] +
            r * height * p.out.strides[2];
    for (std::int64_t y = 0; y < height; ++y, to += p.out.strides[2]) {
      for (std::int64_t c = 0; c < grid; ++c) {
        write_cell_row(tile, p.tiles.strides[2], p.tiles.strides[3], height, width,
                       row_codes[c * p.cells.strides[2]], y, to + c * width);
      }
    }
  }
}

}  // namespace

void mosaic(const MosaicParams& p, int threads) {
  if (element_size(p.tiles.dtype) == 4) {
    write_rows<std::uint32_t>(p, threads);
  } else {
    write_rows<std::uint16_t>(p, threads);
  }
}

}  // namespace fastbg::FASTBG_VARIANT
