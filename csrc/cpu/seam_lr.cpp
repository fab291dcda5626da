// bridged_composite_lr: bicubic down-sampling of composites with a bridged seam, never stored.
//
// A bridge is clipped, so that its down-sampling is not a sum of parts. Outputs whose support it reaches are
// computed for each pair, from rows that are composed on the fly. All others are copied from the LR images
// of whole sources, which are computed only if a pair needs them.
#include <omp.h>

#include "bridge.h"
#include "down_sample.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

struct Boxes {
  Box inner, outer;
};

Boxes boxes_of(const BridgedCompositeLrJob& job, std::int64_t n) {
  const CompositeParams& p = job.lr.params.composite;
  const std::int64_t height = job.lr.rows.size, width = job.lr.columns.size;
  return {box_of(p.inner, n, height, width), box_of(p.outer, n, height, width)};
}

// Smallest box around the outputs that are not copied from one source.
Box outputs_reached(const BridgedCompositeLrJob& job, const Boxes& boxes) {
  Box reached = cut(boxes.inner, boxes.outer);
  if (!reached.empty()) {
    const std::int64_t reach = job.decay.reach;
    reached = cut({reached.y0 - reach, reached.x0 - reach, reached.y1 + reach, reached.x1 + reach},
                  boxes.outer);
  }
  if (has_rim(boxes.outer, job.lr.rows.size, job.lr.columns.size)) reached = boxes.outer;
  return outputs_around(job.lr, reached, false);
}

bool covers_all(const CompositeLrJob& job, const Box& outputs) {
  return outputs.y0 == 0 && outputs.x0 == 0 && outputs.y1 == job.rows.outputs &&
         outputs.x1 == job.columns.outputs;
}

void mark_needed_parts(const BridgedCompositeLrJob& job) {
  const CompositeParams& p = job.lr.params.composite;
  const bool one_box = p.inner.rank == 1 && p.outer.rank == 1;
  if (one_box && covers_all(job.lr, outputs_reached(job, boxes_of(job, 0)))) return;
  for (std::int64_t n = 0; n < p.out.sizes[0]; ++n) {
    if (!one_box && covers_all(job.lr, outputs_reached(job, boxes_of(job, n)))) continue;
    for (int side = 0; side < 2; ++side) job.part_needed[job.lr.pair_parts[2 * n + side]] = true;
  }
}

// The low-resolution composite of pair n, into s.image.
void compute_pair(const BridgedCompositeLrJob& job, std::int64_t n, const Scratch& s,
                  Bridge& bridge) {
  const CompositeParams& p = job.lr.params.composite;
  const std::int64_t channels = p.out.sizes[1];
  const std::int64_t plane_size = job.lr.rows.outputs * job.lr.columns.outputs;
  const Boxes boxes = boxes_of(job, n);
  const Box reached = outputs_reached(job, boxes);
  if (!covers_all(job.lr, reached)) {
    const std::int32_t* parts = job.lr.pair_parts + 2 * n;
    const std::int64_t size = channels * plane_size;
    copy_outputs(job.lr, boxes.inner, boxes.outer, job.lr.part_images + parts[0] * size,
                 job.lr.part_images + parts[1] * size, s);
  }
  if (reached.empty()) return;
  bridge.set_boxes(boxes.inner, boxes.outer);
  for (std::int64_t c = 0; c < channels; ++c) {
    const Plane a(p.a, integer(p.pairs, n, 0), c), b(p.b, integer(p.pairs, n, 1), c);
    bridge.set_planes(a, b);
    down_sample(job.lr, bridge, reached, s, s.image + c * plane_size);
  }
}

// The finished pixels of pair n, from s.image.
void write_image(const CompositeLrJob& job, std::int64_t n, const Scratch& s, bool past_caches) {
  const TensorView& out = job.params.composite.out;
  const std::int64_t size = out.sizes[1] * job.rows.outputs * job.columns.outputs;
  const std::int64_t offset = n * out.strides[0] * element_size(out.dtype);
  LineWriter writer(static_cast<char*>(out.data) + offset, past_caches);
  for (std::int64_t at = 0; at < size; at += kBlock) {
    append_finished(writer, job, s.image + at, smaller(kBlock, size - at));
  }
  writer.finish();
}

}  // namespace

void bridged_composite_lr(const BridgedCompositeLrJob& job, int threads) {
  const TensorView& out = job.lr.params.composite.out;
  const std::int64_t channels = out.sizes[1];
  const std::int64_t image = channels * out.sizes[2] * out.sizes[3];
  const bool past_caches = element_size(out.dtype) * out.sizes[0] * image > kStreamBytes;
  mark_needed_parts(job);

#pragma omp parallel num_threads(threads)
  {
    const Scratch scratch(job.lr, omp_get_thread_num());
    Bridge bridge(job.decay, job.lr.rows.size, job.lr.columns.size, scratch.image + padded(image),
                  job.lr.row_floats);
#pragma omp for schedule(dynamic)
    for (std::int64_t k = 0; k < job.lr.part_count * channels; ++k) {
      if (job.part_needed[k / channels]) compute_part(job.lr, k / channels, k % channels, scratch);
    }
#pragma omp for schedule(static)
    for (std::int64_t k = 0; k < out.sizes[0]; ++k) {
      compute_pair(job, job.order[k], scratch, bridge);
      write_image(job.lr, job.order[k], scratch, past_caches);
    }
    finish_streaming();
  }
}

}  // namespace fastbg::FASTBG_VARIANT
