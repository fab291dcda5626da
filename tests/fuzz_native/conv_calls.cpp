// Calls of the convolution: channels come in multiples of 16 but for results and residuals.
#include "calls.h"
#include "cpu/conv.h"

namespace fuzzing {
namespace {

using fastbg::kConvLanes;
using fastbg::kWeightParts;

// What fastbg/backends/cpu/conv.py lets through as it is: channels are neighbours, and other axes
// have any strides.
Tensor feature_maps(Input& input, const Sizes& sizes) {
  Sizes strides = channels_last(sizes).strides;
  const std::int64_t apart = input.coin() ? input.number(0, 20) : 0;  // a slice of more channels
  for (const std::size_t axis : {0, 2, 3}) strides[axis] += strides[axis] / sizes[1] * apart;
  if (input.coin()) std::swap(strides[2], strides[3]);  // a transposed image
  if (input.number(0, 3) == 0) strides[static_cast<std::size_t>(input.one_of({0, 2, 3}))] = 0;
  return input.filled(Tensor(DType::float32, sizes, strides, input.number(0, 3)));
}

Tensor floats(Input& input, const Sizes& sizes) {
  return input.filled(contiguous(DType::float32, sizes));
}

// Adds maps, or None.
void add_optional(Input& input, Call& call, const Sizes& sizes) {
  if (input.coin()) {
    call.arguments.push_back(call.keep(feature_maps(input, sizes)));
  } else {
    call.arguments.emplace_back();
  }
}

std::int64_t whole_vectors(std::int64_t channels) {
  return (channels + kConvLanes - 1) / kConvLanes * kConvLanes;
}

// Of at least one pixel: fastbg.ops refuses others by their shape, which a graph knows.
std::pair<std::int64_t, std::int64_t> draw_size(Input& input, std::int64_t channels) {
  const auto [height, width] = input.image_size(kMost / channels);
  return {std::max<std::int64_t>(height, 1), std::max<std::int64_t>(width, 1)};
}

}  // namespace

Call conv3x3_call(Input& input) {
  Call call("conv3x3");
  const std::int64_t batch = input.number(0, 2);
  // Only one side is shuffled: the result going forward, the gradient going backward.
  const std::int64_t scale = input.number(1, 3);
  const bool backward = input.coin();
  const std::int64_t of_x = backward ? scale : 1, of_out = backward ? 1 : scale;
  const std::int64_t in = kConvLanes * input.one_of({1, 2, 4, 5});
  const std::int64_t group = input.one_of({1, 3, 15, 16, 17, 64, 65});
  const std::int64_t out_channels = whole_vectors(group) * of_out * of_out;
  const auto [height, width] = draw_size(input, (in + group) * scale * scale);
  const Sizes x{batch, in, height * of_x, width * of_x};
  const Sizes out{batch, group, height * of_out, width * of_out};
  call.arguments.push_back(call.keep(feature_maps(input, x)));
  add_optional(input, call, x);  // the gate
  call.arguments.push_back(of_x);
  call.arguments.push_back(
      call.keep(floats(input, {fastbg::kTerms2d * in * of_x * of_x * out_channels})));
  call.arguments.push_back(input.coin() ? call.keep(floats(input, {out_channels})) : pybind11::object());
  add_optional(input, call, out);  // the residual
  call.arguments.push_back(input.coin() ? 1.0f : 0.1f);
  call.arguments.push_back(input.coin());  // ReLU
  call.arguments.push_back(call.result(channels_last(out)));
  call.arguments.push_back(of_out);
  const std::int64_t bytes = 4 * input.number(0, 5000);
  const std::int64_t pieces = (bytes + fastbg::kFingerprintPiece - 1) / fastbg::kFingerprintPiece;
  call.arguments.push_back(call.keep(floats(input, {bytes / 4}))[0]);
  call.arguments.push_back(bytes);
  call.arguments.push_back(
      call.keep(floats(input, {pieces * static_cast<std::int64_t>(sizeof(fastbg::FingerprintState)) / 4}))[0]);
  return call;
}

Call conv_weight_gradient_call(Input& input) {
  Call call("conv_weight_gradient");
  const std::int64_t batch = input.number(0, 2), scale = input.number(1, 3);
  const std::int64_t in = kConvLanes * input.one_of({1, 2, 4, 5});
  const std::int64_t group = kConvLanes * input.one_of({1, 2, 4, 5});
  const std::int64_t out = group * scale * scale;
  const auto [height, width] = draw_size(input, in + out);
  const Sizes grad{batch, group, height * scale, width * scale};
  call.arguments.push_back(call.keep(feature_maps(input, {batch, in, height, width})));
  call.arguments.push_back(call.keep(feature_maps(input, grad)));
  add_optional(input, call, grad);  // the gate
  call.arguments.push_back(scale);
  call.zeros.push_back(contiguous(DType::float32, {kWeightParts, fastbg::kTerms2d * in * out + out}));
  call.arguments.push_back(call.zeros.back().view());
  call.arguments.push_back(call.result(contiguous(DType::float32, {in, 3, 3, out})));
  call.arguments.push_back(call.result(contiguous(DType::float32, {out})));
  return call;
}

Call conv_factors_call(Input& input) {
  Call call("conv_factors");
  const std::int64_t in = kConvLanes * input.number(1, 5), group = kConvLanes * input.number(1, 6);
  const std::int64_t out = group * input.one_of({1, 4, 9});
  call.arguments = {call.keep(floats(input, {in, 3, 3, out})), group,
                    call.result(contiguous(DType::float32, {fastbg::kTerms2d * in * out}))};
  return call;
}

}  // namespace fuzzing
