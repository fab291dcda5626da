#include <pybind11/pybind11.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "bindings.h"
#include "path.h"
#include "register.h"

namespace fastbg {
namespace {

namespace py = pybind11;

// fastbg.ops checks the same, but not inside a compiled graph.
void check_radius(const TensorView& image, const TensorView& taps) {
  const std::int64_t size = taps.sizes[1];
  if (size % 2 == 0 || size / 2 >= std::min(image.sizes[2], image.sizes[3])) {
    throw std::invalid_argument("taps must be odd in number, and half of them fewer than H and W");
  }
}

// One thread per amount of work that takes longer than waking it, about 50 us.
int useful_threads(const TensorView& image, const TensorView& taps, int threads) {
  std::int64_t products = taps.sizes[0] * taps.sizes[1];
  for (int i = 0; i < image.rank; ++i) products *= image.sizes[i];
  return static_cast<int>(std::clamp<std::int64_t>(products >> 20, 1, threads));
}

std::vector<float> path_scratch(const TensorView& taps, int threads) {
  return std::vector<float>(
      static_cast<std::size_t>(threads * path_scratch_floats(taps.sizes[1] / 2)));
}

std::vector<float> detector_scratch(const TensorView& sr, int threads) {
  return std::vector<float>(static_cast<std::size_t>(threads * kDetectorRows * sr.sizes[3]));
}

void run_blur_path(const BlurPathParams& params, int threads) {
  check_radius(params.image, params.taps);
  threads = useful_threads(params.image, params.taps, threads);
  std::vector<float> scratch = path_scratch(params.taps, threads);
  const BlurPathJob job{params, scratch.data()};
  FASTBG_CALL_VARIANT(blur_path, job, threads);
}

void run_path_integral(const PathIntegralParams& params, int threads) {
  check_radius(params.image, params.change);
  threads = useful_threads(params.image, params.change, threads);
  std::vector<float> scratch = path_scratch(params.change, threads);
  const PathIntegralJob job{params, scratch.data()};
  FASTBG_CALL_VARIANT(path_integral, job, threads);
}

void run_detector(const GradientDetectorParams& params, int threads) {
  std::vector<float> scratch = detector_scratch(params.sr, threads);
  const GradientDetectorJob job{params, scratch.data()};
  FASTBG_CALL_VARIANT(gradient_detector, job, threads);
}

void run_detector_backward(const GradientDetectorBackwardParams& params, int threads) {
  std::vector<float> scratch = detector_scratch(params.sr, threads);
  const GradientDetectorBackwardJob job{params, scratch.data()};
  FASTBG_CALL_VARIANT(gradient_detector_backward, job, threads);
}

}  // namespace

// Inputs first, then `out` (contiguous), then the number of threads.
void register_path(py::module_& m) {
  m.def("blur_path",
        [](const py::tuple& image, const py::tuple& taps, const py::tuple& out, int threads) {
          const BlurPathParams params{view_from(image), view_from(taps), view_from(out)};
          const py::gil_scoped_release released;
          if (!has_no_elements(params.out)) run_blur_path(params, threads);
        });
  m.def("path_integral",
        [](const py::tuple& gradients, const py::tuple& image, const py::tuple& change,
           const py::tuple& level, const py::tuple& out, int threads) {
          const PathIntegralParams params{view_from(gradients), view_from(image),
                                          view_from(change), view_from(level), view_from(out)};
          const py::gil_scoped_release released;
          if (!has_no_elements(params.out)) run_path_integral(params, threads);
        });
  m.def("gradient_detector",
        [](const py::tuple& sr, const py::tuple& windows, const py::tuple& out, int threads) {
          const GradientDetectorParams params{view_from(sr), view_from(windows), view_from(out)};
          const py::gil_scoped_release released;
          if (!has_no_elements(params.out)) run_detector(params, threads);
        });
  m.def("gradient_detector_backward",
        [](const py::tuple& grad, const py::tuple& sr, const py::tuple& windows,
           const py::tuple& out, int threads) {
          const GradientDetectorBackwardParams params{view_from(grad), view_from(sr),
                                                      view_from(windows), view_from(out)};
          const py::gil_scoped_release released;
          if (!has_no_elements(params.out)) run_detector_backward(params, threads);
        });
}

}  // namespace fastbg
