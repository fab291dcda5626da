#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "bindings.h"
#include "conv_stack_bindings.h"
#include "each_image.h"
#include "register.h"

namespace fastbg {
namespace {

namespace py = pybind11;

template <class T>
T* pointer(const py::handle& address) {
  return reinterpret_cast<T*>(address.cast<std::uintptr_t>());
}

StackBox box_from(const py::tuple& box) {
  return {box[0].cast<std::int64_t>(), box[1].cast<std::int64_t>(), box[2].cast<std::int64_t>(),
          box[3].cast<std::int64_t>()};
}

// (squeezed, taps, squeeze, its bias, excite, its bias).
ChannelAttention attention_from(const py::tuple& described) {
  return {described[0].cast<std::int64_t>(),     pointer<const float>(described[1]),
          pointer<const float>(described[2]), pointer<const float>(described[3]),
          pointer<const float>(described[4]), pointer<const float>(described[5])};
}

// (box, relu, upscale, residual, scale, channels, factors, bias, attention or None): see described() in
// fastbg/backends/cpu/conv_stack.py.
StackLayer layer_from(const py::tuple& described) {
  const bool attends = !described[8].is_none();
  return {box_from(described[0].cast<py::tuple>()),
          described[1].cast<bool>(),
          described[2].cast<std::int64_t>(),
          described[3].cast<std::int64_t>(),
          described[4].cast<float>(),
          described[5].cast<std::int64_t>(),
          pointer<const float>(described[6]),
          pointer<const float>(described[7]),
          attends,
          attends ? attention_from(described[8].cast<py::tuple>()) : ChannelAttention{}};
}

// (box, upscale, channels, factors, kernels by zone, biases): see described() in fastbg/backends/cpu/conv_tail.py.
StackTail tail_from(const py::tuple& described) {
  StackTail tail{box_from(described[0].cast<py::tuple>()), described[1].cast<std::int64_t>(),
                 described[2].cast<std::int64_t>(), pointer<const float>(described[3]), {},
                 pointer<const float>(described[5])};
  const auto kernels = described[4].cast<py::tuple>();
  if (kernels.size() != kStackZones) throw std::invalid_argument("a tail takes a kernel for each zone");
  for (std::size_t zone = 0; zone < kernels.size(); ++zone) tail.kernels[zone] = pointer<const float>(kernels[zone]);
  return tail;
}

StackPlan plan_from(const TensorView& input, const py::tuple& described, const py::object& tail) {
  return {input, stack_layers_from(described), stack_tail_from(tail)};
}

void check_result(const StackPlan& plan, std::int64_t images, const TensorView& result) {
  const StackBox box = plan.result_box();
  if (result.rank != 4 || result.dtype != DType::float32 || result.sizes[0] != images ||
      result.sizes[1] != plan.result_channels() || result.sizes[2] != box.y1 - box.y0 ||
      result.sizes[3] != box.x1 - box.x0) {
    throw std::invalid_argument("a result that is not shaped as the last layer's box, or not float32");
  }
}

// Of all images; `plan` is for one.
std::uint8_t* kept_from(const StackPlan& plan, std::int64_t images, const py::object& described) {
  const TensorView kept = view_from(described.cast<py::tuple>());
  if (kept.dtype != DType::uint8 || kept.rank != 1 || kept.sizes[0] != images * plan.kept_bytes()) {
    throw std::invalid_argument("what was kept is of another stack");
  }
  return static_cast<std::uint8_t*>(kept.data);
}

}  // namespace

// `kept` is what a forward pass stores for the gradient, image by image, see kept_bytes() in
// fastbg/backends/stack_layers.py; None for conv_stack without a gradient. `to_x` is written where the first layer
// reads x. With a gradient, and where each thread takes whole images, a plan is for one image. Otherwise it is for
// all of them, which read the weights together.
void register_conv_stack(py::module_& m) {
  m.def("conv_stack", [](const py::tuple& x, const py::tuple& layers, const py::object& tail,
                         const py::object& kept_view, const py::tuple& out, int threads) {
    const TensorView input = view_from(x), result = view_from(out);
    const std::int64_t images = input.sizes[0];
    const bool together = kept_view.is_none() && !one_thread_each(images, threads);
    const StackPlan plan = plan_from(together ? input : image_of(input, 0), layers, tail);
    check_result(plan, images, result);
    std::uint8_t* kept = kept_view.is_none() ? nullptr : kept_from(plan, images, kept_view);
    const py::gil_scoped_release released;
    if (together) return plan.forward(input, nullptr, result, threads);
    for_each_image(images, threads, [&](std::int64_t b, int of_image) {
      plan.forward(image_of(input, b), kept ? kept + b * plan.kept_bytes() : nullptr, image_of(result, b), of_image);
    });
  });
  m.def("conv_stack_gradient", [](const py::tuple& grad, const py::tuple& layers, const py::object& tail,
                                  const py::object& kept_view, const py::tuple& to_x, int threads) {
    const TensorView through = view_from(grad), input = view_from(to_x);
    const std::int64_t images = input.sizes[0];
    const StackPlan plan = plan_from(image_of(input, 0), layers, tail);
    check_result(plan, images, through);
    std::uint8_t* kept = kept_from(plan, images, kept_view);
    const py::gil_scoped_release released;
    for_each_image(images, threads, [&](std::int64_t b, int of_image) {
      plan.backward(image_of(through, b), kept + b * plan.kept_bytes(), image_of(input, b), of_image);
    });
  });
}

std::optional<StackTail> stack_tail_from(const py::object& described) {
  if (described.is_none()) return std::nullopt;
  return tail_from(described.cast<py::tuple>());
}

std::vector<StackLayer> stack_layers_from(const py::tuple& described) {
  std::vector<StackLayer> layers;
  for (const py::handle layer : described) layers.push_back(layer_from(layer.cast<py::tuple>()));
  return layers;
}

}  // namespace fastbg
