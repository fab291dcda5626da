#include "conv_stack_change.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <utility>

#include "divide.h"
#include "each_image.h"
#include "stack_memory.h"
#include "stack_region.h"

namespace fastbg {
namespace {

// Images whose layers are computed together: with more, their maps leave the cache; with fewer than six, a
// layer's factors are fetched for too few.
constexpr std::size_t kImagesAtOnce = 12;

// The pixels `box` of a map in cells.
StackMap map_of(const StackBox& box, std::int64_t channels) {
  StackMap map{};
  map.valid = box;
  map.top = box.y0 / kStackSide;
  map.left = box.x0 / kStackSide;
  map.down = parts(box.y1, kStackSide) - map.top;
  map.across = parts(box.x1, kStackSide) - map.left;
  map.channels = up_to_multiple(channels, kConvLanes);
  return map;
}

// Extends a map by all cells that a layer writes when it computes `box` in tiles at any position.
void cover_cells(StackMap& map, const StackBox& box, std::int64_t r) {
  constexpr std::int64_t far = kStackSide - 1;
  const StackBox tiles{std::max<std::int64_t>(box.y0 - far, 0), box.x0, box.y1 + far, box.x1 + far};
  const StackMap cells = map_of(tiles, map.channels);
  const std::int64_t bottom = std::max(map.top + map.down, (cells.top + cells.down) * r);
  const std::int64_t right = std::max(map.left + map.across, (cells.left + cells.across) * r);
  map.top = std::min(map.top, cells.top * r);
  map.left = std::min(map.left, cells.left * r);
  map.down = bottom - map.top;
  map.across = right - map.left;
}

float* pixel_of(const StackMap& map, std::int64_t y, std::int64_t x) {
  return map.data + map.pixel(0, y, x) * map.channels;
}

std::int64_t floats_of(const StackMap& map) { return map.pixels_of_image() * map.channels; }

// Completes a map in `box` with the pixels that are not its own.
void copy_around(const StackPatchedMap& map, const StackBox& box) {
  for (std::int64_t y = box.y0; y < box.y1; ++y) {
    for (std::int64_t x = box.x0; x < box.x1; ++x) {
      if (map.own.has(y, x)) continue;
      std::memcpy(pixel_of(map.map, y, x), pixel_of(*map.kept, y, x),
                  static_cast<std::size_t>(map.map.channels) * sizeof(float));
    }
  }
}

float largest_of(const StackMap& map) {
  float largest = 0.0f;
  for (std::int64_t y = map.valid.y0; y < map.valid.y1; ++y) {
    for (std::int64_t x = map.valid.x0; x < map.valid.x1; ++x) {
      const float* pixel = map.data + map.pixel(0, y, x) * map.channels;
      for (std::int64_t c = 0; c < map.channels; ++c) largest = std::max(largest, std::fabs(pixel[c]));
    }
  }
  return largest;
}

// Four values; GCC does not make vectors of the loop below by itself.
typedef float Floats __attribute__((vector_size(16)));
typedef std::int32_t Bits __attribute__((vector_size(16)));

Floats load(const float* from) {
  Floats values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

// Whether a value differs from the kept one by more than `most`, or is NaN: as integers, magnitudes have the
// same order, with NaN last.
bool differs(const float* made, const float* kept, std::int64_t channels, float most) {
  constexpr std::int32_t magnitude = 0x7fffffff;
  std::int32_t limit;
  std::memcpy(&limit, &most, sizeof limit);
  for (std::int64_t start = 0; start < channels; start += kConvLanes) {
    Bits any{};
    for (std::int64_t c = start; c < start + kConvLanes; c += 4) {
      any |= ((Bits)(load(made + c) - load(kept + c)) & magnitude) > limit;
    }
    if (any[0] | any[1] | any[2] | any[3]) return true;
  }
  return false;
}

void check_images(const TensorView& view, std::int64_t images, std::int64_t channels, const StackBox& box) {
  if (view.rank != 4 || view.dtype != DType::float32 || view.sizes[0] != images || view.sizes[1] != channels ||
      view.sizes[2] != box.y1 - box.y0 || view.sizes[3] != box.x1 - box.x0) {
    throw std::invalid_argument("images that are not shaped as their box, or not float32");
  }
}

}  // namespace

// Steps are counted from 1: the layers, then the tail, if there is one. Step i reads map i - 1.
struct ChangeableStack::State {
  std::vector<StackLayer> layers;
  std::optional<StackTail> tail;
  std::vector<std::vector<float>> biases;
  std::vector<std::size_t> last;         // the last step that reads a map
  std::vector<std::vector<std::size_t>> adders;  // the layers that add it
  StackBox input;                        // all of map 0
  std::int64_t channels;                 // of map 0
  bool equal_cells;  // see `whole_cells` of the constructor
  std::vector<StackMap> maps;  // of the unchanged image: 0 to the number of steps less one
  std::vector<float> largest;  // by map: its largest value, or negative where no change is dropped
  std::vector<std::int64_t> heights, widths;  // of all maps
  LargeBlock memory;

