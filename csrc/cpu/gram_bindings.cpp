#include <pybind11/pybind11.h>

#include "bindings.h"
#include "gram_plan.h"
#include "register.h"

namespace fastbg {
namespace {

namespace py = pybind11;

void run_gram(const GramParams& params, int threads) {
  const GramPlan plan(params, threads);
  FASTBG_CALL_VARIANT(gram, plan.job, threads);
}

void run_conv_gram(const ConvGramParams& params, int threads) {
  const ConvGramPlan plan(params, threads);
  FASTBG_CALL_VARIANT(conv_gram, plan.job, threads);
}

}  // namespace

// Inputs first (a mask may be None), then `out` (contiguous), then the number of threads.
void register_gram(py::module_& m) {
  m.def("gram", [](const py::tuple& features, const py::object& mask, const py::tuple& out,
                   int threads) {
    const GramParams params{view_from(features), optional_view(mask), view_from(out)};
    const py::gil_scoped_release released;
    if (!has_no_elements(params.out)) run_gram(params, threads);
  });
  m.def("conv_gram", [](const py::tuple& images, const py::tuple& weight, const py::tuple& bias,
                        const py::object& mask, const py::tuple& out, int threads) {
    const ConvGramParams params{view_from(images), view_from(weight), view_from(bias),
                                optional_view(mask), view_from(out)};
    const py::gil_scoped_release released;
    if (!has_no_elements(params.out)) run_conv_gram(params, threads);
  });
}

}  // namespace fastbg
