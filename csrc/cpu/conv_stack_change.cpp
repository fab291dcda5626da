#include "conv_stack_change.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <utility>

#include "divide.h"
#include "fresh_memory.h"

namespace fastbg {
namespace {

bool is_empty(const StackBox& box) { return box.y0 >= box.y1 || box.x0 >= box.x1; }

StackBox common(const StackBox& a, const StackBox& b) {
  return {std::max(a.y0, b.y0), std::max(a.x0, b.x0), std::min(a.y1, b.y1), std::min(a.x1, b.x1)};
}

StackBox hull(const StackBox& a, const StackBox& b) {
  if (is_empty(a)) return b;
  if (is_empty(b)) return a;
  return {std::min(a.y0, b.y0), std::min(a.x0, b.x0), std::max(a.y1, b.y1), std::max(a.x1, b.x1)};
}

StackBox grown(const StackBox& box, std::int64_t far) {
  return {box.y0 - far, box.x0 - far, box.y1 + far, box.x1 + far};
}

StackBox refined(const StackBox& box, std::int64_t r) { return {r * box.y0, r * box.x0, r * box.y1, r * box.x1}; }

StackBox coarsened(const StackBox& box, std::int64_t r) {
  return {box.y0 / r, box.x0 / r, (box.y1 + r - 1) / r, (box.x1 + r - 1) / r};
}

StackBox whole_cells(const StackBox& box) {
  return {box.y0 / kStackSide * kStackSide, box.x0 / kStackSide * kStackSide, up_to_multiple(box.y1, kStackSide),
          up_to_multiple(box.x1, kStackSide)};
}

bool same(const StackBox& a, const StackBox& b) {
  return a.y0 == b.y0 && a.x0 == b.x0 && a.y1 == b.y1 && a.x1 == b.x1;
}

// Memory for maps, in whole large pages. Released memory is reused.
class Buffers {
 public:
  Buffers() = default;
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
  ~Buffers() {
    for (const Buffer& buffer : all_) std::free(buffer.data);
  }

  float* take(std::int64_t floats) {
    Buffer* best = nullptr;
    for (Buffer& buffer : all_) {
      if (buffer.free && buffer.floats >= floats && (!best || buffer.floats < best->floats)) best = &buffer;
    }
    if (!best) best = &add(floats);
    best->free = false;
    return best->data;
  }

  void give_back(const float* data) {
    for (Buffer& buffer : all_) {
      if (buffer.data == data) buffer.free = true;
    }
  }

  // Releases all maps, and keeps memory for at most `most` floats.
  void reset(std::int64_t most) {
    std::int64_t kept = 0;
    std::vector<Buffer> rest;
    for (Buffer& buffer : all_) {
      buffer.free = true;
      if (kept + buffer.floats > most) {
        std::free(buffer.data);
      } else {
        kept += buffer.floats;
        rest.push_back(buffer);
      }
    }
    all_ = std::move(rest);
  }

 private:
  struct Buffer {
    float* data;
    std::int64_t floats;
    bool free;
  };

  Buffer& add(std::int64_t floats) {
    constexpr std::int64_t page = std::int64_t{1} << 21;
    floats = up_to_multiple(std::max<std::int64_t>(floats, 1), std::int64_t{1} << 14);
    const std::int64_t bytes = floats * 4, unit = bytes >= page ? page : 4096;
    void* data = std::aligned_alloc(static_cast<std::size_t>(unit), static_cast<std::size_t>(up_to_multiple(bytes, unit)));
    if (!data) throw std::bad_alloc();
    expect_whole_pages({data, DType::float32, 1, {floats}, {1}});
    all_.push_back({static_cast<float*>(data), floats, true});
    return all_.back();
  }