  std::size_t steps() const { return layers.size() + (tail ? 1 : 0); }
  bool is_tail(std::size_t step) const { return step > layers.size(); }
  std::int64_t upscale(std::size_t step) const { return is_tail(step) ? tail->upscale : layers[step - 1].upscale; }
  // What a step computes, on the grid of the map that it reads, and how far it sees there.
  StackBox box(std::size_t step) const {
    return is_tail(step) ? coarsened(tail->box, tail->upscale) : layers[step - 1].box;
  }
  std::int64_t far(std::size_t step) const { return is_tail(step) ? 2 : 1; }
  std::int64_t channels_of(std::size_t map) const { return map ? layers[map - 1].channels : channels; }
  StackBox result_box() const { return tail ? tail->box : refined(layers.back().box, layers.back().upscale); }
  std::int64_t result_channels() const { return tail ? tail->channels : layers.back().channels; }

  // Map i of an image in which a change may reach what these steps compute.
  StackMap map_for(std::size_t i, const std::vector<StackBox>& computed) const {
    StackMap map{};
    if (is_tail(i + 1)) {  // with all that its border reads
      map = map_of(common(grown(computed[i + 1], far(i + 1)), maps[i].valid), channels_of(i));
    } else {
      map = map_of(i > 0 ? refined(computed[i], layers[i - 1].upscale) : computed[0], channels_of(i));
    }
    if (i > 0) cover_cells(map, computed[i], layers[i - 1].upscale);
    return map;
  }

  // What layer i computes in all jobs, without maps.
  StackJob job(std::size_t i) const {
    const StackLayer& layer = layers[i - 1];
    StackJob job{};
    job.images = 1;
    job.box = layer.box;
    job.in = maps[i - 1];
    job.in_upscale = 1;
    job.out_upscale = layer.upscale;
    job.factors = layer.factors;
    job.bias = biases[i - 1].empty() ? nullptr : biases[i - 1].data();
    job.relu = layer.relu;
    job.scale = 1.0f;
    if (layer.residual >= 0) {
      job.scale = layer.scale;
      job.add[job.added++] = maps[static_cast<std::size_t>(layer.residual)];
    }
    job.out = i < steps() ? maps[i] : map_of(refined(layer.box, layer.upscale), layer.channels);
    return job;
  }

  // The tail's, as StackPlan::run_tail; `result` holds all of the tail's box.
  StackJob tail_job(const TensorView& result) const {
    StackJob job{};
    job.images = 1;
    job.box = box(steps());
    job.in = maps.back();
    job.in_upscale = job.out_upscale = 1;
    job.wide = true;
    job.shuffled = shuffled(result);
    job.out = map_of(job.box, job.shuffled.channels());
    job.factors = tail->factors;
    job.bias = tail->biases + (kStackZones - 1) * job.out.channels;
    job.scale = 1.0f;
    return job;
  }

  StackShuffled shuffled(const TensorView& result) const { return {result, tail->box, tail->upscale}; }

  // The tail's border in `box` of its grid.
  void run_border(const StackBox& box, const StackMap& in, const TensorView& result, int threads) const {
    const StackBorderJob border{1, heights.back(), widths.back(), box, in, &*tail, shuffled(result)};
    FASTBG_CALL_VARIANT(conv_stack_border, border, threads);
  }

  // What step i computes, on the grid of map i - 1, if these parts of maps 0 to i - 1 have changed; may be empty.
  StackRegion computed(std::size_t i, const std::vector<StackRegion>& reached) const {
    StackRegion found = reached[i - 1].grown(far(i));
    const std::int64_t residual = is_tail(i) ? -1 : layers[i - 1].residual;
    if (residual >= 0) found = found.united(reached[static_cast<std::size_t>(residual)].coarsened(upscale(i)));
    found = found.within(box(i));
    // Rounding depends on all inputs of a tile, so a change affects all pixels of a cell.
    return equal_cells ? found.whole_cells().within(box(i)) : found;
  }

  // Whether changes in these parts of maps 0 to i reach the result.
  bool matters(std::size_t i, const std::vector<StackRegion>& reached) const {
    if (!reached[i].empty()) return true;
    for (std::size_t m = 0; m < i; ++m) {
      for (const std::size_t a : adders[m]) {
        if (a > i && !reached[m].coarsened(upscale(a)).within(box(a)).empty()) return true;
      }
    }
    return false;
  }

