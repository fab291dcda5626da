#include "conv_stack_plan.h"

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <utility>

#include "divide.h"
#include "stack_memory.h"
#include "stack_region.h"

namespace fastbg {
namespace {

std::int64_t floats_of(std::int64_t images, const StackMap& map) { return images * map.pixels_of_image() * map.channels; }

// Floats of an image's weights and hidden layer.
std::int64_t kept_of_image(const StackLayer& layer, const StackMap& map) {
  return map.channels + up_to_multiple(layer.attention.squeezed, kConvLanes);
}

}  // namespace

void divide(StackJob& job, int threads) {
  constexpr std::int64_t rows = 6;  // of a product
  const StackBox& box = job.box;
  const std::int64_t down = parts(box.y1, kStackSide) - box.y0 / kStackSide;
  const std::int64_t across = parts(box.x1, kStackSide) - box.x0 / kStackSide;
  const std::int64_t cells = job.patches ? job.listed : job.images * down * across;
  const std::int64_t rounds = parts(cells, kTiles * threads);
  job.block = std::min(kTiles, up_to_multiple(parts(cells, rounds * threads), rows));
  job.blocks = parts(cells, job.block);
}

std::vector<float> padded_bias(const StackLayer& layer, std::int64_t padded) {
  const std::int64_t places = layer.upscale * layer.upscale;
  std::vector<float> bias(static_cast<std::size_t>(padded * places));
  for (std::int64_t p = 0; p < places; ++p) {
    for (std::int64_t c = 0; c < layer.channels; ++c) bias[p * padded + c] = layer.bias[c * places + p];
  }
  return bias;
}

// The cells of each map and its lifetime: from the step that computes it to the last that reads it.
struct StackPlan::Lives {
  explicit Lives(std::vector<StackMap>& maps, std::int64_t images) : maps(maps), images(images), last(maps.size()) {}

  void reads(std::size_t map, std::size_t step) { last[map] = std::max(last[map], step); }

  // Assigns memory to the maps, which are computed in `order`.
  std::unique_ptr<Workspace> place(const std::vector<std::size_t>& order) {
    Offsets offsets;
    std::vector<std::int64_t> start(maps.size());
    for (std::size_t step = 0; step < order.size(); ++step) {
      start[order[step]] = offsets.take(floats_of(images, maps[order[step]]));
      for (std::size_t before = 0; before <= step; ++before) {
        if (last[order[before]] == step) offsets.give_back(start[order[before]]);
      }
    }
    auto memory = std::make_unique<Workspace>(offsets.size());
    for (const std::size_t map : order) maps[map].data = memory->at(start[map]);
    return memory;
  }

