// composite: rows of two sources, copied into place.
#include "composite.h"

#include <omp.h>

#include "line_writer.h"
#include "pixels.h"
#include "regions.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// Appends pixels [x0, x1) of row y; `row` holds one output row for those that must be converted.
void append_pixels(LineWriter& writer, const Plane& plane, std::int64_t y, std::int64_t x0,
                   std::int64_t x1, char* row) {
  if (x0 >= x1) return;
  const char* from = plane.pixel(y, x0);
  const std::int64_t n = x1 - x0;
  if (plane.dtype == DType::uint8) {
    read_floats(from, plane.dtype, plane.stride_x, n, reinterpret_cast<float*>(row));
    writer.append(row, n * 4);
  } else if (plane.stride_x == 1) {
    writer.append(from, n * plane.bytes);
  } else {
    const std::int64_t step = plane.stride_x * plane.bytes;
    if (plane.bytes == 4) {
      for (std::int64_t i = 0; i < n; ++i) std::memcpy(row + 4 * i, from + i * step, 4);
    } else {
      for (std::int64_t i = 0; i < n; ++i) std::memcpy(row + 2 * i, from + i * step, 2);
    }
    writer.append(row, n * plane.bytes);
  }
}

// Rows [y0, y1) that come from one source; a single piece if they are contiguous.
void append_rows(LineWriter& writer, const Plane& plane, std::int64_t y0, std::int64_t y1,
                 std::int64_t width, char* row) {
  if (plane.dtype != DType::uint8 && plane.stride_x == 1 && plane.stride_y == width) {
    writer.append(plane.pixel(y0, 0), (y1 - y0) * width * plane.bytes);
    return;
  }
  for (std::int64_t y = y0; y < y1; ++y) append_pixels(writer, plane, y, 0, width, row);
}

void compose_plane(LineWriter& writer, const Plane& a, const Plane& b, const Box& inner,
                   const Box& outer, std::int64_t height, std::int64_t width, char* row) {
  for (std::int64_t y = 0, next; y < height; y = next) {
    next = next_change(inner, outer, y, height);
    const RowSplit split = split_row(inner, outer, y);
    if (split.all_a()) {
      append_rows(writer, a, y, next, width, row);
    } else if (split.all_b(width)) {
      append_rows(writer, b, y, next, width, row);
    } else {
      for (; y < next; ++y) {
        append_pixels(writer, a, y, 0, split.begin, row);
        append_pixels(writer, b, y, split.begin, split.gap_begin, row);
        append_pixels(writer, a, y, split.gap_begin, split.gap_end, row);
        append_pixels(writer, b, y, split.gap_end, split.end, row);
        append_pixels(writer, a, y, split.end, width, row);
      }
    }
  }
  writer.finish();
}

}  // namespace

void composite(const CompositeJob& job, int threads) {
  const CompositeParams& p = job.params;
  const std::int64_t channels = p.out.sizes[1], height = p.out.sizes[2], width = p.out.sizes[3];
  const std::int64_t planes = p.out.sizes[0] * channels;
  const std::int64_t bytes = element_size(p.out.dtype);
  const bool past_caches = planes * height * width * bytes > kStreamBytes;

#pragma omp parallel num_threads(threads)
  {
    char* row = job.rows + omp_get_thread_num() * job.row_bytes;
#pragma omp for schedule(static)
    for (std::int64_t k = 0; k < planes; ++k) {
      const std::int64_t n = k / channels, channel = k % channels;
      const std::int64_t offset = n * p.out.strides[0] + channel * p.out.strides[1];
      LineWriter writer(static_cast<char*>(p.out.data) + offset * bytes, past_caches);
      compose_plane(writer, Plane(p.a, integer(p.pairs, n, 0), channel),
                    Plane(p.b, integer(p.pairs, n, 1), channel),
                    box_of(p.inner, n, height, width), box_of(p.outer, n, height, width), height,
                    width, row);
    }
    finish_streaming();
  }
}

}  // namespace fastbg::FASTBG_VARIANT
