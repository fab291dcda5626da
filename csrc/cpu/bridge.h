// Rows of a composite whose seam is bridged (fastbg.composite, seam=tau): b plus the step across
// each rim times a weight that decays with the distance from it, clipped to [0,1] once.
#pragma once

#include "composite.h"
#include "pixels.h"
#include "regions.h"

namespace fastbg::FASTBG_VARIANT {

[[maybe_unused]] static inline Box cut(const Box& box, const Box& to) {
  const Box both = {larger(box.y0, to.y0), larger(box.x0, to.x0), smaller(box.y1, to.y1),
                    smaller(box.x1, to.x1)};
  return both.empty() ? Box{0, 0, 0, 0} : both;
}

[[maybe_unused]] static inline bool has_rim(const Box& outer, std::int64_t height,
                                            std::int64_t width) {
  return !outer.empty() &&
         (outer.y0 > 0 || outer.x0 > 0 || outer.y1 < height || outer.x1 < width);
}

// One channel of one pair. Only pixels that the composite shows are read.
class Bridge {
 public:
  // `scratch` has kBridgeRows rows of `row_floats` >= width.
  Bridge(const Decay& decay, std::int64_t height, std::int64_t width, float* scratch,
         std::int64_t row_floats)
      : decay_(decay), height_(height), width_(width) {
    float** rows[] = {&across_, &side_distance_, &side_weight_, &inner_top_, &inner_bottom_,
                      &outer_top_, &outer_bottom_, &level_, &middle_, &sides_};
    for (float** row : rows) {
      *row = scratch;
      scratch += row_floats;
    }
  }

  void set_boxes(const Box& inner, const Box& outer) {
    outer_ = outer;
    inner_ = cut(inner, outer);
    has_inner_ = !inner_.empty();
    above_ = outer.y0 > 0;
    below_ = outer.y1 < height_;
    left_ = outer.x0 > 0;
    right_ = outer.x1 < width_;
    has_rim_ = has_rim(outer, height_, width_);
    const std::int64_t far = height_ + width_;
    for (std::int64_t x = outer.x0; x < outer.x1; ++x) {
      across_[x] = weight_beside(x, inner_.x0, inner_.x1);
      if (!has_rim_) continue;
      const std::int64_t inwards = smaller(left_ ? x - outer.x0 + 1 : far, right_ ? outer.x1 - x : far);
      side_distance_[x] = static_cast<float>(inwards);
      side_weight_[x] = left_ || right_ ? weight(inwards) : 0.0f;
    }
  }

  // After set_boxes; `a` and `b` must outlive the bridge's use.
  void set_planes(const Plane& a, const Plane& b) {
    a_ = &a;
    b_ = &b;
    if (has_inner_ && inner_.y0 > outer_.y0) inner_steps(inner_.y0, inner_.y0 - 1, inner_top_);
    if (has_inner_ && inner_.y1 < outer_.y1) inner_steps(inner_.y1 - 1, inner_.y1, inner_bottom_);
    if (has_rim_ && above_) outer_steps(outer_.y0 - 1, outer_.y0, outer_top_);
    if (has_rim_ && below_) outer_steps(outer_.y1, outer_.y1 - 1, outer_bottom_);
  }

  // Pixels [x0, x1) of row y, to to[x0..x1).
  void read(std::int64_t y, std::int64_t x0, std::int64_t x1, float* to) {
    const RowSplit split = split_row(inner_, outer_, y);
    copy(*a_, y, x0, smaller(x1, split.begin), to);
    correct(y, larger(x0, split.begin), smaller(x1, split.gap_begin), false, to);
    copy(*a_, y, larger(x0, split.gap_begin), smaller(x1, split.gap_end), to);
    correct(y, larger(x0, split.gap_end), smaller(x1, split.end), true, to);
    copy(*a_, y, larger(x0, split.end), x1, to);
  }

 private:
  static constexpr std::int64_t kRowsAhead = 16;
  static constexpr float kAlong = 2.0f;  // weight at distance 0 of an axis, above all others

  float weight(std::int64_t distance) const {
    return distance <= decay_.reach ? decay_.weights[distance - 1] : 0.0f;
  }