  // What of map i, computed in `made`, differs from the kept map.
  StackRegion differing(std::size_t i, const StackMap& map, StackRegion made, float negligible) const {
    if (!(negligible > 0.0f) || largest[i] < 0.0f) return made;
    const float most = negligible * largest[i];
    return made.trimmed([&](std::int64_t y, std::int64_t x) {
      return differs(pixel_of(map, y, x), pixel_of(maps[i], y, x), map.channels, most);
    });
  }
};

// One changed image, and its part of each map.
struct ChangeableStack::Changed {
  const StackChange* change;
  std::int64_t image;
  std::vector<StackRegion> reached;  // by map: what differs from the unchanged image by more than rounding
  std::vector<StackMap> maps;
  StackRegion computed;  // by the present step
  bool ended;            // the change has faded

  TensorView result() const { return image_of(change->result, image); }
};

ChangeableStack::ChangeableStack(ChangeableStack&&) noexcept = default;
ChangeableStack::~ChangeableStack() = default;

ChangeableStack::ChangeableStack(const TensorView& input, std::vector<StackLayer> layers,
                                 std::optional<StackTail> tail, bool whole_cells, const TensorView& result, int threads)
    : state_(std::make_unique<State>()) {
  for (const StackLayer& layer : layers) {
    if (layer.attends) throw std::invalid_argument("a changeable stack takes no means over the whole map");
  }
  const StackPlan checked(input, layers, tail);
  check_images(result, 1, checked.result_channels(), checked.result_box());
  if (input.sizes[0] != 1) throw std::invalid_argument("a changeable stack is of one image");
  State& s = *state_;
  s.layers = std::move(layers);
  s.tail = tail;
  s.equal_cells = whole_cells;
  s.channels = input.sizes[1];
  s.input = {0, 0, input.sizes[2], input.sizes[3]};
  s.heights = {input.sizes[2]};
  s.widths = {input.sizes[3]};
  const std::size_t n = s.steps();
  s.last.resize(n + 1);
  s.adders.resize(n + 1);
  for (std::size_t i = 1; i <= n; ++i) {
    s.last[i - 1] = std::max(s.last[i - 1], i);
    StackMap map = map_of(i == 1 ? common(grown(s.box(1), s.far(1)), s.input)
                                 : refined(s.layers[i - 2].box, s.layers[i - 2].upscale),
                          s.channels_of(i - 1));
    if (i > 1) cover_cells(map, s.layers[i - 2].box, s.layers[i - 2].upscale);
    s.maps.push_back(map);
    if (s.is_tail(i)) break;
    const StackLayer& layer = s.layers[i - 1];
    if (layer.residual >= 0) {
      s.last[static_cast<std::size_t>(layer.residual)] = i;
      s.adders[static_cast<std::size_t>(layer.residual)].push_back(i);
    }
    s.heights.push_back(s.heights.back() * layer.upscale);
    s.widths.push_back(s.widths.back() * layer.upscale);
    s.biases.push_back(layer.bias ? padded_bias(layer, up_to_multiple(layer.channels, kConvLanes))
                                  : std::vector<float>());
  }
  std::int64_t floats = 0;
  for (const StackMap& map : s.maps) floats += floats_of(map);
  s.memory.reserve(floats);
  float* next = s.memory.data();
  for (StackMap& map : s.maps) {
    map.data = next;
    next += floats_of(map);
  }
  FASTBG_CALL_VARIANT(conv_stack_entrance, (StackEntranceJob{input, 0, 0, s.maps[0], {}}), threads);
  for (std::size_t i = 1; i <= s.layers.size(); ++i) {
    StackJob job = s.job(i);
    if (i == n) job.result = result;
    divide(job, threads);
    FASTBG_CALL_VARIANT(conv_stack_layer, job, threads);
  }
  if (s.tail) {
    StackJob job = s.tail_job(result);
    divide(job, threads);
    FASTBG_CALL_VARIANT(conv_stack_layer, job, threads);
    if (touches_border(job.box, s.heights.back(), s.widths.back())) s.run_border(job.box, s.maps.back(), result, threads);
  }
  s.largest.assign(n, -1.0f);
  for (std::size_t i = 1; i < n && !whole_cells; ++i) {
    const float largest = largest_of(s.maps[i]);
    if (std::isfinite(largest)) s.largest[i] = largest;
  }
}

std::int64_t ChangeableStack::bytes() const {
  std::int64_t total = 0;
  for (const StackMap& map : state_->maps) total += 4 * floats_of(map);
  return total;
}

void ChangeableStack::run(const std::vector<StackChange>& changes, float negligible, int threads) const {
  const State& s = *state_;
  const std::size_t n = s.steps();
  std::vector<Changed> items;
  const auto run_items = [&] {
    run_together(items, negligible, threads);
    items.clear();
  };
  for (const StackChange& change : changes) {
    const std::int64_t images = change.result.sizes[0];
    if (!lies_in(change.box, s.input)) {
      throw std::invalid_argument("a change outside of the input");
    }
    check_images(change.pixels, images, s.channels, change.box);
    check_images(change.result, images, s.result_channels(), s.result_box());
    const StackRegion first(common(change.box, s.maps[0].valid));
    // Memory is for all that the change may reach.
    std::vector<StackRegion> reached{first};
    std::vector<StackBox> computed{first.box()};
    bool reaches = !first.empty();
    for (std::size_t i = 1; i <= n && reaches; ++i) {
      const StackRegion region = s.computed(i, reached);
      reaches = !region.empty();
      computed.push_back(region.box());
      reached.push_back(region.refined(s.upscale(i)));
    }
    if (!reaches) continue;
    Changed item{&change, 0, {first}, {}, {}, false};
    for (std::size_t i = 0; i < n; ++i) item.maps.push_back(s.map_for(i, computed));
    for (; item.image < images; ++item.image) {
      items.push_back(item);
      if (items.size() == kImagesAtOnce) run_items();
    }
  }
  run_items();
}

void ChangeableStack::run_together(std::vector<Changed>& items, float negligible, int threads) const {
  const State& s = *state_;
  const std::size_t n = s.steps();
  Offsets offsets;
  std::vector<std::vector<std::int64_t>> starts(n, std::vector<std::int64_t>(items.size()));
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t k = 0; k < items.size(); ++k) starts[i][k] = offsets.take(floats_of(items[k].maps[i]));
    for (std::size_t m = 0; m <= i; ++m) {
      if (s.last[m] != i) continue;
      for (const std::int64_t start : starts[m]) offsets.give_back(start);
    }
  }
  const Workspace memory(offsets.size());
  for (std::size_t k = 0; k < items.size(); ++k) {
    Changed& item = items[k];
    for (std::size_t i = 0; i < n; ++i) item.maps[i].data = memory.at(starts[i][k]);
    const StackBox& box = item.change->box;
    StackMap to = item.maps[0];
    to.valid = item.reached[0].box();
    const StackEntranceJob entrance{image_of(item.change->pixels, item.image), box.y0, box.x0, to, {}};
    FASTBG_CALL_VARIANT(conv_stack_entrance, entrance, threads);
  }
  // Step by step for all images, so that their tiles fill the products and a layer's factors are fetched once.
  std::vector<StackPatch> patches;
  std::vector<StackTile> tiles;
  for (std::size_t i = 1; i <= n; ++i) {
    patches.clear();
    tiles.clear();
    const bool is_tail = s.is_tail(i);
    for (Changed& item : items) {
      item.computed = item.ended ? StackRegion() : s.computed(i, item.reached);
      if (item.computed.empty()) continue;
      item.computed.cover(static_cast<std::int64_t>(patches.size()), s.equal_cells, tiles);
      const auto patched = [&](std::size_t m) {
        return StackPatchedMap{item.maps[m], item.reached[m].rows(), &s.maps[m]};
      };
      StackPatch patch{};
      patch.in = patched(i - 1);
      patch.computed = item.computed.rows();
      if (!is_tail && s.layers[i - 1].residual >= 0) {
        patch.add = patched(static_cast<std::size_t>(s.layers[i - 1].residual));
      }
      if (is_tail) {
        patch.shuffled = s.shuffled(item.result());
      } else if (i == n) {
        patch.result = item.result();
      } else {
        patch.out = item.maps[i];
      }
      patches.push_back(patch);
    }
    if (!tiles.empty()) {
      StackJob job = is_tail ? s.tail_job(patches[0].shuffled.view) : s.job(i);
      job.result = patches[0].result;
      job.patches = patches.data();
      job.tiles = tiles.data();
      job.listed = static_cast<std::int64_t>(tiles.size());
      divide(job, threads);
      FASTBG_CALL_VARIANT(conv_stack_layer, job, threads);
    }
    for (Changed& item : items) {
      if (item.ended) continue;
      if (is_tail) {
        const StackBox box = item.computed.box();
        if (is_empty(box) || !touches_border(box, s.heights.back(), s.widths.back())) continue;
        StackMap& in = item.maps[i - 1];
        in.valid = common(grown(box, s.far(i)), s.maps[i - 1].valid);
        copy_around({in, item.reached[i - 1].rows(), &s.maps[i - 1]}, in.valid);
        s.run_border(box, in, item.result(), threads);
      } else if (i < n) {
        item.reached.push_back(s.differing(i, item.maps[i], item.computed.refined(s.upscale(i)), negligible));
        item.ended = !s.matters(i, item.reached);
      }
    }
  }
}

}  // namespace fastbg
