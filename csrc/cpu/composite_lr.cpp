// composite_lr: bicubic down-sampling of composites that are never stored.
//
// Down-sampling R is linear, so that R(composite) = R(pixels taken from a) + R(pixels taken
// from b). Each part depends on one source and the boxes only: it is computed once, and every
// pair that shares it adds two small images. Where too few pairs share a part (a box per pair),
// whole sources are down-sampled once, and only the pixels whose support holds both sources are
// computed per pair. Pixels are selected and never multiplied by a mask: a NaN that is not taken
// must not enter.
#include <omp.h>

#include "down_sample.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

// The low-resolution composite of pair n, into s.image.
void patch_pair(const CompositeLrJob& job, std::int64_t n, const float* first,
                const float* second, const Scratch& s) {
  const CompositeParams& p = job.params.composite;
  const std::int64_t channels = p.out.sizes[1], width = job.columns.outputs;
  const std::int64_t plane_size = job.rows.outputs * width;
  const Box inner = box_of(p.inner, n, job.rows.size, job.columns.size);
  const Box outer = box_of(p.outer, n, job.rows.size, job.columns.size);

  copy_outputs(job, inner, outer, first, second, s);
  const Box mixed =
      around_both(outputs_around(job, inner, true), outputs_around(job, outer, true));
  for (std::int64_t c = 0; c < channels; ++c) {
    const Plane a(p.a, integer(p.pairs, n, 0), c), b(p.b, integer(p.pairs, n, 1), c);
    Pixels pixels = {&a, &b, inner, outer, job.columns.size};
    down_sample(job, pixels, mixed, s, s.image + c * plane_size);
  }
}

void write_pair(const CompositeLrJob& job, std::int64_t n, const Scratch& s, bool past_caches) {
  const TensorView& out = job.params.composite.out;
  const std::int64_t size = out.sizes[1] * job.rows.outputs * job.columns.outputs;
  const float* first = job.part_images + job.pair_parts[2 * n] * size;
  const float* second = job.part_images + job.pair_parts[2 * n + 1] * size;
  if (job.patch) patch_pair(job, n, first, second, s);

  const std::int64_t offset = n * out.strides[0] * element_size(out.dtype);
  LineWriter writer(static_cast<char*>(out.data) + offset, past_caches);
  for (std::int64_t at = 0; at < size; at += kBlock) {
    const std::int64_t count = smaller(kBlock, size - at);
    float* __restrict block = s.block;
    if (job.patch) {
      std::memcpy(block, s.image + at, static_cast<std::size_t>(count) * sizeof(float));
    } else {
      for (std::int64_t i = 0; i < count; ++i) block[i] = first[at + i] + second[at + i];
    }
    append_finished(writer, job, block, count);
  }
  writer.finish();
}

}  // namespace

void composite_lr(const CompositeLrJob& job, int threads) {
  const TensorView& out = job.params.composite.out;
  const std::int64_t channels = out.sizes[1];
  const std::int64_t bytes = element_size(out.dtype) * out.sizes[0] * channels * out.sizes[2] *
                             out.sizes[3];
  const bool past_caches = bytes > kStreamBytes;

#pragma omp parallel num_threads(threads)
  {
    const Scratch scratch(job, omp_get_thread_num());
#pragma omp for schedule(dynamic)
    for (std::int64_t k = 0; k < job.part_count * channels; ++k) {
      compute_part(job, k / channels, k % channels, scratch);
    }
#pragma omp for schedule(static)
    for (std::int64_t n = 0; n < out.sizes[0]; ++n) write_pair(job, n, scratch, past_caches);
    finish_streaming();
  }
}

}  // namespace fastbg::FASTBG_VARIANT