  // Weights by the distance from [low, high) on one axis. As they decay, the weight of the larger
  // distance of both axes is the smaller of the two.
  float weight_beside(std::int64_t at, std::int64_t low, std::int64_t high) const {
    if (at < low) return weight(low - at);
    return at >= high ? weight(at - high + 1) : kAlong;
  }

  // Prefetches rows, so that memory access and arithmetic overlap; any address may be prefetched.
  static void copy(const Plane& plane, std::int64_t y, std::int64_t x0, std::int64_t x1, float* to) {
    if (x0 >= x1) return;
    const char* row = plane.pixel(y, x0);
    const char* ahead = row + kRowsAhead * plane.stride_y * plane.bytes;
    for (std::int64_t at = 0; at < (x1 - x0) * plane.bytes; at += kLine) __builtin_prefetch(ahead + at);
    read_floats(row, plane.dtype, plane.stride_x, x1 - x0, to + x0);
  }

  static void fill(float* row, std::int64_t x0, std::int64_t x1, float value) {
    for (std::int64_t x = x0; x < x1; ++x) row[x] = value;
  }

  float step(std::int64_t kept_y, std::int64_t kept_x, std::int64_t y, std::int64_t x) const {
    float kept, foreign;
    read_floats(a_->pixel(kept_y, kept_x), a_->dtype, 1, 1, &kept);
    read_floats(b_->pixel(y, x), b_->dtype, 1, 1, &foreign);
    return kept - foreign;
  }

  // Steps from row `kept` of the inner box to the row beside it; corners also give the steps beyond them.
  void inner_steps(std::int64_t kept, std::int64_t foreign, float* steps) {
    copy(*a_, kept, inner_.x0, inner_.x1, steps);
    copy(*b_, foreign, inner_.x0, inner_.x1, level_);
    for (std::int64_t x = inner_.x0; x < inner_.x1; ++x) steps[x] -= level_[x];
    if (outer_.x0 < inner_.x0) {
      fill(steps, outer_.x0, inner_.x0, step(kept, inner_.x0, foreign, inner_.x0 - 1));
    }
    if (inner_.x1 < outer_.x1) {
      fill(steps, inner_.x1, outer_.x1, step(kept, inner_.x1 - 1, foreign, inner_.x1));
    }
  }

  // Steps from row `kept` beyond the outer box to the border row inside; 0 next to the inner box.
  void outer_steps(std::int64_t kept, std::int64_t foreign, float* steps) {
    copy(*a_, kept, outer_.x0, outer_.x1, steps);
    const RowSplit split = split_row(inner_, outer_, foreign);
    copy(*b_, foreign, split.begin, split.gap_begin, level_);
    copy(*b_, foreign, split.gap_end, split.end, level_);
    for (std::int64_t x = split.begin; x < split.gap_begin; ++x) steps[x] -= level_[x];
    fill(steps, split.gap_begin, split.gap_end, 0.0f);
    for (std::int64_t x = split.gap_end; x < split.end; ++x) steps[x] -= level_[x];
  }

  // b in [x0, x1) of row y, corrected. `behind`: to the right of the inner box, if it is in row y.
  void correct(std::int64_t y, std::int64_t x0, std::int64_t x1, bool behind, float* to) {
    if (x0 >= x1) return;
    copy(*b_, y, x0, x1, to);
    Parts parts = {};
    if (has_inner_) inner_part(y, x0, x1, behind, parts);
    if (has_rim_) rim_part(y, x0, x1, parts);
    const bool from_inner = parts.down > 0.0f;
    if (from_inner && has_rim_) {
      add<true, true>(parts, x0, x1, to);
    } else if (from_inner) {
      add<true, false>(parts, x0, x1, to);
    } else if (has_rim_) {
      add<false, true>(parts, x0, x1, to);
    }
  }

  // The corrections of one row.
  struct Parts {
    float down;         // the weight by the distance from the inner box's rows
    const float* steps;  // of the inner box's rim
    float row_distance, row_weight;  // of the outer box's nearest row
    const float* row_steps;
  };

  void inner_part(std::int64_t y, std::int64_t x0, std::int64_t x1, bool behind, Parts& parts) {
    parts.down = weight_beside(y, inner_.y0, inner_.y1);
    parts.steps = y < inner_.y0 ? inner_top_ : inner_bottom_;
    if (parts.down != kAlong) return;
    const float value = behind ? step(y, inner_.x1 - 1, y, inner_.x1)
                               : step(y, inner_.x0, y, inner_.x0 - 1);
    fill(level_, x0, x1, value);
    parts.steps = level_;
  }

