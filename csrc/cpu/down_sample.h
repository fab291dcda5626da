// Bicubic down-sampling of rows that are composed on the fly, and the output of the results; shared by
// both kinds of composite_lr.
#pragma once

#include "composite.h"
#include "line_writer.h"
#include "pixels.h"
#include "regions.h"

namespace fastbg::FASTBG_VARIANT {

// Rows of a source are prefetched this far ahead, so that memory access and arithmetic overlap. After the
// last row, this usually prefetches the next channel.
constexpr std::int64_t kRowsAhead = 16;

// Where pixels of one channel come from; a source that is null gives zeros.
struct Pixels {
  const Plane* a;
  const Plane* b;
  Box inner, outer;
  std::int64_t width;

  // Pixels [x0, x1) of row y, to to[x0..x1).
  void read(std::int64_t y, std::int64_t x0, std::int64_t x1, float* to) const {
    const RowSplit split = split_row(inner, outer, y);
    read_from(a, y, x0, smaller(x1, split.begin), to);
    read_from(b, y, larger(x0, split.begin), smaller(x1, split.gap_begin), to);
    read_from(a, y, larger(x0, split.gap_begin), smaller(x1, split.gap_end), to);
    read_from(b, y, larger(x0, split.gap_end), smaller(x1, split.end), to);
    read_from(a, y, larger(x0, split.end), x1, to);
  }

 private:
  static void read_from(const Plane* plane, std::int64_t y, std::int64_t x0, std::int64_t x1,
                        float* to) {
    if (x0 >= x1) return;
    if (plane == nullptr) {
      std::memset(to + x0, 0, static_cast<std::size_t>(x1 - x0) * sizeof(float));
    } else {
      const char* row = plane->pixel(y, x0);
      const char* ahead = row + kRowsAhead * plane->stride_y * plane->bytes;
      for (std::int64_t at = 0; at < (x1 - x0) * plane->bytes; at += kLine) {
        __builtin_prefetch(ahead + at);
      }
      read_floats(row, plane->dtype, plane->stride_x, x1 - x0, to + x0);
    }
  }
};

// A thread's buffers; kBatch output rows are computed together.
struct Scratch {
  float* rows;    // (slots, row_floats): the input rows under the taps
  float* sums;    // (kBatch, row_floats): their weighted sums
  float* chains;  // (kBatch, chains, chain_stride): the sums, in the order in which they are read
  float* lines;   // (kBatch, chain_stride)
  float* block;   // (kBlock)
  float* image;   // (C,H/s,W/s), patch only

