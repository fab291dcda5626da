// bridged_composite: row by row in float32, converted once where the output is narrower.
#include <omp.h>

#include "bridge.h"
#include "composite.h"
#include "line_writer.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// Converts in place: element i of the result lies before float i.
void append_row(LineWriter& writer, float* row, std::int64_t width, DType dtype) {
  auto* narrow = reinterpret_cast<char*>(row);
  if (dtype == DType::float32) {
    writer.append(row, width * 4);
    return;
  }
  for (std::int64_t x = 0; x < width; ++x) {
    const std::uint16_t value = dtype == DType::float16 ? to_half(row[x]) : to_bfloat16(row[x]);
    std::memcpy(narrow + 2 * x, &value, 2);
  }
  writer.append(narrow, width * 2);
}

}  // namespace

void bridged_composite(const BridgedCompositeJob& job, int threads) {
  const CompositeParams& p = job.params;
  const std::int64_t channels = p.out.sizes[1], height = p.out.sizes[2], width = p.out.sizes[3];
  const std::int64_t planes = p.out.sizes[0] * channels;
  const std::int64_t bytes = element_size(p.out.dtype);
  const bool past_caches = planes * height * width * bytes > kStreamBytes;

#pragma omp parallel num_threads(threads)
  {
    float* row = job.scratch + omp_get_thread_num() * (kBridgeRows + 1) * job.row_floats;
    Bridge bridge(job.decay, height, width, row + job.row_floats, job.row_floats);
#pragma omp for schedule(static)
    for (std::int64_t k = 0; k < planes; ++k) {
      const std::int64_t n = job.order[k / channels], channel = k % channels;
      const Plane a(p.a, integer(p.pairs, n, 0), channel), b(p.b, integer(p.pairs, n, 1), channel);
      bridge.set_boxes(box_of(p.inner, n, height, width), box_of(p.outer, n, height, width));
      bridge.set_planes(a, b);
      const std::int64_t offset = n * p.out.strides[0] + channel * p.out.strides[1];
      LineWriter writer(static_cast<char*>(p.out.data) + offset * bytes, past_caches);
      for (std::int64_t y = 0; y < height; ++y) {
        bridge.read(y, 0, width, row);
        append_row(writer, row, width, p.out.dtype);
      }
      writer.finish();
    }
    finish_streaming();
  }
}

}  // namespace fastbg::FASTBG_VARIANT
