#include <pybind11/pybind11.h>

#include <algorithm>

#include "bindings.h"
#include "composite_plan.h"
#include "fresh_memory.h"
#include "register.h"

namespace fastbg {
namespace {

namespace py = pybind11;

// Starting threads takes longer than small work: one thread per 128 KiB of pixels touched.
int useful_threads(int threads, const TensorView& out, std::int64_t pixels_per_output) {
  std::int64_t bytes = 4 * pixels_per_output;
  for (std::int32_t k = 0; k < out.rank; ++k) bytes *= out.sizes[k];
  return static_cast<int>(std::clamp<std::int64_t>(bytes >> 17, 1, std::max(threads, 1)));
}

void run_composite(const CompositeParams& params, int threads) {
  threads = useful_threads(threads, params.out, 1);
  const CompositePlan plan(params, threads);
  expect_whole_pages(params.out);
  FASTBG_CALL_VARIANT(composite, plan.job, threads);
}

void run_composite_lr(const CompositeLrParams& params, int threads) {
  const std::int64_t scale = params.composite.a.sizes[3] / params.composite.out.sizes[3];
  threads = useful_threads(threads, params.composite.out, scale * scale);
  const CompositeLrPlan plan(params, threads);
  expect_whole_pages(params.composite.out);
  FASTBG_CALL_VARIANT(composite_lr, plan.job, threads);
}

// A bridge takes about ten operations per pixel, so more threads pay off than for copying.
constexpr std::int64_t kBridgeWork = 4;

void run_bridged_composite(const CompositeParams& params, const SeamParams& seam, int threads) {
  threads = useful_threads(threads, params.out, kBridgeWork);
  const BridgedCompositePlan plan(params, seam, threads);
  expect_whole_pages(params.out);
  FASTBG_CALL_VARIANT(bridged_composite, plan.job, threads);
}

void run_bridged_composite_lr(const CompositeLrParams& params, const SeamParams& seam,
                              int threads) {
  const std::int64_t scale = params.composite.a.sizes[3] / params.composite.out.sizes[3];
  threads = useful_threads(threads, params.composite.out, kBridgeWork * scale * scale);
  const BridgedCompositeLrPlan plan(params, seam, threads);
  expect_whole_pages(params.composite.out);
  FASTBG_CALL_VARIANT(bridged_composite_lr, plan.job, threads);
}

void run_mosaic(const MosaicParams& params, int threads) {
  check_cells(params);
  threads = useful_threads(threads, params.out, 1);
  expect_whole_pages(params.out);
  FASTBG_CALL_VARIANT(mosaic, params, threads);
}

}  // namespace

// Inputs first, then `out` (contiguous but for its first stride), then the number of threads.
void register_composite(py::module_& m) {
  m.def("composite", [](const py::tuple& a, const py::tuple& b, const py::tuple& pairs,
                        const py::tuple& inner, const py::tuple& outer, const py::tuple& out,
                        int threads) {
    const CompositeParams params{view_from(a),     view_from(b),     view_from(pairs),
                                 view_from(inner), view_from(outer), view_from(out)};
    const py::gil_scoped_release released;
    if (!has_no_elements(params.out)) run_composite(params, threads);
  });
  m.def("composite_lr",
        [](const py::tuple& a, const py::tuple& b, const py::tuple& pairs, const py::tuple& inner,
           const py::tuple& outer, const py::tuple& row_index, const py::tuple& row_weight,
           const py::tuple& column_index, const py::tuple& column_weight, bool quantize,
           const py::tuple& out, int threads) {
          const CompositeLrParams params{
              {view_from(a), view_from(b), view_from(pairs), view_from(inner), view_from(outer),
               view_from(out)},
              view_from(row_index),
              view_from(row_weight),
              view_from(column_index),
              view_from(column_weight),
              quantize};
          const py::gil_scoped_release released;
          if (!has_no_elements(params.composite.out)) run_composite_lr(params, threads);
        });
  m.def("bridged_composite",
        [](const py::tuple& a, const py::tuple& b, const py::tuple& pairs, const py::tuple& inner,
           const py::tuple& outer, const py::tuple& decay, const py::tuple& out, int threads) {
          const CompositeParams params{view_from(a),     view_from(b),     view_from(pairs),
                                       view_from(inner), view_from(outer), view_from(out)};
          const SeamParams seam{view_from(decay)};
          const py::gil_scoped_release released;
          if (!has_no_elements(params.out)) run_bridged_composite(params, seam, threads);
        });
  m.def("bridged_composite_lr",
        [](const py::tuple& a, const py::tuple& b, const py::tuple& pairs, const py::tuple& inner,
           const py::tuple& outer, const py::tuple& decay, const py::tuple& row_index,
           const py::tuple& row_weight, const py::tuple& column_index,
           const py::tuple& column_weight, bool quantize, const py::tuple& out, int threads) {
          const CompositeLrParams params{
              {view_from(a), view_from(b), view_from(pairs), view_from(inner), view_from(outer),
               view_from(out)},
              view_from(row_index),
              view_from(row_weight),
              view_from(column_index),
              view_from(column_weight),
              quantize};
          const SeamParams seam{view_from(decay)};
          const py::gil_scoped_release released;
          if (!has_no_elements(params.composite.out)) run_bridged_composite_lr(params, seam, threads);
        });
  m.def("mosaic", [](const py::tuple& tiles, const py::tuple& cells, const py::tuple& out,
                     int threads) {
    const MosaicParams params{view_from(tiles), view_from(cells), view_from(out)};
    const py::gil_scoped_release released;
    if (!has_no_elements(params.out)) run_mosaic(params, threads);
  });
}

}  // namespace fastbg
