// gradient_detector and its gradient: one pass over the window, without buffers of its size.
#include <omp.h>

#include <cmath>

#include "path.h"
#include "pixels.h"
#include "regions.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// The pixels of the window that have a neighbour below and right of them.
Box measured(const TensorView& windows, std::int64_t b, std::int64_t height, std::int64_t width) {
  return box_of(windows, b, height - 1, width - 1);
}

// The two rows of pixels for the differences from (y, x0) on, each one pixel longer than the differences.
void read_pair(const Plane& plane, std::int64_t y, const Box& box, float* row, float* below) {
  const std::int64_t n = box.x1 - box.x0 + 1;
  if (y == box.y0) {
    read_floats(plane.pixel(y, box.x0), plane.dtype, plane.stride_x, n, row);
  } else {
    std::memcpy(row, below, static_cast<std::size_t>(n) * sizeof(float));
  }
  read_floats(plane.pixel(y + 1, box.x0), plane.dtype, plane.stride_x, n, below);
}

double window_sum(const Plane& plane, const Box& box, float* row, float* below) {
  double sum = 0;
  for (std::int64_t y = box.y0; y < box.y1; ++y) {
    read_pair(plane, y, box, row, below);
    for (std::int64_t x = 0; x < box.x1 - box.x0; ++x) {
      const float down = below[x] - row[x], right = row[x + 1] - row[x];
      sum += static_cast<double>(std::sqrt(down * down + right * right));
    }
  }
  return sum;
}

// Writes n floats as `dtype`, `stride` elements apart.
void write_row(const float* from, DType dtype, std::int64_t n, char* to) {
  for (std::int64_t i = 0; i < n; ++i) {
    if (dtype == DType::float32) {
      std::memcpy(to + 4 * i, from + i, 4);
    } else {
      const std::uint16_t half = dtype == DType::float16 ? to_half(from[i]) : to_bfloat16(from[i]);
      std::memcpy(to + 2 * i, &half, 2);
    }
  }
}

}  // namespace

void gradient_detector(const GradientDetectorJob& job, int threads) {
  const GradientDetectorParams& p = job.params;
  const std::int64_t images = p.sr.sizes[0], channels = p.sr.sizes[1];
  const std::int64_t height = p.sr.sizes[2], width = p.sr.sizes[3];

#pragma omp parallel for schedule(static) num_threads(threads) if (images > 1)
  for (std::int64_t b = 0; b < images; ++b) {
    float* row = job.scratch + omp_get_thread_num() * kDetectorRows * width;
    const Box box = measured(p.windows, b, height, width);
    double sum = 0;
    for (std::int64_t c = 0; c < channels && !box.empty(); ++c) {
      sum += window_sum(Plane(p.sr, b, c), box, row, row + width);
    }
    static_cast<float*>(p.out.data)[b] = static_cast<float>(sum);
  }
}

void gradient_detector_backward(const GradientDetectorBackwardJob& job, int threads) {
  const GradientDetectorBackwardParams& p = job.params;
  const std::int64_t channels = p.sr.sizes[1], planes = p.sr.sizes[0] * channels;
  const std::int64_t height = p.sr.sizes[2], width = p.sr.sizes[3];
  const std::int64_t plane_bytes = height * width * element_size(p.out.dtype);

#pragma omp parallel for schedule(static) num_threads(threads) if (planes * height * width > 16384)
  for (std::int64_t i = 0; i < planes; ++i) {
    const std::int64_t b = i / channels;
    char* to = static_cast<char*>(p.out.data) + i * plane_bytes;
    std::memset(to, 0, static_cast<std::size_t>(plane_bytes));
    const Box box = measured(p.windows, b, height, width);
    if (box.empty()) continue;

    const Plane plane(p.sr, b, i % channels);
    const float upstream = static_cast<const float*>(p.grad.data)[b * p.grad.strides[0]];
    float* row = job.scratch + omp_get_thread_num() * kDetectorRows * width;
    float *below = row + width, *sums = below + width, *sums_below = sums + width;
    const std::int64_t n = box.x1 - box.x0;
    std::memset(sums_below, 0, static_cast<std::size_t>(n + 1) * sizeof(float));
    for (std::int64_t y = box.y0; y <= box.y1; ++y) {
      std::memcpy(sums, sums_below, static_cast<std::size_t>(n + 1) * sizeof(float));
      std::memset(sums_below, 0, static_cast<std::size_t>(n + 1) * sizeof(float));
      if (y < box.y1) {
        read_pair(plane, y, box, row, below);
        for (std::int64_t x = 0; x < n; ++x) {
          float down = below[x] - row[x], right = row[x + 1] - row[x];
          const float length = std::sqrt(down * down + right * right);
          const float share = length == 0 ? 0 : upstream / length;  // NaN stays NaN
          down *= share;
          right *= share;
          sums_below[x] = down;
          sums[x + 1] += right;
          sums[x] -= down + right;
        }
      }
      write_row(sums, p.out.dtype, n + 1,
                to + (y * width + box.x0) * element_size(p.out.dtype));
    }
  }
}

}  // namespace fastbg::FASTBG_VARIANT
