// Images of a batch by themselves: by a thread each, or one after the other by all threads.
#pragma once

#include <cstdint>
#include <exception>

#include "tensor_view.h"

namespace fastbg {

// Whether each thread takes whole images. They need not wait for one another after each layer then, and
// the layers of a small image are too small to be shared.
inline bool one_thread_each(std::int64_t images, int threads) {
  return threads > 1 && (images % threads == 0 || images >= 4 * threads);
}

// Calls `work(image, threads)` for each image; the first exception is thrown again at the end.
template <class Work>
void for_each_image(std::int64_t images, int threads, const Work& work) {
  if (!one_thread_each(images, threads)) {
    for (std::int64_t b = 0; b < images; ++b) work(b, threads);
    return;
  }
  std::exception_ptr failed;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (std::int64_t b = 0; b < images; ++b) {
    try {
      work(b, 1);
    } catch (...) {
#pragma omp critical(fastbg_image_failed)
      if (!failed) failed = std::current_exception();
    }
  }
  if (failed) std::rethrow_exception(failed);
}

// One image of a float32 batch, as a batch of one.
inline TensorView image_of(TensorView batch, std::int64_t image) {
  batch.data = static_cast<float*>(batch.data) + image * batch.strides[0];
  batch.sizes[0] = 1;
  return batch;
}

}  // namespace fastbg
