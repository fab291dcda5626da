#include "bindings.h"
#include "path.h"
#include "register.h"

namespace fastbg {
namespace {

using pybind11::tuple;

void blur_path(const tuple& image, const tuple& taps, const tuple& out, std::uintptr_t stream) {
  const BlurPathParams params = {view_from(image), view_from(taps), view_from(out)};
  const pybind11::gil_scoped_release release;
  check_launch("blur_path", launch_blur_path(params, stream_from(stream)));
}

void path_integral(const tuple& gradients, const tuple& image, const tuple& change,
                   const tuple& level, const tuple& out, std::uintptr_t stream) {
  const PathIntegralParams params = {view_from(gradients), view_from(image), view_from(change),
                                     view_from(level), view_from(out)};
  const pybind11::gil_scoped_release release;
  check_launch("path_integral", launch_path_integral(params, stream_from(stream)));
}

void gradient_detector(const tuple& sr, const tuple& windows, const tuple& out,
                       std::uintptr_t stream) {
  const GradientDetectorParams params = {view_from(sr), view_from(windows), view_from(out)};
  const pybind11::gil_scoped_release release;
  check_launch("gradient_detector", launch_gradient_detector(params, stream_from(stream)));
}

void gradient_detector_backward(const tuple& grad, const tuple& sr, const tuple& windows,
                                const tuple& out, std::uintptr_t stream) {
  const GradientDetectorBackwardParams params = {view_from(grad), view_from(sr),
                                                 view_from(windows), view_from(out)};
  const pybind11::gil_scoped_release release;
  check_launch("gradient_detector_backward",
               launch_gradient_detector_backward(params, stream_from(stream)));
}

}  // namespace

void register_path(pybind11::module_& m) {
  using pybind11::arg;
  m.def("blur_path", blur_path, arg("image"), arg("taps"), arg("out"), arg("stream"));
  m.def("path_integral", path_integral, arg("gradients"), arg("image"), arg("change"),
        arg("level"), arg("out"), arg("stream"));
  m.def("gradient_detector", gradient_detector, arg("sr"), arg("windows"), arg("out"),
        arg("stream"));
  m.def("gradient_detector_backward", gradient_detector_backward, arg("grad"), arg("sr"),
        arg("windows"), arg("out"), arg("stream"));
}

}  // namespace fastbg
