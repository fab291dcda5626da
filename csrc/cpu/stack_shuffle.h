// Pixels of a stack's grid: their zones, and their channels in a tensor that is shuffled to a finer one.
#pragma once

#include "conv_stack.h"

namespace fastbg::FASTBG_VARIANT {
namespace {

constexpr std::int64_t kInside = kStackZones - 1;  // the zone of a pixel with all its neighbours

[[maybe_unused]] inline bool lies_in(const StackBox& box, std::int64_t y, std::int64_t x) {
  return y >= box.y0 && y < box.y1 && x >= box.x0 && x < box.x1;
}

[[maybe_unused]] inline std::int64_t zone_of(std::int64_t height, std::int64_t width, std::int64_t y,
                                             std::int64_t x) {
  return (y > 0) + 2 * (y + 1 < height) + 4 * (x > 0) + 8 * (x + 1 < width);
}

// function(i, address) for channels channel + i of a pixel of the grid, as far as the tensor has them.
template <class Function>
void for_each_channel(const StackShuffled& to, std::int64_t image, std::int64_t y, std::int64_t x,
                      std::int64_t channel, std::int64_t count, Function function) {
  const std::int64_t r = to.upscale, *strides = to.view.strides;
  const std::int64_t top = r * y - to.box.y0, left = r * x - to.box.x0;
  const std::int64_t height = to.box.y1 - to.box.y0, width = to.box.x1 - to.box.x0;
  std::int64_t c = channel / (r * r), dy = channel / r % r, dx = channel % r;
  float* start = static_cast<float*>(to.view.data) + image * strides[0];
  for (std::int64_t i = 0; i < count && c < to.view.sizes[1]; ++i) {
    const std::int64_t row = top + dy, column = left + dx;
    if (row >= 0 && row < height && column >= 0 && column < width) {
      function(i, start + c * strides[1] + row * strides[2] + column * strides[3]);
    }
    if (++dx < r) continue;
    dx = 0;
    if (++dy < r) continue;
    dy = 0;
    ++c;
  }
}

[[maybe_unused]] inline void scatter(const StackShuffled& to, std::int64_t image, std::int64_t y, std::int64_t x,
                                     std::int64_t channel, std::int64_t count, const float* values) {
  for_each_channel(to, image, y, x, channel, count, [&](std::int64_t i, float* place) { *place = values[i]; });
}

// Channels that the tensor does not have are zero.
[[maybe_unused]] inline void gather(const StackShuffled& from, std::int64_t image, std::int64_t y, std::int64_t x,
                                    std::int64_t channel, std::int64_t count, float* values) {
  std::memset(values, 0, static_cast<std::size_t>(count) * sizeof(float));
  for_each_channel(from, image, y, x, channel, count, [&](std::int64_t i, float* place) { values[i] = *place; });
}

}  // namespace
}  // namespace fastbg::FASTBG_VARIANT