  void rim_part(std::int64_t y, std::int64_t x0, std::int64_t x1, Parts& parts) {
    const std::int64_t far = height_ + width_;
    const std::int64_t up = above_ ? y - outer_.y0 + 1 : far;
    const std::int64_t down = below_ ? outer_.y1 - y : far;
    const std::int64_t nearest = smaller(up, down);
    parts.row_distance = static_cast<float>(nearest);
    parts.row_weight = above_ || below_ ? weight(nearest) : 0.0f;
    parts.row_steps = up < down ? outer_top_ : outer_bottom_;
    if (!above_ && !below_) {
      parts.row_steps = sides_;  // never selected, but must be readable
    } else if (up == down) {
      for (std::int64_t x = x0; x < x1; ++x) middle_[x] = (outer_top_[x] + outer_bottom_[x]) * 0.5f;
      parts.row_steps = middle_;
    }
    const RowSplit split = split_row(inner_, outer_, y);
    const bool left_shown = split.begin < split.gap_begin, right_shown = split.gap_end < split.end ||
                                                                   split.gap_begin == split.end;
    const float from_left = left_ && left_shown ? step(y, outer_.x0 - 1, y, outer_.x0) : 0.0f;
    const float from_right = right_ && right_shown ? step(y, outer_.x1, y, outer_.x1 - 1) : 0.0f;
    // The left side is nearer where 2x < both, the right one where 2x > both.
    const std::int64_t both = outer_.x0 + outer_.x1 - 1;
    for (std::int64_t x = x0; x < x1; ++x) {
      const std::int64_t side = left_ && right_ ? 2 * x - both : left_ ? -1 : 1;
      sides_[x] = side < 0 ? from_left : side > 0 ? from_right : (from_left + from_right) * 0.5f;
    }
  }

  // Selected, not multiplied by 0, as steps beyond the reach may be NaN.
  template <bool INNER, bool RIM>
  void add(const Parts& parts, std::int64_t x0, std::int64_t x1, float* __restrict to) const {
    const float* __restrict across = across_;
    const float* __restrict steps = parts.steps;
    const float* __restrict distance = side_distance_;
    const float* __restrict side_weight = side_weight_;
    const float* __restrict row_steps = parts.row_steps;
    const float* __restrict side_steps = sides_;
    const float down = parts.down, row_distance = parts.row_distance, row_weight = parts.row_weight;
    for (std::int64_t x = x0; x < x1; ++x) {
      float total = 0.0f, most = 0.0f;
      if (INNER) {
        const float weight = across[x] < down ? across[x] : down;
        const float correction = weight * steps[x];
        total = weight > 0.0f ? correction : 0.0f;
        most = weight;
      }
      if (RIM) {
        const float row = row_steps[x], side = side_steps[x];
        const float mean = (row + side) * 0.5f;
        const float nearer = row_distance < distance[x] ? row : side;
        const float step = row_distance == distance[x] ? mean : nearer;
        const float weight = row_weight > side_weight[x] ? row_weight : side_weight[x];
        const float correction = weight * step;
        total = total + (weight > 0.0f ? correction : 0.0f);
        most = most > weight ? most : weight;
      }
      const float value = to[x] + total;
      const float floor = value < 0.0f ? 0.0f : value;
      const float clipped = floor > 1.0f ? 1.0f : floor;
      to[x] = most > 0.0f ? clipped : to[x];
    }
  }

  Decay decay_;
  std::int64_t height_, width_;
  Box inner_ = {}, outer_ = {};
  bool has_inner_ = false, has_rim_ = false;
  bool above_ = false, below_ = false, left_ = false, right_ = false;  // pixels beyond that side
  const Plane* a_ = nullptr;
  const Plane* b_ = nullptr;
  // Rows of scratch.
  float *across_, *side_distance_, *side_weight_, *inner_top_, *inner_bottom_, *outer_top_,
      *outer_bottom_, *level_, *middle_, *sides_;
};

}  // namespace fastbg::FASTBG_VARIANT
