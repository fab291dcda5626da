// Calls of stacks of convolutions.
#include "calls.h"
#include "conv_stack_plan.h"

namespace fuzzing {
namespace {

using fastbg::kStackZones;

std::int64_t in_lanes(std::int64_t channels) { return (channels + 15) / 16 * 16; }

std::uintptr_t address(Call& call, Input& input, std::int64_t floats) {
  call.inputs.push_back(input.filled(contiguous(DType::float32, {floats})));
  return reinterpret_cast<std::uintptr_t>(call.inputs.back().data());
}

pybind11::object items(std::vector<pybind11::object> all) { return all; }

pybind11::object whole(std::int64_t height, std::int64_t width) {
  return items({std::int64_t{0}, std::int64_t{0}, height, width});
}

// What the drawn layers make, and how many bytes they keep for the gradient.
struct Drawn {
  std::int64_t batch, channels, height, width;
  std::int64_t kept = 0;
};

std::int64_t cells(const Drawn& map) {
  return map.batch * ((map.height + 3) / 4) * ((map.width + 3) / 4);
}

pybind11::object draw_attention(Input& input, Call& call, std::int64_t inputs, Drawn& made) {
  const std::int64_t squeezed = input.number(1, 17), channels = made.channels;
  made.kept += 4 * (cells(made) * 16 * in_lanes(channels) + made.batch * (in_lanes(channels) + in_lanes(squeezed)));
  return items({squeezed, address(call, input, 9 * inputs * channels), address(call, input, squeezed * channels),
                address(call, input, squeezed), address(call, input, channels * squeezed),
                address(call, input, channels)});
}

// Layers on whole maps; of `transposed` ones the factors are as many. None beyond kMost values.
pybind11::object draw_layers(Input& input, Call& call, Drawn& map, std::int64_t least) {
  std::vector<pybind11::object> layers;
  std::vector<Drawn> maps{map};
  const std::int64_t count = input.number(least, 4);
  for (std::int64_t i = 0; i < count; ++i) {
    const Drawn& from = maps.back();
    const bool adds = input.coin();
    const std::int64_t upscale = !adds && maps.front().height == from.height ? input.number(1, 3) : 1;
    std::int64_t residual = -1;
    if (adds) {
      residual = static_cast<std::int64_t>(maps.size()) - 1;
      while (residual > 0 && input.coin() && maps[residual - 1].height == from.height) --residual;
    }
    Drawn made{from.batch, adds ? maps[residual].channels : input.one_of({1, 3, 16, 20, 65}), from.height * upscale,
               from.width * upscale, from.kept};
    const bool relu = !adds && input.coin();
    if (relu) {
      const Drawn grid{from.batch, 1, from.height, from.width};
      made.kept += cells(grid) * 16 * upscale * upscale * in_lanes(made.channels) / 4;
    }
    const std::int64_t outputs = made.channels * upscale * upscale;
    const auto factors = address(call, input, 36 * in_lanes(from.channels) * in_lanes(made.channels) * upscale * upscale);
    const auto bias = address(call, input, outputs);
    const bool attends = adds && input.coin();
    layers.push_back(items({whole(from.height, from.width), std::int64_t{relu}, upscale, residual, 0.5, made.channels,
                            factors, bias,
                            attends ? draw_attention(input, call, from.channels, made) : pybind11::object()}));
    maps.push_back(made);
  }
  map = maps.back();
  return items(layers);
}

// A tail of RGB or grey images, or None.
pybind11::object draw_tail(Input& input, Call& call, Drawn& map, bool needed) {
  if (!needed && input.coin()) return {};
  const std::int64_t upscale = input.number(1, 4), channels = input.one_of({1, 3});
  const std::int64_t in = in_lanes(map.channels), out = in_lanes(channels * upscale * upscale);
  std::vector<pybind11::object> kernels;
  for (std::int64_t zone = 0; zone < kStackZones; ++zone) kernels.emplace_back(address(call, input, 25 * in * out));
  const auto factors = address(call, input, 36 * 4 * in * out), biases = address(call, input, kStackZones * out);
  map = {map.batch, channels, map.height * upscale, map.width * upscale, map.kept};
  return items({whole(map.height, map.width), upscale, channels, factors, items(kernels), biases});
}

Drawn draw_input(Input& input) {
  const std::int64_t channels = input.one_of({1, 3, 16, 20, 64, 65});
  const auto [height, width] = input.image_size(400);
  return {input.number(1, 2), channels, std::max<std::int64_t>(height, 1), std::max<std::int64_t>(width, 1)};
}

}  // namespace

Call conv_stack_call(Input& input) {
  Call call("conv_stack");
  Drawn map = draw_input(input);
  call.arguments.push_back(
      call.keep(input.strided(DType::float32, {map.batch, map.channels, map.height, map.width})));
  const std::int64_t least = input.number(0, 1);
  call.arguments.push_back(draw_layers(input, call, map, least));
  call.arguments.push_back(draw_tail(input, call, map, call.arguments[1].size() == 0));
  if (input.coin()) {
    call.zeros.push_back(contiguous(DType::uint8, {map.kept}));
    call.arguments.push_back(call.zeros.back().view());
  } else {
    call.arguments.emplace_back();
  }
  call.arguments.push_back(
      call.result(contiguous(DType::float32, {map.batch, map.channels, map.height, map.width})));
  return call;
}

Call conv_stack_gradient_call(Input& input) {
  Call call("conv_stack_gradient");
  const Drawn from = draw_input(input);
  Drawn map = from;
  const pybind11::object layers = draw_layers(input, call, map, input.number(0, 1));
  const pybind11::object tail = draw_tail(input, call, map, layers.size() == 0);
  call.arguments = {
      call.keep(input.strided(DType::float32, {map.batch, map.channels, map.height, map.width})), layers, tail,
      call.keep(input.filled(contiguous(DType::uint8, {map.kept}))),
      call.result(contiguous(DType::float32, {from.batch, from.channels, from.height, from.width}))};
  return call;
}

}  // namespace fuzzing
