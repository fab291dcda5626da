#include <pybind11/pybind11.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "conv_stack_bindings.h"
#include "conv_stack_change.h"
#include "register.h"

namespace fastbg {
namespace {

namespace py = pybind11;

constexpr const char* kName = "fastbg.ChangeableStack";

// (box, pixels, result).
StackChange change_from(const py::tuple& described) {
  const auto box = described[0].cast<py::tuple>();
  return {{box[0].cast<std::int64_t>(), box[1].cast<std::int64_t>(), box[2].cast<std::int64_t>(),
           box[3].cast<std::int64_t>()},
          view_from(described[1].cast<py::tuple>()),
          view_from(described[2].cast<py::tuple>())};
}

const ChangeableStack& stack_from(const py::capsule& stack) {
  if (!stack.name() || std::string(stack.name()) != kName) throw std::invalid_argument("no changeable stack");
  return *stack.get_pointer<ChangeableStack>();
}

}  // namespace

// The stack travels as a capsule. The caller keeps the memory alive that the layers point to.
void register_conv_stack_change(py::module_& m) {
  m.def("changeable_stack", [](const py::tuple& x, const py::tuple& layers, const py::object& tail, bool whole_cells,
                               const py::tuple& out, int threads) {
    const TensorView input = view_from(x), result = view_from(out);
    std::vector<StackLayer> parsed = stack_layers_from(layers);
    const std::optional<StackTail> behind = stack_tail_from(tail);
    std::unique_ptr<ChangeableStack> stack;
    {
      const py::gil_scoped_release released;
      stack = std::make_unique<ChangeableStack>(input, std::move(parsed), behind, whole_cells, result, threads);
    }
    return py::capsule(stack.release(), kName, [](void* data) { delete static_cast<ChangeableStack*>(data); });
  });
  m.def("changeable_stack_run", [](const py::capsule& stack, const py::tuple& changes, float negligible, int threads) {
    const ChangeableStack& self = stack_from(stack);
    std::vector<StackChange> parsed;
    for (const py::handle change : changes) parsed.push_back(change_from(change.cast<py::tuple>()));
    const py::gil_scoped_release released;
    self.run(parsed, negligible, threads);
  });
  m.def("changeable_stack_bytes", [](const py::capsule& stack) { return stack_from(stack).bytes(); });
}

}  // namespace fastbg
