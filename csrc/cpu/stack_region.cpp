#include "stack_region.h"

#include <algorithm>

#include "divide.h"

namespace fastbg {
namespace {

bool is_empty(const StackSpan& span) { return span.x0 >= span.x1; }

StackSpan around(const StackSpan& a, const StackSpan& b) {
  if (is_empty(a)) return b;
  if (is_empty(b)) return a;
  return {std::min(a.x0, b.x0), std::max(a.x1, b.x1)};
}

std::int64_t whole(std::int64_t x) { return x / kStackSide * kStackSide; }

}  // namespace

bool is_empty(const StackBox& box) { return box.y0 >= box.y1 || box.x0 >= box.x1; }

bool lies_in(const StackBox& inner, const StackBox& outer) {
  return !is_empty(inner) && outer.y0 <= inner.y0 && inner.y1 <= outer.y1 && outer.x0 <= inner.x0 &&
         inner.x1 <= outer.x1;
}

bool touches_border(const StackBox& box, std::int64_t height, std::int64_t width) {
  return box.y0 == 0 || box.x0 == 0 || box.y1 == height || box.x1 == width;
}

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

StackRegion::StackRegion(const StackBox& box) : y0_(box.y0) {
  if (!is_empty(box)) spans_.assign(static_cast<std::size_t>(box.y1 - box.y0), {box.x0, box.x1});
}

StackBox StackRegion::box() const {
  if (empty()) return {0, 0, 0, 0};
  const StackRows all = rows();
  const StackSpan span = span_of_rows(all.y0, all.y1);
  return {all.y0, span.x0, all.y1, span.x1};
}

StackSpan StackRegion::span_of_rows(std::int64_t y0, std::int64_t y1) const {
  const StackRows all = rows();
  StackSpan found{0, 0};
  for (std::int64_t y = std::max(y0, all.y0); y < std::min(y1, all.y1); ++y) found = around(found, all.row(y));
  return found;
}

void StackRegion::drop_empty_rows() {
  const auto used = [](const StackSpan& span) { return !is_empty(span); };
  const auto first = std::find_if(spans_.begin(), spans_.end(), used);
  const auto last = std::find_if(spans_.rbegin(), spans_.rend(), used).base();
  y0_ += first - spans_.begin();
  spans_ = first < last ? std::vector<StackSpan>(first, last) : std::vector<StackSpan>();
}

StackRegion StackRegion::united(const StackRegion& other) const {
  if (empty()) return other;
  if (other.empty()) return *this;
  const StackRows a = rows(), b = other.rows();
  StackRegion found;
  found.y0_ = std::min(a.y0, b.y0);
  const std::int64_t y1 = std::max(a.y1, b.y1);
  found.spans_.reserve(static_cast<std::size_t>(y1 - found.y0_));
  for (std::int64_t y = found.y0_; y < y1; ++y) found.spans_.push_back(around(a.row(y), b.row(y)));
  return found;
}

StackRegion StackRegion::grown(std::int64_t far) const {
  if (empty()) return {};
  const StackRows all = rows();
  StackRegion found;
  found.y0_ = all.y0 - far;
  found.spans_.reserve(spans_.size() + static_cast<std::size_t>(2 * far));
  for (std::int64_t y = found.y0_; y < all.y1 + far; ++y) {
    StackSpan span = span_of_rows(y - far, y + far + 1);
    if (!is_empty(span)) span = {span.x0 - far, span.x1 + far};
    found.spans_.push_back(span);
  }
  return found;
}

StackRegion StackRegion::within(const StackBox& box) const {
  const StackRows all = rows();
  StackRegion found;
  found.y0_ = std::max(all.y0, box.y0);
  found.spans_.reserve(spans_.size());
  for (std::int64_t y = found.y0_; y < std::min(all.y1, box.y1); ++y) {
    const StackSpan span = all.row(y);
    found.spans_.push_back({std::max(span.x0, box.x0), std::min(span.x1, box.x1)});
  }
  found.drop_empty_rows();
  return found;
}

StackRegion StackRegion::refined(std::int64_t r) const {
  if (r == 1) return *this;
  StackRegion found;
  found.y0_ = r * y0_;
  for (const StackSpan& span : spans_) {
    found.spans_.insert(found.spans_.end(), static_cast<std::size_t>(r), {r * span.x0, r * span.x1});
  }
  return found;
}

StackRegion StackRegion::coarsened(std::int64_t r) const {
  if (r == 1 || empty()) return *this;
  const StackRows all = rows();
  StackRegion found;
  found.y0_ = all.y0 / r;
  for (std::int64_t y = found.y0_; y < (all.y1 + r - 1) / r; ++y) {
    const StackSpan span = span_of_rows(r * y, r * (y + 1));
    found.spans_.push_back({span.x0 / r, (span.x1 + r - 1) / r});
  }
  return found;
}

StackRegion StackRegion::whole_cells() const {
  if (empty()) return {};
  const StackRows all = rows();
  StackRegion found;
  found.y0_ = whole(all.y0);
  for (std::int64_t y = found.y0_; y < all.y1; y += kStackSide) {
    const StackSpan span = span_of_rows(y, y + kStackSide);
    found.spans_.insert(found.spans_.end(), kStackSide, {whole(span.x0), up_to_multiple(span.x1, kStackSide)});
    if (is_empty(span)) std::fill(found.spans_.end() - kStackSide, found.spans_.end(), StackSpan{0, 0});
  }
  return found;
}

void StackRegion::cover(std::int64_t image, bool in_cells, std::vector<StackTile>& tiles) const {
  if (empty()) return;
  const StackRows all = rows();
  const auto for_each_tile = [&](std::int64_t y, auto function) {
    for (; y < all.y1; y += kStackSide) {
      const StackSpan span = span_of_rows(y, y + kStackSide);
      if (is_empty(span)) continue;
      for (std::int64_t x = in_cells ? whole(span.x0) : span.x0; x < span.x1; x += kStackSide) function(y, x);
    }
  };
  std::int64_t start = all.y0, fewest = -1;
  if (in_cells) {
    start = whole(all.y0);
  } else {
    for (std::int64_t y = all.y0; y >= 0 && y > all.y0 - kStackSide; --y) {
      std::int64_t count = 0;
      for_each_tile(y, [&](std::int64_t, std::int64_t) { ++count; });
      if (fewest >= 0 && count >= fewest) continue;
      fewest = count;
      start = y;
    }
  }
  for_each_tile(start, [&](std::int64_t y, std::int64_t x) { tiles.push_back({image, y, x}); });
}

}  // namespace fastbg
