#include "bindings.h"
#include "composite.h"
#include "register.h"

namespace fastbg {
namespace {

using pybind11::tuple;

CompositeParams composite_params(const tuple& a, const tuple& b, const tuple& pairs,
                                 const tuple& inner, const tuple& outer, const tuple& out) {
  return {view_from(a),     view_from(b),     view_from(pairs),
          view_from(inner), view_from(outer), view_from(out)};
}

void composite(const tuple& a, const tuple& b, const tuple& pairs, const tuple& inner,
               const tuple& outer, const tuple& out, std::uintptr_t stream) {
  const CompositeParams params = composite_params(a, b, pairs, inner, outer, out);
  const pybind11::gil_scoped_release release;
  check_launch("composite", launch_composite(params, stream_from(stream)));
}

void composite_lr(const tuple& a, const tuple& b, const tuple& pairs, const tuple& inner,
                  const tuple& outer, const tuple& row_index, const tuple& row_weight,
                  const tuple& column_index, const tuple& column_weight, bool quantize,
                  const tuple& column_band, const tuple& rows, const tuple& small,
                  const tuple& out, std::uintptr_t stream) {
  const CompositeLrParams params = {composite_params(a, b, pairs, inner, outer, out),
                                    view_from(row_index),
                                    view_from(row_weight),
                                    view_from(column_index),
                                    view_from(column_weight),
                                    quantize};
  const CompositeLrScratch scratch = {view_from(rows), view_from(small)};
  const TensorView band = view_from(column_band);
  const pybind11::gil_scoped_release release;
  check_launch("composite_lr", launch_composite_lr(params, scratch, band, stream_from(stream)));
}

void mosaic(const tuple& tiles, const tuple& cells, const tuple& out, std::uintptr_t stream) {
  const MosaicParams params = {view_from(tiles), view_from(cells), view_from(out)};
  const pybind11::gil_scoped_release release;
  check_launch("mosaic", launch_mosaic(params, stream_from(stream)));
}

std::string why_not() {
  const cudaError_t error = can_launch();
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

}  // namespace

void register_composite(pybind11::module_& m) {
  using pybind11::arg;
  m.def("composite", composite, arg("a"), arg("b"), arg("pairs"), arg("inner"), arg("outer"),
        arg("out"), arg("stream"));
  m.def("composite_lr", composite_lr, arg("a"), arg("b"), arg("pairs"), arg("inner"), arg("outer"),
        arg("row_index"), arg("row_weight"), arg("column_index"), arg("column_weight"),
        arg("quantize"), arg("column_band"), arg("rows"), arg("small"), arg("out"), arg("stream"));
  m.def("mosaic", mosaic, arg("tiles"), arg("cells"), arg("out"), arg("stream"));
  m.def("why_not", why_not);
}

}  // namespace fastbg
