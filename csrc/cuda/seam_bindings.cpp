#include "bindings.h"
#include "register.h"
#include "seam.h"

namespace fastbg {
namespace {

using pybind11::tuple;

CompositeParams composite_params(const tuple& a, const tuple& b, const tuple& pairs,
                                 const tuple& inner, const tuple& outer, const tuple& out) {
  return {view_from(a),     view_from(b),     view_from(pairs),
          view_from(inner), view_from(outer), view_from(out)};
}

void bridged_composite(const tuple& a, const tuple& b, const tuple& pairs, const tuple& inner,
                       const tuple& outer, const tuple& decay, const tuple& out,
                       std::uintptr_t stream) {
  const CompositeParams params = composite_params(a, b, pairs, inner, outer, out);
  const SeamParams seam = {view_from(decay)};
  const pybind11::gil_scoped_release release;
  check_launch("bridged_composite", launch_bridged_composite(params, seam, stream_from(stream)));
}

void bridged_composite_lr(const tuple& a, const tuple& b, const tuple& pairs, const tuple& inner,
                          const tuple& outer, const tuple& decay, const tuple& row_index,
                          const tuple& row_weight, const tuple& column_index,
                          const tuple& column_weight, bool quantize, const tuple& out,
                          std::uintptr_t stream) {
  const CompositeLrParams params = {composite_params(a, b, pairs, inner, outer, out),
                                    view_from(row_index),
                                    view_from(row_weight),
                                    view_from(column_index),
                                    view_from(column_weight),
                                    quantize};
  const SeamParams seam = {view_from(decay)};
  const pybind11::gil_scoped_release release;
  check_launch("bridged_composite_lr",
               launch_bridged_composite_lr(params, seam, stream_from(stream)));
}

}  // namespace

void register_seam(pybind11::module_& m) {
  using pybind11::arg;
  m.def("bridged_composite", bridged_composite, arg("a"), arg("b"), arg("pairs"), arg("inner"),
        arg("outer"), arg("decay"), arg("out"), arg("stream"));
  m.def("bridged_composite_lr", bridged_composite_lr, arg("a"), arg("b"), arg("pairs"),
        arg("inner"), arg("outer"), arg("decay"), arg("row_index"), arg("row_weight"),
        arg("column_index"), arg("column_weight"), arg("quantize"), arg("out"), arg("stream"));
}

}  // namespace fastbg
