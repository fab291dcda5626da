#include "bindings.h"
#include "gram.h"
#include "register.h"

namespace fastbg {
namespace {

using pybind11::object;
using pybind11::tuple;

GramParams gram_params(const tuple& features, const object& mask, const tuple& out) {
  return {view_from(features), optional_view(mask), view_from(out)};
}

ConvGramParams conv_gram_params(const tuple& images, const tuple& weight, const tuple& bias,
                                const object& mask, const tuple& out) {
  return {view_from(images), view_from(weight), view_from(bias), optional_view(mask),
          view_from(out)};
}

void gram(const tuple& features, const object& mask, const tuple& workspace, const tuple& out,
          std::uintptr_t stream) {
  const GramParams params = gram_params(features, mask, out);
  const TensorView scratch = view_from(workspace);
  const pybind11::gil_scoped_release release;
  check_launch("gram", launch_gram(params, scratch, stream_from(stream)));
}

void conv_gram(const tuple& images, const tuple& weight, const tuple& bias, const object& mask,
               const tuple& workspace, const tuple& out, std::uintptr_t stream) {
  const ConvGramParams params = conv_gram_params(images, weight, bias, mask, out);
  const TensorView scratch = view_from(workspace);
  const pybind11::gil_scoped_release release;
  check_launch("conv_gram", launch_conv_gram(params, scratch, stream_from(stream)));
}

}  // namespace

// A mask may be None. The workspace holds as many floats as *_workspace says.
void register_gram(pybind11::module_& m) {
  using pybind11::arg;
  m.def("gram_workspace", [](const tuple& features, const object& mask, const tuple& out) {
    return gram_workspace(gram_params(features, mask, out));
  }, arg("features"), arg("mask"), arg("out"));
  m.def("gram", gram, arg("features"), arg("mask"), arg("workspace"), arg("out"), arg("stream"));
  m.def("conv_gram_workspace", [](const tuple& images, const tuple& weight, const tuple& bias,
                                  const object& mask, const tuple& out) {
    return conv_gram_workspace(conv_gram_params(images, weight, bias, mask, out));
  }, arg("images"), arg("weight"), arg("bias"), arg("mask"), arg("out"));
  m.def("conv_gram", conv_gram, arg("images"), arg("weight"), arg("bias"), arg("mask"),
        arg("workspace"), arg("out"), arg("stream"));
}

}  // namespace fastbg
