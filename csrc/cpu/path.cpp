// blur_path and path_integral: an image under many symmetric separable kernels.
//
// Work that does not depend on the node is done once per tile: rows are read, mirrored, converted, and
// folded (row y - j plus row y + j), so that a node takes r + 1 products per pixel and axis instead of
// 2r + 1. All other work on a node stays in registers and the first-level cache.
#include "path.h"

#include <omp.h>

#include "pixels.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

std::int64_t mirrored(std::int64_t place, std::int64_t size) {
  const std::int64_t inside = place < 0 ? -place : place;
  return inside < size ? inside : 2 * (size - 1) - inside;
}

// Rows of 16-bit types are converted into `row`; float32 rows are used in place.
const float* floats_at(const char* from, DType dtype, std::int64_t stride, std::int64_t n,
                       float* row) {
  if (dtype == DType::float32 && stride == 1) return reinterpret_cast<const float*>(from);
  read_floats(from, dtype, stride, n, row);
  return row;
}

// A tile of one channel with `radius` mirrored pixels around it, and the rows to work on.
class Tile {
 public:
  Tile(float* scratch, std::int64_t radius)
      : radius_(radius),
        stride_(tile_row_floats(radius)),
        rows_(scratch),
        folded_(rows_ + (kTileRows + 2 * radius) * stride_),
        work_(folded_ + (radius + 1) * stride_) {}

  void read(const Plane& plane, std::int64_t y0, std::int64_t y1, std::int64_t x0, std::int64_t x1,
            std::int64_t height, std::int64_t width) {
    const std::int64_t first = larger(x0 - radius_, 0), last = smaller(x1 + radius_, width);
    vectors_ = (x1 - x0 + 2 * radius_ + kLanes - 1) / kLanes;
    for (std::int64_t y = y0 - radius_; y < y1 + radius_; ++y) {
      float* row = rows_ + (y - y0 + radius_) * stride_ + radius_ - x0;  // row[x] is column x
      const std::int64_t from = mirrored(y, height);
      read_floats(plane.pixel(from, first), plane.dtype, plane.stride_x, last - first, row + first);
      for (std::int64_t x = x0 - radius_; x < first; ++x) row[x] = row[mirrored(x, width)];
      for (std::int64_t x = last; x < x1 + radius_; ++x) row[x] = row[mirrored(x, width)];
    }
  }

  // Folds the rows around row y (counted from the tile's first).
  void fold(std::int64_t y) {
    const float* centre = rows_ + (y + radius_) * stride_;
    std::memcpy(folded_, centre, static_cast<std::size_t>(vectors_ * kLanes) * sizeof(float));
    for (std::int64_t j = 1; j <= radius_; ++j) {
      const float *up = centre - j * stride_, *down = centre + j * stride_;
      float* sum = folded_ + j * stride_;
      for (std::int64_t v = 0; v < vectors_; ++v) {
        store(sum + v * kLanes, load(up + v * kLanes) + load(down + v * kLanes));
      }
    }
  }

  // The folded row under `taps` down the columns; column x of the tile at [x + radius].
  const float* filter_down(const float* taps, std::int64_t slot) {
    float* result = work(slot);
    for (std::int64_t v = 0; v < vectors_; ++v) {
      const float* from = folded_ + v * kLanes;
      Vec sum = broadcast(taps[radius_]) * load(from);
      for (std::int64_t j = 1; j <= radius_; ++j) {
        sum = multiply_add(broadcast(taps[radius_ + j]), load(from + j * stride_), sum);
      }
      store(result + v * kLanes, sum);
    }
    return result;
  }

  // Adds `taps` along a row that filter_down computed, for the vector that starts at column x.
  Vec filter_along(const float* row, const float* taps, std::int64_t x, Vec sum) const {
    const float* centre = row + x + radius_;
    sum = multiply_add(broadcast(taps[radius_]), load(centre), sum);
    for (std::int64_t j = 1; j <= radius_; ++j) {
      sum = multiply_add(broadcast(taps[radius_ + j]), load(centre - j) + load(centre + j), sum);
    }
    return sum;
  }

  float* work(std::int64_t slot) { return work_ + slot * stride_; }

 private:
  std::int64_t radius_, stride_;
  float *rows_, *folded_, *work_;
  std::int64_t vectors_ = 0;  // of a row with its borders
};

// Calls use(image, channel, y0, y1, x0, x1) for all tiles of (B,C,H,W), shared out to the threads.
template <typename Use>
void for_each_tile(const TensorView& image, Use use) {
  const std::int64_t channels = image.sizes[1], height = image.sizes[2], width = image.sizes[3];
  const std::int64_t bands = (height + kTileRows - 1) / kTileRows;
  const std::int64_t blocks = (width + kTileColumns - 1) / kTileColumns;
  const std::int64_t tiles = image.sizes[0] * channels * bands * blocks;
#pragma omp for schedule(static)
  for (std::int64_t t = 0; t < tiles; ++t) {
    const std::int64_t plane = t / (bands * blocks), tile = t % (bands * blocks);
    const std::int64_t y0 = tile / blocks * kTileRows, x0 = tile % blocks * kTileColumns;
    use(plane / channels, plane % channels, y0, smaller(y0 + kTileRows, height), x0,
        smaller(x0 + kTileColumns, width));
  }
}

