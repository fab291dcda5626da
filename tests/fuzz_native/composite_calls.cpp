// Calls of the composite family.
#include "calls.h"

namespace fuzzing {
namespace {

// Mostly none to three, some as many as write past the caches.
std::int64_t count(Input& input, std::int64_t each) {
  constexpr std::int64_t kMostBytes = 5 << 20;
  if (input.number(0, 31) != 0) return input.number(0, 3);
  return std::min<std::int64_t>(input.number(0, 500), kMostBytes / 4 / std::max<std::int64_t>(each, 1));
}

// Contiguous but for its first stride.
Tensor images_apart(Input& input, DType dtype, const Sizes& sizes) {
  Tensor made = contiguous(dtype, sizes);
  Sizes strides = made.strides;
  if (input.coin()) strides[0] += input.number(0, 9);
  return {dtype, sizes, strides};
}

// a, b, pairs, inner, outer; and the sizes of the composites.
std::pair<Sizes, DType> draw_composites(Input& input, Call& call, std::int64_t scale) {
  const std::int64_t channels = input.one_of({1, 3, 4});
  const auto [height, width] = input.image_size(kMost / channels, scale);
  const std::int64_t pairs = count(input, channels * height * width);
  const auto dtype = static_cast<DType>(input.number(0, 3));
  const std::int64_t of_a = input.number(1, 3), of_b = input.number(1, 3);
  call.arguments.push_back(call.keep(input.strided(dtype, {of_a, channels, height, width})));
  call.arguments.push_back(call.keep(input.strided(dtype, {of_b, channels, height, width})));
  Tensor indices = input.strided(DType::int32, {pairs, 2});
  const std::int64_t excess = input.number(0, 7) == 0 ? 1 : 0;
  input.set(indices, [&](std::int64_t) { return input.number(-excess, std::min(of_a, of_b) - 1 + excess); });
  for (std::int64_t n = 0; n < pairs; ++n) {
    for (std::int64_t side = 0; side < 2; ++side) {
      const std::int32_t index =
          indices.as<std::int32_t>()[n * indices.strides[0] + side * indices.strides[1]];
      call.valid &= index >= 0 && index < (side == 0 ? of_a : of_b);
    }
  }
  call.arguments.push_back(call.keep(std::move(indices)));
  call.arguments.push_back(call.keep(input.boxes(pairs, height, width)));
  call.arguments.push_back(call.keep(input.boxes(pairs, height, width)));
  return {{pairs, channels, height, width}, dtype == DType::uint8 ? DType::float32 : dtype};
}

// Windows of `taps` inputs for each output: (size / scale, taps), and their weights. Any ascending
// windows inside the image are as good as those of the bicubic kernels.
void add_taps(Input& input, Call& call, std::int64_t size, std::int64_t scale) {
  const std::int64_t outputs = size / scale, taps = input.number(1, 4 * scale + 2);
  Tensor index = contiguous(DType::int32, {outputs, taps});
  const std::int64_t ragged = input.number(0, 3) == 0 ? input.number(1, 5) : 0;
  input.set(index, [&](std::int64_t i) {
    const std::int64_t middle = i / taps * scale + i % taps - taps / 2 + input.number(0, ragged);
    return std::clamp<std::int64_t>(middle, 0, size - 1);
  });
  if (input.number(0, 31) == 0 && index.span > 0) {
    index.as<std::int32_t>()[input.number(0, index.span - 1)] =
        static_cast<std::int32_t>(input.one_of({-1, size, INT32_MIN, INT32_MAX}));
  }
  std::int32_t low_before = 0;
  for (std::int64_t i = 0; i < outputs; ++i) {
    const std::int32_t* window = index.as<std::int32_t>() + i * taps;
    const auto [low, high] = std::minmax_element(window, window + taps);
    call.valid &= *low >= low_before && *high < size;
    low_before = std::max(*low, low_before);
  }
  call.arguments.push_back(call.keep(std::move(index)));
  call.arguments.push_back(call.keep(input.filled(contiguous(DType::float32, {outputs, taps}))));
}

// Weights of the distances 1, 2, .. from a rim, of images of these sides: falling, then none.
// Now and then one too few.
void add_decay(Input& input, Call& call, std::int64_t height, std::int64_t width) {
  const std::int64_t needed = std::max(height, width), short_of = input.number(0, 31) == 0;
  call.valid &= short_of == 0;
  Tensor decay = contiguous(DType::float32, {std::max<std::int64_t>(needed - short_of, 0)});
  const std::int64_t reach = input.number(0, needed);
  for (std::int64_t i = 0; i < decay.span; ++i) {
    decay.as<float>()[i] = i < reach ? 1.0f / static_cast<float>(1 + i) : 0.0f;
  }
  call.arguments.push_back(call.keep(std::move(decay)));
}

// The end of both down-sampling calls: taps, whether to quantize, the result.
void add_down_sampling(Input& input, Call& call, Sizes sizes, DType dtype, std::int64_t scale) {
  add_taps(input, call, sizes[2], scale);
  add_taps(input, call, sizes[3], scale);
  call.arguments.push_back(input.coin());
  for (const std::size_t axis : {2, 3}) sizes[axis] /= scale;
  call.arguments.push_back(call.result(images_apart(input, dtype, sizes)));
}

}  // namespace

Call composite_call(Input& input) {
  Call call("composite");
  const auto [sizes, dtype] = draw_composites(input, call, 1);
  call.arguments.push_back(call.result(images_apart(input, dtype, sizes)));
  return call;
}

Call composite_lr_call(Input& input) {
  Call call("composite_lr");
  const std::int64_t scale = input.one_of({1, 2, 3, 4, 8});
  const auto [sizes, dtype] = draw_composites(input, call, scale);
  add_down_sampling(input, call, sizes, dtype, scale);
  return call;
}

Call bridged_composite_call(Input& input) {
  Call call("bridged_composite");
  const auto [sizes, dtype] = draw_composites(input, call, 1);
  add_decay(input, call, sizes[2], sizes[3]);
  call.arguments.push_back(call.result(images_apart(input, dtype, sizes)));
  return call;
}

Call bridged_composite_lr_call(Input& input) {
  Call call("bridged_composite_lr");
  const std::int64_t scale = input.one_of({1, 2, 3, 4, 8});
  const auto [sizes, dtype] = draw_composites(input, call, scale);
  add_decay(input, call, sizes[2], sizes[3]);
  add_down_sampling(input, call, sizes, dtype, scale);
  return call;
}

Call mosaic_call(Input& input) {
  Call call("mosaic");
  const std::int64_t grid = input.number(0, 4), channels = input.one_of({0, 1, 3});
  auto [height, width] = input.image_size(kMost / std::max<std::int64_t>(grid * grid * channels, 1));
  if (input.coin()) width = height = std::min<std::int64_t>(height, 40);
  const std::int64_t tiles = input.number(0, 3);
  const DType dtype = input.float_type();
  const bool square = height == width;
  Tensor cells = input.strided(DType::int32, {tiles, grid, grid});
  const std::int64_t excess = input.number(0, 7) == 0 ? 1 : 0;
  input.set(cells, [&](std::int64_t) {
    const std::int64_t code = input.number(-excess, 7 + excess);
    const bool turned = code == 3 || code == 5;
    return turned && !square && excess == 0 ? 4 : code;
  });
  for (std::int64_t i = 0; i < tiles * grid * grid; ++i) {
    const std::int64_t at = i / (grid * grid) * cells.strides[0] +
                            i / grid % grid * cells.strides[1] + i % grid * cells.strides[2];
    const std::int32_t code = cells.as<std::int32_t>()[at];
    call.valid &= code >= 0 && code <= 7 && (square || (code != 3 && code != 5));
  }
  call.arguments = {call.keep(input.strided(dtype, {tiles, channels, height, width})),
                    call.keep(std::move(cells)),
                    call.result(images_apart(input, dtype, {tiles, channels, grid * height, grid * width}))};
  return call;
}

}  // namespace fuzzing
