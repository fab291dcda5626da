#include <vector>

#include "bindings.h"
#include "conv_stack.h"
#include "register.h"

namespace fastbg {
namespace {

using pybind11::object;
using pybind11::tuple;

// (view, down, right), or None.
PlacedMap placed_from(const object& described) {
  if (described.is_none()) return {};
  const auto placed = described.cast<tuple>();
  return {view_from(placed[0].cast<tuple>()), placed[1].cast<std::int64_t>(), placed[2].cast<std::int64_t>()};
}

// weights: (view, upscale, start) of each.
void conv_stack_pack(const tuple& weights, bool transposed, bool rounded, const tuple& packed,
                     std::uintptr_t stream) {
  std::vector<StackWeight> all;
  for (const auto& item : weights) {
    const auto one = item.cast<tuple>();
    all.push_back({view_from(one[0].cast<tuple>()), one[1].cast<std::int64_t>(), one[2].cast<std::int64_t>()});
  }
  const TensorView to = view_from(packed);
  const pybind11::gil_scoped_release release;
  check_launch("conv_stack_pack", launch_stack_pack(all, transposed, rounded, to, stream_from(stream)));
}

void conv_stack_layer(const tuple& x, std::int64_t x_upscale, const tuple& packed, const object& bias, bool relu,
                      float scale, const object& residual, const object& gate, const object& sums, const tuple& out,
                      std::int64_t upscale, bool rounded, std::uintptr_t stream) {
  StackLayerParams params{};
  params.x = placed_from(x);
  params.x_upscale = x_upscale;
  params.factors = view_from(packed);
  params.bias = optional_view(bias);
  params.residual = placed_from(residual);
  params.gate = optional_view(gate);
  params.sums = optional_view(sums);
  params.out = view_from(out);
  params.upscale = upscale;
  params.relu = relu;
  params.scale = scale;
  const pybind11::gil_scoped_release release;
  check_launch("conv_stack_layer", launch_stack_layer(params, rounded, stream_from(stream)));
}

}  // namespace

// bias, residual, gate and sums may be None.
void register_conv_stack(pybind11::module_& m) {
  using pybind11::arg;
  m.def("conv_stack_pack", conv_stack_pack, arg("weights"), arg("transposed"), arg("rounded"), arg("packed"),
        arg("stream"));
  m.def("conv_stack_sums", [](std::int64_t channels, std::int64_t height, std::int64_t width) {
    const StackSums sums = stack_sums(channels, height, width);
    return pybind11::make_tuple(sums.blocks, sums.channels);
  }, arg("channels"), arg("height"), arg("width"));
  m.def("conv_stack_layer", conv_stack_layer, arg("x"), arg("x_upscale"), arg("packed"), arg("bias"), arg("relu"),
        arg("scale"), arg("residual"), arg("gate"), arg("sums"), arg("out"), arg("upscale"), arg("rounded"),
        arg("stream"));
}

}  // namespace fastbg
