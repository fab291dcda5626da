// Calls of the path family.
#include "calls.h"

namespace fuzzing {
namespace {

struct Blur {
  std::int64_t nodes, taps;
  Sizes image;  // (B,C,H,W)
  DType dtype;
};

Blur draw_blur(Input& input, Call& call) {
  const std::int64_t taps = input.one_of({1, 3, 5, 9, 13, 21, 2});
  const std::int64_t batch = input.number(0, 2), channels = input.number(0, 2), nodes = input.number(0, 4);
  const auto [height, width] = input.image_size(kMost / 8);
  call.valid = taps % 2 == 1 && taps / 2 < std::min(height, width);
  return {nodes, taps, {batch, channels, height, width}, input.float_type()};
}

Sizes with_nodes(const Blur& blur) {
  return {blur.image[0], blur.nodes, blur.image[1], blur.image[2], blur.image[3]};
}

}  // namespace

Call blur_path_call(Input& input) {
  Call call("blur_path");
  const Blur blur = draw_blur(input, call);
  call.arguments = {call.keep(input.strided(blur.dtype, blur.image)),
                    call.keep(input.filled(contiguous(DType::float32, {blur.nodes, blur.taps}))),
                    call.result(contiguous(blur.dtype, with_nodes(blur)))};
  return call;
}

Call path_integral_call(Input& input) {
  Call call("path_integral");
  const Blur blur = draw_blur(input, call);
  call.arguments = {call.keep(input.strided(blur.dtype, with_nodes(blur))),
                    call.keep(input.strided(blur.dtype, blur.image)),
                    call.keep(input.filled(contiguous(DType::float32, {blur.nodes, blur.taps}))),
                    call.keep(input.filled(contiguous(DType::float32, {blur.nodes, blur.taps}))),
                    call.result(contiguous(blur.dtype, blur.image))};
  return call;
}

namespace {

Sizes draw_sr(Input& input) {
  const std::int64_t batch = input.number(0, 3), channels = input.one_of({0, 1, 3});
  const auto [height, width] = input.image_size(kMost / 4);
  return {batch, channels, height, width};
}

}  // namespace

Call gradient_detector_call(Input& input) {
  Call call("gradient_detector");
  const Sizes sr = draw_sr(input);
  call.arguments = {call.keep(input.strided(input.float_type(), sr)),
                    call.keep(input.boxes(sr[0], sr[2], sr[3])),
                    call.result(contiguous(DType::float32, {sr[0]}))};
  return call;
}

Call gradient_detector_backward_call(Input& input) {
  Call call("gradient_detector_backward");
  const Sizes sr = draw_sr(input);
  const DType dtype = input.float_type();
  call.arguments = {call.keep(input.strided(DType::float32, {sr[0]})),
                    call.keep(input.strided(dtype, sr)),
                    call.keep(input.boxes(sr[0], sr[2], sr[3])),
                    call.result(contiguous(dtype, sr))};
  return call;
}

}  // namespace fuzzing