  std::vector<StackMap>& maps;
  std::int64_t images;
  std::vector<std::size_t> last;
};

StackMap StackPlan::map_of(const StackBox& box, std::int64_t upscale, std::int64_t channels) const {
  StackMap map{};
  map.valid = refined(box, upscale);
  const std::int64_t top = box.y0 / kStackSide, left = box.x0 / kStackSide;
  map.top = top * upscale;
  map.left = left * upscale;
  map.down = (parts(box.y1, kStackSide) - top) * upscale;
  map.across = (parts(box.x1, kStackSide) - left) * upscale;
  map.channels = up_to_multiple(channels, kConvLanes);
  return map;
}

StackBox StackPlan::seen_by(std::size_t layer) const {
  if (attends(layer)) return {0, 0, heights_[layer - 1], widths_[layer - 1]};
  const bool is_tail = layer > layers_.size();
  const StackBox box = is_tail ? tail_box() : layers_[layer - 1].box;
  const std::int64_t far = is_tail ? 2 : 1;
  const StackBox seen{std::max<std::int64_t>(box.y0 - far, 0), std::max<std::int64_t>(box.x0 - far, 0),
                      std::min(box.y1 + far, heights_[layer - 1]), std::min(box.x1 + far, widths_[layer - 1])};
  return is_tail && layer > 1 ? common(seen, maps_[layer - 1].valid) : seen;
}

StackBox StackPlan::tail_box() const {
  return coarsened(tail_->box, tail_->upscale);
}

StackPlan::StackPlan(const TensorView& input, std::vector<StackLayer> layers, std::optional<StackTail> tail)
    : layers_(std::move(layers)), tail_(tail) {
  if (input.rank != 4 || input.dtype != DType::float32 || (layers_.empty() && !tail_)) {
    throw std::invalid_argument("a stack takes float32 (B,C,H,W) and at least one layer");
  }
  images_ = input.sizes[0];
  channels_ = input.sizes[1];
  heights_ = {input.sizes[2]};
  widths_ = {input.sizes[3]};
  kept_places_ = {-1};
  std::vector<std::int64_t> uses(layers_.size() + 1);
  for (std::size_t i = 1; i <= layers_.size(); ++i) {
    const StackLayer& layer = layers_[i - 1];
    if (layer.upscale < 1 || layer.channels < 1 || layer.residual < -1 ||
        layer.residual >= static_cast<std::int64_t>(i) || (layer.relu && layer.residual >= 0) ||
        (layer.attends && (layer.residual < 0 || layer.upscale != 1 || layer.attention.squeezed < 1))) {
      throw std::invalid_argument("a layer that a stack does not take");
    }
    if (!lies_in(layer.box, {0, 0, heights_.back(), widths_.back()})) throw std::invalid_argument("a box outside");
    heights_.push_back(heights_.back() * layer.upscale);
    widths_.push_back(widths_.back() * layer.upscale);
    if (i == 1) maps_.push_back(map_of(seen_by(1), 1, channels_));
    const StackMap map = map_of(layer.box, layer.upscale, layer.channels);
    if (!lies_in(seen_by(i), maps_.back().valid)) throw std::invalid_argument("a layer needs more than there is");
    if (layer.residual >= 0) {
      const auto from = static_cast<std::size_t>(layer.residual);
      const std::int64_t channels = from ? layers_[from - 1].channels : channels_;
      if (channels != layer.channels || heights_[from] != heights_.back() || widths_[from] != widths_.back() ||
          !lies_in(map.valid, maps_[from].valid) || ++uses[from] > kMaxAdded) {
        throw std::invalid_argument("a residual that does not fit");
      }
    }
    maps_.push_back(map);
    kept_places_.push_back(layer.relu || layer.attends ? kept_bytes_ : -1);
    if (layer.relu) kept_bytes_ += images_ * map.pixels_of_image() * signs_of_pixel(map.channels);
    if (layer.attends) kept_bytes_ += 4 * (floats_of(images_, map) + images_ * kept_of_image(layer, map));
  }
  if (!tail_) return;
  if (tail_->upscale < 1 || tail_->channels < 1 ||
      !lies_in(tail_->box, refined({0, 0, heights_.back(), widths_.back()}, tail_->upscale))) {
    throw std::invalid_argument("a tail that a stack does not take");
  }
  if (maps_.empty()) maps_.push_back(map_of(seen_by(1), 1, channels_));
}

StackSigns StackPlan::signs_of(std::size_t map, std::uint8_t* kept) const {
  if (!kept || map == 0 || !layers_[map - 1].relu) return {};
  return {kept + kept_places_[map], maps_[map]};
}

StackPlan::AttentionKept StackPlan::attention_of(std::size_t map, std::uint8_t* kept) const {
  AttentionKept found{maps_[map], nullptr, nullptr};
  if (!kept) return found;
  found.plain.data = reinterpret_cast<float*>(kept + kept_places_[map]);
  found.weights = found.plain.data + floats_of(images_, maps_[map]);
  found.hidden = found.weights + images_ * maps_[map].channels;
  return found;
}

AttentionLayer StackPlan::attention_layer(std::size_t layer) const {
  return {layers_[layer - 1].attention, channels_of(layer - 1), layers_[layer - 1].channels, heights_[layer], widths_[layer]};
}

// Channel weights (images, padded channels) of a convolution's result, from the sums of its input's cells.
std::vector<float> StackPlan::weigh(std::size_t layer, const StackMap& input, const std::vector<float>& sums,
                                    const AttentionKept& kept) const {
  const AttentionLayer attention = attention_layer(layer);
  const std::int64_t channels = maps_[layer].channels;
  const std::int64_t of_image = static_cast<std::int64_t>(sums.size()) / images_;
  const std::int64_t squeezed = up_to_multiple(attention.attention.squeezed, kConvLanes);
  std::vector<float> factors(images_ * channels), weights(channels), hidden(squeezed);
  for (std::int64_t b = 0; b < images_; ++b) {
    attention.weigh(input, b, sums.data() + b * of_image, of_image / input.channels, layers_[layer - 1].bias,
                    weights.data(), hidden.data());
    for (std::int64_t c = 0; c < channels; ++c) factors[b * channels + c] = layers_[layer - 1].scale * weights[c];
    if (!kept.weights) continue;
    std::copy(weights.begin(), weights.end(), kept.weights + b * channels);
    std::copy(hidden.begin(), hidden.end(), kept.hidden + b * squeezed);
  }
  return factors;
}

// Gradient (images, kStackZones, padded inputs) to the convolution's input through the means, from the sums
// over cells of gradient times value.
std::vector<float> StackPlan::through_mean(std::size_t layer, const std::vector<float>& sums,
                                           const AttentionKept& kept) const {
  const AttentionLayer attention = attention_layer(layer);
  const std::int64_t channels = maps_[layer].channels, padded = maps_[layer - 1].channels;
  const std::int64_t squeezed = up_to_multiple(attention.attention.squeezed, kConvLanes);
  const std::int64_t of_image = static_cast<std::int64_t>(sums.size()) / images_;
  std::vector<float> zones(images_ * kStackZones * padded);
  for (std::int64_t b = 0; b < images_; ++b) {
    std::vector<double> along(channels);
    for (std::int64_t i = 0; i < of_image; ++i) along[i % channels] += sums[b * of_image + i];
    for (double& one : along) one *= layers_[layer - 1].scale;
    attention.add_through_mean(along.data(), kept.weights + b * channels, kept.hidden + b * squeezed, padded,
                               zones.data() + b * kStackZones * padded);
  }
  return zones;
}

StackJob StackPlan::job_of(const StackBox& box, int threads) const {
  StackJob job{};
  job.images = images_;
  job.box = box;
  job.in_upscale = job.out_upscale = 1;
  job.scale = 1.0f;
  divide(job, threads);
  return job;
}

// Memory for the sums of a box's cells.
std::vector<float> StackPlan::cell_sums(const StackBox& box, std::int64_t channels) const {
  const std::int64_t down = parts(box.y1, kStackSide) - box.y0 / kStackSide;
  return std::vector<float>(images_ * down * (parts(box.x1, kStackSide) - box.x0 / kStackSide) * channels);
}

void StackPlan::forward(const TensorView& input, std::uint8_t* kept, const TensorView& result, int threads) const {
  const std::size_t n = layers_.size();
  std::vector<StackMap> maps = maps_;
  Lives lives(maps, images_);
  std::vector<std::size_t> order;
  for (std::size_t i = 1; i <= n; ++i) {
    order.push_back(i - 1);
    lives.reads(i - 1, i);
    if (layers_[i - 1].residual >= 0) lives.reads(static_cast<std::size_t>(layers_[i - 1].residual), i);
  }
  if (tail_) {
    order.push_back(n);
    lives.reads(n, n + 1);
  }
  const auto memory = lives.place(order);
  FASTBG_CALL_VARIANT(conv_stack_entrance, (StackEntranceJob{input, 0, 0, maps[0], {}}), threads);
  std::vector<float> sums;  // of the cells of map i - 1, where layer i attends
  if (attends(1)) {
    sums = cell_sums(maps[0].valid, maps[0].channels);
    FASTBG_CALL_VARIANT(conv_stack_sums, (StackSumsJob{images_, maps[0], {sums.data(), {}}}), threads);
  }
  for (std::size_t i = 1; i <= n; ++i) {
    const StackLayer& layer = layers_[i - 1];
    StackJob job = job_of(layer.box, threads);
    job.in = maps[i - 1];
    job.out = maps[i];
    job.out_upscale = layer.upscale;
    job.factors = layer.factors;
    const std::vector<float> bias = layer.bias ? padded_bias(layer, job.out.channels) : std::vector<float>();
    job.bias = layer.bias ? bias.data() : nullptr;
    job.relu = layer.relu;
    if (layer.residual >= 0) {
      job.scale = layer.scale;
      job.add[job.added++] = maps[static_cast<std::size_t>(layer.residual)];
    }
    std::vector<float> factors;
    if (layer.attends) {
      const AttentionKept here = attention_of(i, kept);
      factors = weigh(i, maps[i - 1], sums, here);
      job.out_scale = factors.data();
      job.scale = 1.0f;
      job.plain = here.plain;
    }
    if (attends(i + 1)) {
      sums = cell_sums(maps[i].valid, job.out.channels);
      if (layer.upscale == 1) job.sums.data = sums.data();
    }
    job.signs = signs_of(i, kept);
    if (i == n && !tail_) job.result = result;
    FASTBG_CALL_VARIANT(conv_stack_layer, job, threads);
    if (attends(i + 1) && layer.upscale != 1) {
      FASTBG_CALL_VARIANT(conv_stack_sums, (StackSumsJob{images_, maps[i], {sums.data(), {}}}), threads);
    }
  }
  if (tail_) run_tail(maps[n], result, threads);
}

StackBorderJob StackPlan::border_job(const StackMap& map, const TensorView& result) const {
  return {images_, heights_.back(), widths_.back(), tail_box(), map, &*tail_, {result, tail_->box, tail_->upscale}};
}

void StackPlan::run_tail(const StackMap& map, const TensorView& result, int threads) const {
  const StackBorderJob border = border_job(map, result);
  StackJob job = job_of(border.box, threads);
  job.in = map;
  job.wide = true;
  job.out = map_of(border.box, 1, border.shuffled.channels());
  job.factors = tail_->factors;
  job.bias = tail_->biases + (kStackZones - 1) * job.out.channels;
  job.shuffled = border.shuffled;
  FASTBG_CALL_VARIANT(conv_stack_layer, job, threads);
  if (touches_border(border.box, border.height, border.width)) FASTBG_CALL_VARIANT(conv_stack_border, border, threads);
}

// The gradient to map i is the sum of the gradient of layer i + 1, by its transposed convolution, and of the
// layers that add map i. It continues to layer i through that layer's ReLU, or its attention's weights and
// means.
void StackPlan::backward(const TensorView& grad, std::uint8_t* kept, const TensorView& to_input, int threads) const {
  const std::size_t n = layers_.size(), top = tail_ ? n + 1 : n;  // a tail makes map n + 1, on map n's grid
  std::vector<StackMap> maps(top + 1);
  std::vector<std::vector<std::size_t>> adders(n + 1);
  for (std::size_t i = 1; i <= top; ++i) {
    maps[i - 1] = map_of(seen_by(i), 1, channels_of(i - 1));
    if (i <= n && layers_[i - 1].residual >= 0) adders[static_cast<std::size_t>(layers_[i - 1].residual)].push_back(i);
  }
  maps[top] = tail_ ? map_of(tail_box(), 1, tail_->channels * tail_->upscale * tail_->upscale) : maps_[n];
  Lives lives(maps, images_);
  std::vector<std::size_t> order;
  for (std::size_t i = top; i >= 1; --i) {
    order.push_back(i);
    lives.reads(i, top - i + 1);
    for (const std::size_t adder : adders[i - 1]) lives.reads(adder, top - i + 1);
  }
  if (n == 0) {  // the border of a tail adds its gradient there
    order.push_back(0);
    lives.reads(0, 2);
  }
  const auto memory = lives.place(order);
  if (tail_) {
    const StackBorderJob border = border_job(maps[n], grad);
    const StackShuffledEntranceJob entrance{border.shuffled, border.height, border.width, maps[top]};
    FASTBG_CALL_VARIANT(conv_stack_shuffled_entrance, entrance, threads);
    if (touches_border(border.box, border.height, border.width)) {
      FASTBG_CALL_VARIANT(conv_stack_border_gradient, border, threads);
    }
  } else {
    const StackEntranceJob entrance{grad, maps[n].valid.y0, maps[n].valid.x0, maps[n], signs_of(n, kept)};
    FASTBG_CALL_VARIANT(conv_stack_entrance, entrance, threads);
  }
  std::vector<float> sums;  // of the cells of gradient times value of map i, where layer i attends
  if (attends(n) && !tail_) {
    sums = cell_sums(maps[n].valid, maps[n].channels);
    const StackSumsJob job{images_, maps[n], {sums.data(), attention_of(n, kept).plain}};
    FASTBG_CALL_VARIANT(conv_stack_sums, job, threads);
  }
  for (std::size_t i = top; i >= 1; --i) {
    StackJob job = job_of(seen_by(i), threads);
    job.in = maps[i];
    job.out = maps[i - 1];
    if (i > n) {
      job.wide = true;
      job.factors = tail_->factors;
      if (touches_border(tail_box(), heights_.back(), widths_.back())) job.add[job.added++] = maps[n];
    } else {
      job.in_upscale = layers_[i - 1].upscale;
      job.factors = layers_[i - 1].factors;
      if (layers_[i - 1].residual >= 0) job.scale = layers_[i - 1].scale;
    }
    std::vector<float> factors, zones;
    if (attends(i)) {
      const AttentionKept here = attention_of(i, kept);
      factors.assign(here.weights, here.weights + images_ * maps[i].channels);
      job.in_scale = factors.data();
      zones = through_mean(i, sums, here);
      job.zones = zones.data();
      job.height = heights_[i - 1];
      job.width = widths_[i - 1];
    }
    if (attends(i - 1)) {
      sums = cell_sums(job.box, job.out.channels);
      job.sums = {sums.data(), attention_of(i - 1, kept).plain};
    }
    for (const std::size_t adder : adders[i - 1]) job.add[job.added++] = maps[adder];
    job.gate = signs_of(i - 1, kept);
    if (i == 1) {
      job.result = to_input;
      job.result.data = static_cast<float*>(to_input.data) + job.box.y0 * to_input.strides[2] +
                        job.box.x0 * to_input.strides[3];
    }
    FASTBG_CALL_VARIANT(conv_stack_layer, job, threads);
  }
}

}  // namespace fastbg
