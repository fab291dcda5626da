// Calls of the Gram family.
#include "calls.h"

namespace fuzzing {
namespace {

// Up to several chunks of pixels.
std::pair<std::int64_t, std::int64_t> draw_size(Input& input, std::int64_t channels) {
  return input.image_size(kMost / std::max<std::int64_t>(channels, 1));
}

// Adds a mask (B,M,H,W), or None; returns M.
std::int64_t add_mask(Input& input, Call& call, std::int64_t batch, std::int64_t height,
                      std::int64_t width) {
  if (input.coin()) {
    call.arguments.emplace_back();
    return 1;
  }
  const std::int64_t regions = input.number(0, 3);
  Tensor mask = input.strided(DType::float32, {batch, regions, height, width});
  if (input.coin()) {  // regions in the narrow sense
    auto* weights = reinterpret_cast<float*>(mask.memory.get());
    for (std::int64_t i = 0; i < mask.span; ++i) weights[i] = weights[i] > 0 ? 1.0f : 0.0f;
  }
  call.arguments.push_back(call.keep(std::move(mask)));
  return regions;
}

}  // namespace

Call gram_call(Input& input) {
  Call call("gram");
  const std::int64_t batch = input.number(0, 2);
  const std::int64_t channels = input.one_of({0, 1, 2, 3, 7, 15, 16, 17, 63, 64, 65, 129, 200});
  const auto [height, width] = draw_size(input, channels);
  const DType dtype = input.float_type();
  call.arguments.push_back(call.keep(input.strided(dtype, {batch, channels, height, width})));
  const std::int64_t regions = add_mask(input, call, batch, height, width);
  call.arguments.push_back(call.result(contiguous(dtype, {batch, regions, channels, channels})));
  return call;
}

Call conv_gram_call(Input& input) {
  Call call("conv_gram");
  const std::int64_t batch = input.number(0, 2);
  const auto [height, width] = draw_size(input, 3);
  const DType dtype = input.float_type();
  // fastbg.ops refuses images of no pixels by their shape, which a graph knows.
  const Sizes images{batch, 3, std::max<std::int64_t>(height, 1), std::max<std::int64_t>(width, 1)};
  call.arguments.push_back(call.keep(input.strided(dtype, images)));
  call.arguments.push_back(call.keep(input.filled(contiguous(DType::float32, {27, 64}))));
  call.arguments.push_back(call.keep(input.filled(contiguous(DType::float32, {64}))));
  const std::int64_t regions = add_mask(input, call, batch, images[2], images[3]);
  call.arguments.push_back(call.result(contiguous(dtype, {batch, regions, 64, 64})));
  return call;
}

}  // namespace fuzzing