const float* row_of(const TensorView& table, std::int64_t k) {
  return static_cast<const float*>(table.data) + k * table.strides[0];
}

// Row y, column x of channel c of entry (b,k) of a tensor (B,K,C,H,W).
const char* node_pixel(const TensorView& view, std::int64_t b, std::int64_t k, std::int64_t c,
                       std::int64_t y, std::int64_t x) {
  const std::int64_t offset = b * view.strides[0] + k * view.strides[1] + c * view.strides[2] +
                              y * view.strides[3] + x * view.strides[4];
  return static_cast<const char*>(view.data) + offset * element_size(view.dtype);
}

}  // namespace

void blur_path(const BlurPathJob& job, int threads) {
  const BlurPathParams& p = job.params;
  const std::int64_t nodes = p.taps.sizes[0], radius = p.taps.sizes[1] / 2;
  const std::int64_t height = p.image.sizes[2], width = p.image.sizes[3];

#pragma omp parallel num_threads(threads)
  {
    Tile tile(job.scratch + omp_get_thread_num() * path_scratch_floats(radius), radius);
    for_each_tile(p.image, [&](std::int64_t b, std::int64_t c, std::int64_t y0, std::int64_t y1,
                               std::int64_t x0, std::int64_t x1) {
      tile.read(Plane(p.image, b, c), y0, y1, x0, x1, height, width);
      float* row = tile.work(0);
      for (std::int64_t y = y0; y < y1; ++y) {
        tile.fold(y - y0);
        for (std::int64_t k = 0; k < nodes; ++k) {
          const float* taps = row_of(p.taps, k);
          const float* down = tile.filter_down(taps, 1);
          for (std::int64_t x = 0; x < x1 - x0; x += kLanes) {
            store(row + x, tile.filter_along(down, taps, x, Vec{}));
          }
          char* to = const_cast<char*>(node_pixel(p.out, b, k, c, y, x0));
          write_floats(row, x1 - x0, p.out.dtype, to);
        }
      }
    });
  }
}

void path_integral(const PathIntegralJob& job, int threads) {
  const PathIntegralParams& p = job.params;
  const std::int64_t nodes = p.change.sizes[0], radius = p.change.sizes[1] / 2;
  const std::int64_t height = p.image.sizes[2], width = p.image.sizes[3];
  const std::int64_t out_bytes = element_size(p.out.dtype);

#pragma omp parallel num_threads(threads)
  {
    Tile tile(job.scratch + omp_get_thread_num() * path_scratch_floats(radius), radius);
    for_each_tile(p.image, [&](std::int64_t b, std::int64_t c, std::int64_t y0, std::int64_t y1,
                               std::int64_t x0, std::int64_t x1) {
      tile.read(Plane(p.image, b, c), y0, y1, x0, x1, height, width);
      float *sums = tile.work(0), *converted = tile.work(3), *tail = tile.work(4);
      const std::int64_t n = x1 - x0, whole = n / kLanes * kLanes;
      for (std::int64_t y = y0; y < y1; ++y) {
        tile.fold(y - y0);
        std::memset(sums, 0, static_cast<std::size_t>(n + kLanes) * sizeof(float));
        for (std::int64_t k = 0; k < nodes; ++k) {
          const float *change = row_of(p.change, k), *level = row_of(p.level, k);
          const float *down_change = tile.filter_down(change, 1), *down_level = tile.filter_down(level, 2);
          const float* gradient = floats_at(node_pixel(p.gradients, b, k, c, y, x0),
                                            p.gradients.dtype, p.gradients.strides[4], n, converted);
          // A vector that would reach beyond the gradient's row is read from a copy.
          std::memcpy(tail, gradient + whole, static_cast<std::size_t>(n - whole) * sizeof(float));
          for (std::int64_t x = 0; x < n; x += kLanes) {
            Vec step = tile.filter_along(down_change, level, x, Vec{});
            step = tile.filter_along(down_level, change, x, step);
            const Vec g = x < whole ? load(gradient + x) : load(tail);
            store(sums + x, multiply_add(g, step, load(sums + x)));
          }
        }
        const std::int64_t offset = b * p.out.strides[0] + c * p.out.strides[1] +
                                    y * p.out.strides[2] + x0 * p.out.strides[3];
        write_floats(sums, n, p.out.dtype, static_cast<char*>(p.out.data) + offset * out_bytes);
      }
    });
  }
}

}  // namespace fastbg::FASTBG_VARIANT