  Scratch(const CompositeLrJob& job, int thread) {
    rows = job.scratch + thread * job.scratch_floats;
    sums = rows + job.slots * job.row_floats;
    chains = sums + kBatch * job.row_floats;
    lines = chains + kBatch * job.chains * job.chain_stride;
    block = lines + kBatch * job.chain_stride;
    image = block + kBlock;
  }
};

// sum[x] = sum_t weight[t] * rows[slot[t]][x], for x in [x0, x1)
[[maybe_unused]] static void add_rows(const CompositeLrJob& job, const float* weight, const std::int32_t* slot,
              const float* rows, std::int64_t x0, std::int64_t x1, float* sum) {
  constexpr std::int64_t kWide = 4;  // vectors held in registers
  std::int64_t x = x0 / kLanes * kLanes;
  for (; x + kWide * kLanes <= padded(x1); x += kWide * kLanes) {
    Vec total[kWide] = {};
    for (std::int64_t t = 0; t < job.rows.taps; ++t) {
      const float* row = rows + slot[t] * job.row_floats + x;
      const Vec w = broadcast(weight[t]);
      for (std::int64_t v = 0; v < kWide; ++v) {
        total[v] = multiply_add(w, load(row + v * kLanes), total[v]);
      }
    }
    for (std::int64_t v = 0; v < kWide; ++v) store(sum + x + v * kLanes, total[v]);
  }
  for (; x < x1; x += kLanes) {
    Vec total = {};
    for (std::int64_t t = 0; t < job.rows.taps; ++t) {
      const float* row = rows + slot[t] * job.row_floats + x;
      total = multiply_add(broadcast(weight[t]), load(row), total);
    }
    store(sum + x, total);
  }
}

// lines[r][j] = sum_u weight[u][j] * sums[r][index[j][u]], for j in [j0, j1) and all rows r of
// the batch: each weight is loaded once, and chains are written well before they are read.
[[maybe_unused]] static void add_columns(const CompositeLrJob& job, std::int64_t j0, std::int64_t j1, const Scratch& s) {
  for (std::int64_t k = 0; k < job.chains; ++k) {
    const std::int32_t* __restrict column = job.chain_column + k * job.chain_stride;
    for (std::int64_t r = 0; r < kBatch; ++r) {
      const float* __restrict sum = s.sums + r * job.row_floats;
      float* __restrict chain = s.chains + (r * job.chains + k) * job.chain_stride;
      for (std::int64_t e = j0; e < j1 + job.chain_steps - 1; ++e) chain[e] = sum[column[e]];
    }
  }
  const std::int64_t weight_stride = padded(job.columns.outputs);
  const std::int64_t batch_stride = job.chains * job.chain_stride;
  for (std::int64_t j = j0 / kLanes * kLanes; j < j1; j += kLanes) {
    Vec total[kBatch] = {};
    for (std::int64_t u = 0; u < job.columns.taps; ++u) {
      const Vec weight = load(job.column_weight + u * weight_stride + j);
      const float* entries = s.chains + job.column_entry[u] + j;
      for (std::int64_t r = 0; r < kBatch; ++r) {
        total[r] = multiply_add(weight, load(entries + r * batch_stride), total[r]);
      }
    }
    for (std::int64_t r = 0; r < kBatch; ++r) store(s.lines + r * job.chain_stride + j, total[r]);
  }
}

// Outputs of `target` (in low-resolution pixels) of one channel, into an image of that channel;
// pixels.read(y, x0, x1, to) gives pixels [x0, x1) of row y, to to[x0..x1).
template <class PIXELS>
static void down_sample(const CompositeLrJob& job, PIXELS& pixels, const Box& target,
                        const Scratch& s, float* image) {
  if (target.empty()) return;
  std::int64_t x0 = job.columns.size, x1 = 0;
  for (std::int64_t j = target.x0; j < target.x1; ++j) {
    x0 = smaller(x0, job.columns.low[j]);
    x1 = larger(x1, job.columns.high[j] + 1);
  }
  const auto* row_weight = static_cast<const float*>(job.params.row_weight.data);
  std::int64_t read_until = 0;  // rows are read once each, in order; a slot outlives its last use
  for (std::int64_t i0 = target.y0; i0 < target.y1; i0 += kBatch) {
    const std::int64_t count = smaller(kBatch, target.y1 - i0);
    for (std::int64_t r = 0; r < count; ++r) {
      const std::int64_t tap = (i0 + r) * job.rows.taps;
      read_until = larger(read_until, job.rows.low[i0 + r]);
      for (; read_until <= job.rows.high[i0 + r]; ++read_until) {
        pixels.read(read_until, x0, x1, s.rows + read_until % job.slots * job.row_floats);
      }
      add_rows(job, row_weight + tap, job.row_slot + tap, s.rows, x0, x1,
               s.sums + r * job.row_floats);
    }
    add_columns(job, target.x0, target.x1, s);
    for (std::int64_t r = 0; r < count; ++r) {
      std::memcpy(image + (i0 + r) * job.columns.outputs + target.x0,
                  s.lines + r * job.chain_stride + target.x0,
                  static_cast<std::size_t>(target.x1 - target.x0) * sizeof(float));
    }
  }
}

// Outputs [begin, end) of an axis whose support meets [x0, x1); `whole`: it lies inside for all.
struct Range {
  std::int64_t begin, end;
  bool whole;
};

[[maybe_unused]] static Range outputs_touching(const Axis& axis, std::int64_t x0, std::int64_t x1) {
  Range range = {0, 0, true};
  for (std::int64_t i = 0; i < axis.outputs; ++i) {
    if (axis.high[i] < x0 || axis.low[i] >= x1) continue;
    if (range.end == 0) range.begin = i;
    range.end = i + 1;
    range.whole = range.whole && axis.low[i] >= x0 && axis.high[i] < x1;
  }
  return range;
}

// Smallest box around the outputs whose support meets `box`; empty if `only_mixed` and each of
// them lies inside.
[[maybe_unused]] static Box outputs_around(const CompositeLrJob& job, const Box& box, bool only_mixed) {
  if (box.empty()) return {0, 0, 0, 0};
  const Range y = outputs_touching(job.rows, box.y0, box.y1);
  const Range x = outputs_touching(job.columns, box.x0, box.x1);
  if (only_mixed && y.whole && x.whole) return {0, 0, 0, 0};
  return {y.begin, x.begin, y.end, x.end};
}

[[maybe_unused]] static Box around_both(const Box& one, const Box& other) {
  if (one.empty()) return other;
  if (other.empty()) return one;
  return {smaller(one.y0, other.y0), smaller(one.x0, other.x0), larger(one.y1, other.y1),
          larger(one.x1, other.x1)};
}

// One channel of one part.
[[maybe_unused]] static void compute_part(const CompositeLrJob& job, std::int64_t index,
                                          std::int64_t channel, const Scratch& s) {
  const CompositeParams& p = job.params.composite;
  const LrPart& part = job.parts[index];
  const std::int64_t height = job.rows.size, width = job.columns.size;
  const std::int64_t plane_size = job.rows.outputs * job.columns.outputs;
  float* image = job.part_images + (index * p.out.sizes[1] + channel) * plane_size;
  const Plane plane(part.from_b ? p.b : p.a, part.image, channel);

  const Box all = {0, 0, height, width}, none = {0, 0, 0, 0};
  Pixels pixels = {nullptr, nullptr, none, none, width};
  (part.from_b ? pixels.b : pixels.a) = &plane;
  Box taken = all;  // smallest box around the pixels taken
  if (part.boxes == kAllPixels) {
    pixels.outer = part.from_b ? all : none;
  } else {
    pixels.inner = box_of(p.inner, part.boxes, height, width);
    pixels.outer = box_of(p.outer, part.boxes, height, width);
    const bool all_outer = pixels.outer.y0 == 0 && pixels.outer.x0 == 0 &&
                           pixels.outer.y1 == height && pixels.outer.x1 == width;
    if (part.from_b) taken = pixels.outer;
    else if (all_outer) taken = pixels.inner;
  }
  std::memset(image, 0, static_cast<std::size_t>(plane_size) * sizeof(float));
  down_sample(job, pixels, outputs_around(job, taken, false), s, image);
}

// Every output of a pair from the images of its sources, into s.image: right for those whose
// support lies in one source.
[[maybe_unused]] static void copy_outputs(const CompositeLrJob& job, const Box& inner,
                                          const Box& outer, const float* first,
                                          const float* second, const Scratch& s) {
  const std::int64_t channels = job.params.composite.out.sizes[1], width = job.columns.outputs;
  const std::int64_t plane_size = job.rows.outputs * width;
  const auto copy = [&](const float* from, std::int64_t i, std::int64_t j0, std::int64_t j1) {
    if (j0 >= j1) return;
    for (std::int64_t c = 0; c < channels; ++c) {
      const std::int64_t at = c * plane_size + i * width + j0;
      std::memcpy(s.image + at, from + at, static_cast<std::size_t>(j1 - j0) * sizeof(float));
    }
  };
  for (std::int64_t i = 0; i < job.rows.outputs; ++i) {
    // For an unmixed output any pixel of the support gives the source; mixed ones are replaced below.
    const RowSplit split = split_row(inner, outer, job.rows.low[i]);
    const std::int64_t begin = job.column_after[split.begin];
    const std::int64_t gap_begin = job.column_after[split.gap_begin];
    const std::int64_t gap_end = job.column_after[split.gap_end];
    const std::int64_t end = job.column_after[split.end];
    copy(first, i, 0, begin);
    copy(second, i, begin, gap_begin);
    copy(first, i, gap_begin, gap_end);
    copy(second, i, gap_end, end);
    copy(first, i, end, width);
  }
}

// Rounds to grey levels in [0,1], halves up; keeps NaN.
[[maybe_unused]] static inline float quantized(float value) {
  value = value < 0.0f ? 0.0f : value;
  value = value > 1.0f ? 1.0f : value;
  const float level = value * 255.0f + 0.5f;
  const bool number = level == level;
  const float whole = static_cast<float>(static_cast<std::int32_t>(number ? level : 0.0f));
  return (number ? whole : level) / 255.0f;
}

// Appends `n` (at most kBlock) finished pixels in the output's dtype.
[[maybe_unused]] static void append_finished(LineWriter& writer, const CompositeLrJob& job, float* __restrict pixels,
                     std::int64_t n) {
  if (job.params.quantize) {
    for (std::int64_t i = 0; i < n; ++i) pixels[i] = quantized(pixels[i]);
  }
  const DType dtype = job.params.composite.out.dtype;
  if (dtype == DType::float32) {
    writer.append(pixels, n * 4);
    return;
  }
  alignas(kLine) std::uint16_t narrow[kBlock];
  if (dtype == DType::float16) {
    for (std::int64_t i = 0; i < n; ++i) narrow[i] = to_half(pixels[i]);
  } else {
    for (std::int64_t i = 0; i < n; ++i) narrow[i] = to_bfloat16(pixels[i]);
  }
  writer.append(narrow, n * 2);
}

}  // namespace fastbg::FASTBG_VARIANT
