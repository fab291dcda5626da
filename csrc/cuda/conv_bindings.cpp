#include "bindings.h"
#include "conv.h"
#include "register.h"

namespace fastbg {
namespace {

using pybind11::object;
using pybind11::tuple;

void conv3x3_pack(const tuple& weight, std::int64_t upscale, bool transposed, bool rounded, const tuple& packed,
                  std::uintptr_t stream) {
  const ConvPackParams params = {view_from(weight), upscale, transposed, rounded, view_from(packed)};
  const pybind11::gil_scoped_release release;
  check_launch("conv3x3_pack", launch_conv3x3_pack(params, stream_from(stream)));
}

void conv3x3(const tuple& x, std::int64_t x_upscale, const tuple& packed, const object& bias,
             const object& residual, float residual_scale, bool relu, const tuple& out, std::int64_t upscale,
             bool rounded, std::uintptr_t stream) {
  ConvParams params{};
  params.x = {view_from(x), x_upscale};
  params.factors = view_from(packed);
  params.bias = optional_view(bias);
  params.residual = {optional_view(residual), upscale};
  params.out = {view_from(out), upscale};
  params.relu = relu;
  params.residual_scale = residual_scale;
  const pybind11::gil_scoped_release release;
  check_launch("conv3x3", launch_conv3x3(params, rounded, stream_from(stream)));
}

}  // namespace

// bias and residual may be None.
void register_conv(pybind11::module_& m) {
  using pybind11::arg;
  m.def("conv3x3_packed_size", [](const tuple& weight, std::int64_t upscale, bool transposed) {
    return conv3x3_packed_size({view_from(weight), upscale, transposed, false, {}});
  }, arg("weight"), arg("upscale"), arg("transposed"));
  m.def("conv3x3_pack", conv3x3_pack, arg("weight"), arg("upscale"), arg("transposed"), arg("rounded"),
        arg("packed"), arg("stream"));
  m.def("conv3x3", conv3x3, arg("x"), arg("x_upscale"), arg("packed"), arg("bias"), arg("residual"),
        arg("residual_scale"), arg("relu"), arg("out"), arg("upscale"), arg("rounded"), arg("stream"));
}

}  // namespace fastbg
