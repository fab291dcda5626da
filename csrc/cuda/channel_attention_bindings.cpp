#include "bindings.h"
#include "channel_attention.h"
#include "register.h"

namespace fastbg {
namespace {

using pybind11::tuple;

ChannelAttention attention_from(const tuple& parameters) {
  const auto of = [&](int i) { return view_from(parameters[i].cast<tuple>()); };
  return {of(0), of(1), of(2), of(3)};
}

void channel_attention(const tuple& y, const tuple& residual, const tuple& sums, const tuple& parameters, float scale,
                       std::int64_t map_pixels, const tuple& means, const tuple& out, std::uintptr_t stream) {
  const TensorView seen = view_from(y), other = view_from(residual), of_map = view_from(sums);
  const TensorView found = view_from(means), to = view_from(out);
  const ChannelAttention attention = attention_from(parameters);
  const pybind11::gil_scoped_release release;
  check_launch("channel_attention", launch_channel_attention(seen, other, of_map, attention, scale, map_pixels, found,
                                                             to, stream_from(stream)));
}

void channel_attention_gradient(const tuple& grad, std::int64_t down, std::int64_t right, const tuple& y,
                                const tuple& means, const tuple& parameters, float scale, const tuple& dots,
                                const tuple& out, std::uintptr_t stream) {
  const TensorView from = view_from(grad), seen = view_from(y), of_map = view_from(means);
  const TensorView scratch = view_from(dots), to = view_from(out);
  const ChannelAttention attention = attention_from(parameters);
  const pybind11::gil_scoped_release release;
  check_launch("channel_attention_gradient",
               launch_channel_attention_gradient(from, down, right, seen, of_map, attention, scale, scratch, to,
                                                 stream_from(stream)));
}

}  // namespace

// parameters: squeeze, squeeze_bias, excite, excite_bias.
void register_channel_attention(pybind11::module_& m) {
  using pybind11::arg;
  m.def("channel_attention", channel_attention, arg("y"), arg("residual"), arg("sums"), arg("parameters"),
        arg("scale"), arg("map_pixels"), arg("means"), arg("out"), arg("stream"));
  m.def("channel_attention_dots", attention_dots, arg("height"), arg("width"));
  m.def("channel_attention_gradient", channel_attention_gradient, arg("grad"), arg("down"), arg("right"), arg("y"),
        arg("means"), arg("parameters"), arg("scale"), arg("dots"), arg("out"), arg("stream"));
}

}  // namespace fastbg
