#include <pybind11/pybind11.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "attention.h"
#include "bindings.h"
#include "each_image.h"
#include "register.h"

namespace fastbg {
namespace {

namespace py = pybind11;

float* floats_at(const py::tuple& addresses, std::size_t i) {
  return reinterpret_cast<float*>(addresses[i].cast<std::uintptr_t>());
}

// (attends, box, eps, addresses, hidden, heads, window, shift), see _described() in
// fastbg/backends/cpu/attention.py.
SwinStep step_from(const py::tuple& described) {
  const auto box = described[1].cast<py::tuple>();
  const auto weights = described[3].cast<py::tuple>();
  SwinStep step{};
  step.attends = described[0].cast<bool>();
  step.box = {box[0].cast<std::int64_t>(), box[1].cast<std::int64_t>(), box[2].cast<std::int64_t>(),
              box[3].cast<std::int64_t>()};
  step.eps = described[2].cast<float>();
  step.first = {floats_at(weights, 0), floats_at(weights, 1)};
  step.second = {floats_at(weights, 2), floats_at(weights, 3)};
  step.first_back = floats_at(weights, 4);
  step.second_back = floats_at(weights, 5);
  step.position = floats_at(weights, 6);
  step.hidden = described[4].cast<std::int64_t>();
  step.heads = described[5].cast<std::int64_t>();
  step.window = described[6].cast<std::int64_t>();
  step.shift = described[7].cast<std::int64_t>();
  return step;
}

bool lies_in(const CellBox& box, const CellBox& outer) {
  return outer.y0 <= box.y0 && box.y0 < box.y1 && box.y1 <= outer.y1 && outer.x0 <= box.x0 && box.x0 < box.x1 &&
         box.x1 <= outer.x1;
}

// The steps of a call, the map that they work on, and the cells before each of them and after the last.
struct Run {
  CellMap map;
  std::vector<SwinStep> steps;
  std::vector<float*> states;

  Run(const TensorView& x, const py::tuple& described, const py::tuple& addresses) {
    for (std::size_t i = 0; i < described.size(); ++i) steps.push_back(step_from(described[i].cast<py::tuple>()));
    for (std::size_t i = 0; i < addresses.size(); ++i) states.push_back(floats_at(addresses, i));
    if (steps.empty() || states.size() != steps.size() + 1) throw std::invalid_argument("steps, and one state more");
    const CellBox& box = steps[0].box;
    map = {x.sizes[0], box.y0, box.x0, box.y1 - box.y0, box.x1 - box.x0, x.sizes[1]};
    const CellBox* outer = &box;
    for (const SwinStep& step : steps) {
      if (!lies_in(step.box, *outer)) throw std::invalid_argument("a step's box leaves that of the step before");
      if (step.attends && (step.window < 1 || step.window > kMaxWindowCells || step.shift < 0 ||
                           step.shift >= step.window || step.heads < 1 || map.channels % step.heads)) {
        throw std::invalid_argument("windows, shift or heads that the kernel does not take");
      }
      outer = &step.box;
    }
    check(x, box);
  }

  // One image of a batch.
  Run of_image(std::int64_t b) const {
    Run one = *this;
    one.map.images = 1;
    for (float*& state : one.states) state += b * one.map.floats();
    return one;
  }

  // `pixels` are those of the box, in float32.
  void check(const TensorView& pixels, const CellBox& box) const {
    if (pixels.rank != 4 || pixels.dtype != DType::float32 || pixels.sizes[0] != map.images ||
        pixels.sizes[1] != map.channels || pixels.sizes[2] != (box.y1 - box.y0) * kCellSide ||
        pixels.sizes[3] != (box.x1 - box.x0) * kCellSide) {
      throw std::invalid_argument("a map that is not shaped as its box, or not float32");
    }
  }
};

void forward(const Run& run, const TensorView& x, const TensorView& out, int threads) {
  FASTBG_CALL_VARIANT(cells_from_pixels, (CellsJob{run.map, run.steps.front().box, x, run.states[0]}), threads);
  for (std::size_t i = 0; i < run.steps.size(); ++i) {
    const SwinJob job{run.map, run.steps[i], run.states[i], run.states[i + 1]};
    if (run.steps[i].attends) {
      FASTBG_CALL_VARIANT(window_attention, job, threads);
    } else {
      FASTBG_CALL_VARIANT(pixel_mlp, job, threads);
    }
  }
  FASTBG_CALL_VARIANT(pixels_from_cells, (CellsJob{run.map, run.steps.back().box, out, run.states.back()}), threads);
}

// The last state holds gradients; at first those to the result, zero for pixels that no step has computed.
void backward(const Run& run, const TensorView& x, const TensorView& grad, const TensorView& out, int threads) {
  float* gradient = run.states.back();
  std::memset(gradient, 0, static_cast<std::size_t>(run.map.floats()) * sizeof(float));
  FASTBG_CALL_VARIANT(cells_from_pixels, (CellsJob{run.map, run.steps.front().box, x, run.states[0]}), threads);
  FASTBG_CALL_VARIANT(cells_from_pixels, (CellsJob{run.map, run.steps.back().box, grad, gradient}), threads);
  for (std::size_t i = run.steps.size(); i-- > 0;) {
    const SwinJob job{run.map, run.steps[i], run.states[i], gradient};
    if (run.steps[i].attends) {
      FASTBG_CALL_VARIANT(window_attention_gradient, job, threads);
    } else {
      FASTBG_CALL_VARIANT(pixel_mlp_gradient, job, threads);
    }
  }
  FASTBG_CALL_VARIANT(pixels_from_cells, (CellsJob{run.map, run.steps.front().box, out, gradient}), threads);
}

}  // namespace

// `states` are the addresses of the cells before each step and after the last; in the forward pass they may
// all be the same. `out` is written whole.
void register_attention(py::module_& m) {
  m.def("swin_layers", [](const py::tuple& x, const py::tuple& steps, const py::tuple& states, const py::tuple& out,
                          int threads) {
    const TensorView from = view_from(x), to = view_from(out);
    const Run run(from, steps, states);
    run.check(to, run.steps.back().box);
    const py::gil_scoped_release released;
    if (!one_thread_each(run.map.images, threads)) return forward(run, from, to, threads);
    for_each_image(run.map.images, threads, [&](std::int64_t b, int of_image) {
      forward(run.of_image(b), image_of(from, b), image_of(to, b), of_image);
    });
  });
  m.def("swin_layers_gradient", [](const py::tuple& x, const py::tuple& grad, const py::tuple& steps,
                                   const py::tuple& states, const py::tuple& out, int threads) {
    const TensorView from = view_from(x), through = view_from(grad), to = view_from(out);
    const Run run(from, steps, states);
    run.check(through, run.steps.back().box);
    run.check(to, run.steps.front().box);
    const py::gil_scoped_release released;
    if (!one_thread_each(run.map.images, threads)) return backward(run, from, through, to, threads);
    for_each_image(run.map.images, threads, [&](std::int64_t b, int of_image) {
      backward(run.of_image(b), image_of(from, b), image_of(through, b), image_of(to, b), of_image);
    });
  });
  m.attr("attention_tile_rows") = kPackedRows;
  m.attr("attention_cell_side") = kCellSide;
  m.attr("attention_window_cells") = kMaxWindowCells;
}

}  // namespace fastbg