  std::vector<Buffer> all_;
};

// Floats that a thread keeps between calls at most, as fresh memory takes a page fault for each page.
constexpr std::int64_t kKeptFloats = std::int64_t{16} << 20;

Buffers& buffers_of_thread() {
  static thread_local Buffers buffers;
  return buffers;
}

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

// Extends a map by all cells that a layer writes when it computes `box` in whole tiles, at any position.
void cover_cells(StackMap& map, const StackBox& box, std::int64_t r) {
  const StackMap cells = map_of({box.y0, box.x0, box.y1 + kStackSide - 1, box.x1 + kStackSide - 1}, map.channels);
  const std::int64_t bottom = std::max(map.top + map.down, (cells.top + cells.down) * r);
  const std::int64_t right = std::max(map.left + map.across, (cells.left + cells.across) * r);
  map.top = std::min(map.top, cells.top * r);
  map.left = std::min(map.left, cells.left * r);
  map.down = bottom - map.top;
  map.across = right - map.left;
}

// Copies the pixels of `box` outside of `made` from the first image of a map to all `images` of another.
void copy_around(const StackMap& from, const StackBox& box, const StackBox& made, std::int64_t images,
                 const StackMap& to) {
  const StackBox inner = common(box, made);
  const auto copy = [&](std::int64_t b, std::int64_t y, std::int64_t x0, std::int64_t x1) {
    for (std::int64_t x = x0; x < x1; ++x) {
      std::memcpy(to.data + to.pixel(b, y, x) * to.channels, from.data + from.pixel(0, y, x) * from.channels,
                  static_cast<std::size_t>(to.channels) * sizeof(float));
    }
  };
  for (std::int64_t b = 0; b < images; ++b) {
    for (std::int64_t y = box.y0; y < box.y1; ++y) {
      const bool through = !is_empty(inner) && y >= inner.y0 && y < inner.y1;
      copy(b, y, box.x0, through ? inner.x0 : box.x1);
      if (through) copy(b, y, inner.x1, box.x1);
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

// Whether a pixel in `box` of any of the images differs from the first image of `kept` by more than `most`.
bool differs(const StackMap& made, std::int64_t images, const StackMap& kept, const StackBox& box, float most) {
  for (std::int64_t b = 0; b < images; ++b) {
    for (std::int64_t y = box.y0; y < box.y1; ++y) {
      for (std::int64_t x = box.x0; x < box.x1; ++x) {
        const float* a = made.data + made.pixel(b, y, x) * made.channels;
        const float* k = kept.data + kept.pixel(0, y, x) * kept.channels;
        bool any = false;
        for (std::int64_t c = 0; c < made.channels; ++c) any |= !(std::fabs(a[c] - k[c]) <= most);  // or is NaN
        if (any) return true;
      }
    }
  }
  return false;
}

// `box` without the rows and columns at its edges in which nothing differs; empty if nothing does.
StackBox differing(const StackMap& made, std::int64_t images, const StackMap& kept, StackBox box, float most) {
  const auto same = [&](const StackBox& part) { return !differs(made, images, kept, part, most); };
  while (!is_empty(box) && same({box.y0, box.x0, box.y0 + 1, box.x1})) ++box.y0;
  while (!is_empty(box) && same({box.y1 - 1, box.x0, box.y1, box.x1})) --box.y1;
  while (!is_empty(box) && same({box.y0, box.x0, box.y1, box.x0 + 1})) ++box.x0;
  while (!is_empty(box) && same({box.y0, box.x1 - 1, box.y1, box.x1})) --box.x1;
  return box;
}

// The part of `view` (B,C,h,w), whose first pixel is (top, left), that begins at (y, x).
TensorView from_pixel(TensorView view, std::int64_t top, std::int64_t left, std::int64_t y, std::int64_t x) {
  view.data = static_cast<float*>(view.data) + (y - top) * view.strides[2] + (x - left) * view.strides[3];
  return view;
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
  Buffers memory;

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

  // Map i with all pixels that steps read of it, in cells that the layer before can write as a whole.
  StackMap map_for(std::size_t i, const std::vector<StackBox>& computed) const {
    StackBox box = common(grown(computed[i + 1], far(i + 1)), maps[i].valid);
    for (const std::size_t adder : adders[i]) box = hull(box, refined(computed[adder], layers[adder - 1].upscale));
    StackMap map = map_of(box, channels_of(i));
    if (i > 0) cover_cells(map, computed[i], layers[i - 1].upscale);
    return map;
  }

  // Layer i's job for `images` with the maps `of`, in cells, or in tiles that start where the box does.
  StackJob job(std::size_t i, std::int64_t images, const StackBox& box, const std::vector<StackMap>& of,
               bool own_tiles, int threads) const {
    const StackLayer& layer = layers[i - 1];
    StackJob job{};
    job.images = images;
    job.box = box;
    job.in = of[i - 1];
    job.in_upscale = 1;
    job.out_upscale = layer.upscale;
    job.factors = layer.factors;
    job.bias = biases[i - 1].empty() ? nullptr : biases[i - 1].data();
    job.relu = layer.relu;
    job.scale = 1.0f;
    if (layer.residual >= 0) {
      job.scale = layer.scale;
      job.add[job.added++] = of[static_cast<std::size_t>(layer.residual)];
    }
    job.out = i < steps() ? of[i] : map_of(refined(box, layer.upscale), layer.channels);
    divide_tiles(job, own_tiles, threads);
    return job;
  }

  // The tail for `box` of its grid, as StackPlan::run_tail; `result` holds all of the tail's box.
  void run_tail(std::int64_t images, const StackBox& box, const StackMap& in, bool own_tiles, const TensorView& result,
                int threads) const {
    const StackShuffled shuffled{result, tail->box, tail->upscale};
    const StackBorderJob border{images, heights.back(), widths.back(), box, in, &*tail, shuffled};
    StackJob job{};
    job.images = images;
    job.box = box;
    job.in = in;
    job.in_upscale = job.out_upscale = 1;
    job.wide = true;
    job.out = map_of(box, border.shuffled.channels());
    job.factors = tail->factors;
    job.bias = tail->biases + (kStackZones - 1) * job.out.channels;
    job.scale = 1.0f;
    job.shuffled = border.shuffled;
    divide_tiles(job, own_tiles, threads);
    FASTBG_CALL_VARIANT(conv_stack_layer, job, threads);
    if (box.y0 == 0 || box.x0 == 0 || box.y1 == heights.back() || box.x1 == widths.back()) {
      FASTBG_CALL_VARIANT(conv_stack_border, border, threads);
    }
  }

  // What step i computes, on the grid of map i - 1, if these parts of maps 0 to i - 1 have changed; may be empty.
  StackBox computed(std::size_t i, const std::vector<StackBox>& reached) const {
    StackBox found = is_empty(reached[i - 1]) ? StackBox{} : grown(reached[i - 1], far(i));
    const std::int64_t residual = is_tail(i) ? -1 : layers[i - 1].residual;
    if (residual >= 0) found = hull(found, coarsened(reached[static_cast<std::size_t>(residual)], upscale(i)));
    found = common(found, box(i));
    // Rounding depends on all inputs of a tile, so a change affects all pixels of a cell.
    if (equal_cells && !is_empty(found)) found = common(whole_cells(found), box(i));
    return found;
  }

  // Whether changes in these parts of maps 0 to i reach the result.
  bool matters(std::size_t i, const std::vector<StackBox>& reached) const {
    if (!is_empty(reached[i])) return true;
    for (std::size_t m = 0; m < i; ++m) {
      for (const std::size_t a : adders[m]) {
        if (a > i && !is_empty(common(coarsened(reached[m], upscale(a)), box(a)))) return true;
      }
    }
    return false;
  }

  static void divide_tiles(StackJob& job, bool own_tiles, int threads) {
    if (own_tiles) {
      job.shift_y = job.box.y0 % kStackSide;
      job.shift_x = job.box.x0 % kStackSide;
    }
    divide(job, threads);
  }
};

namespace {

// A change, and its part of each map.
struct Changed {
  const StackChange* change;
  std::int64_t images;
  std::vector<StackBox> reached;  // by map: what differs from the unchanged image by more than rounding
  std::vector<StackMap> maps;
};

}  // namespace

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
    map.data = s.memory.take(map.pixels_of_image() * map.channels);
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
  FASTBG_CALL_VARIANT(conv_stack_entrance, (StackEntranceJob{input, 0, 0, s.maps[0], {}}), threads);
  for (std::size_t i = 1; i <= s.layers.size(); ++i) {
    StackJob job = s.job(i, 1, s.layers[i - 1].box, s.maps, false, threads);
    if (i == n) job.result = result;
    FASTBG_CALL_VARIANT(conv_stack_layer, job, threads);
  }
  if (s.tail) s.run_tail(1, s.box(n), s.maps.back(), false, result, threads);
  s.largest.assign(n, -1.0f);
  for (std::size_t i = 1; i < n && !whole_cells; ++i) {
    const float largest = largest_of(s.maps[i]);
    if (s.layers[i - 1].residual >= 0 && std::isfinite(largest)) s.largest[i] = largest;
  }
}

std::int64_t ChangeableStack::bytes() const {
  std::int64_t total = 0;
  for (const StackMap& map : state_->maps) total += 4 * map.pixels_of_image() * map.channels;
  return total;
}

void ChangeableStack::run(const std::vector<StackChange>& changes, float negligible, int threads) const {
  const State& s = *state_;
  const std::size_t n = s.steps();
  std::vector<Changed> items;
  for (const StackChange& change : changes) {
    const std::int64_t images = change.result.sizes[0];
    if (is_empty(change.box) || !same(common(change.box, s.input), change.box)) {
      throw std::invalid_argument("a change outside of the input");
    }
    check_images(change.pixels, images, s.channels, change.box);
    check_images(change.result, images, s.result_channels(), s.result_box());
    const StackBox first = common(change.box, s.maps[0].valid);
    Changed item{&change, images, {first}, std::vector<StackMap>(n)};
    // Memory is for all that the change may reach.
    std::vector<StackBox> reached{first}, computed(n + 1);
    bool reaches = images > 0 && !is_empty(first);
    for (std::size_t i = 1; i <= n && reaches; ++i) {
      computed[i] = s.computed(i, reached);
      reaches = !is_empty(computed[i]);
      reached.push_back(refined(computed[i], s.upscale(i)));
    }
    if (!reaches) continue;
    for (std::size_t i = 0; i < n; ++i) item.maps[i] = s.map_for(i, computed);
    items.push_back(std::move(item));
  }

  Buffers& memory = buffers_of_thread();
  memory.reset(kKeptFloats);  // in case an earlier call threw and released nothing
  const auto make = [&](Changed& item, std::size_t i) {
    StackMap& map = item.maps[i];
    map.data = memory.take(item.images * map.pixels_of_image() * map.channels);
  };
  for (Changed& item : items) {
    make(item, 0);
    const StackMap& map = item.maps[0];
    copy_around(s.maps[0], map.valid, {}, item.images, map);
    StackMap inner = map;
    inner.valid = common(item.change->box, map.valid);
    const StackBox& box = item.change->box;
    const StackEntranceJob entrance{item.change->pixels, box.y0, box.x0, inner, {}};
    FASTBG_CALL_VARIANT(conv_stack_entrance, entrance, threads);
  }
  for (std::size_t i = 1; i <= n; ++i) {
    // Step by step for all changes, so that a layer's factors are fetched from memory once.
    for (Changed& item : items) {
      if (item.reached.empty()) continue;
      const StackBox box = s.computed(i, item.reached);
      if (s.is_tail(i)) {
        if (!is_empty(box)) {
          s.run_tail(item.images, box, item.maps[i - 1], !s.equal_cells, item.change->result, threads);
        }
        continue;  // all maps are released below
      }
      StackBox made = refined(box, s.upscale(i));
      if (i < n) make(item, i);
      if (!is_empty(box)) {
        StackJob job = s.job(i, item.images, box, item.maps, !s.equal_cells, threads);
        if (i == n) {
          const StackBox all = s.result_box();
          job.result = from_pixel(item.change->result, all.y0, all.x0, made.y0, made.x0);
        }
        FASTBG_CALL_VARIANT(conv_stack_layer, job, threads);
      }
      if (i == n) continue;
      const StackMap& map = item.maps[i];
      if (negligible > 0.0f && s.largest[i] >= 0.0f) {
        made = differing(map, item.images, s.maps[i], made, negligible * s.largest[i]);
      }
      copy_around(s.maps[i], map.valid, made, item.images, map);
      item.reached.push_back(made);
      const bool ends = !s.matters(i, item.reached);
      for (std::size_t m = 0; m <= i; ++m) {
        if (s.last[m] == i || (ends && s.last[m] > i)) memory.give_back(item.maps[m].data);
      }
      if (ends) item.reached.clear();
    }
  }
  memory.reset(kKeptFloats);
}

}  // namespace fastbg
