// Parts of maps: boxes, and regions with a span of columns in each row.
#pragma once

#include <vector>

#include "conv_stack.h"

namespace fastbg {

bool is_empty(const StackBox& box);
// Whether `inner` is not empty, and lies in `outer`.
bool lies_in(const StackBox& inner, const StackBox& outer);
bool touches_border(const StackBox& box, std::int64_t height, std::int64_t width);  // of a map
StackBox common(const StackBox& a, const StackBox& b);
StackBox hull(const StackBox& a, const StackBox& b);
StackBox grown(const StackBox& box, std::int64_t far);
StackBox refined(const StackBox& box, std::int64_t r);
// The pixels of an r times coarser map that overlap `box`.
StackBox coarsened(const StackBox& box, std::int64_t r);

class StackRegion {
 public:
  StackRegion() = default;
  explicit StackRegion(const StackBox& box);

  bool empty() const { return spans_.empty(); }
  StackBox box() const;  // around all spans
  StackRows rows() const { return {y0_, y0_ + static_cast<std::int64_t>(spans_.size()), spans_.data()}; }

  // Each row's spans may only grow together: what lies between two parts of a row is included.
  StackRegion united(const StackRegion& other) const;
  StackRegion grown(std::int64_t far) const;
  StackRegion within(const StackBox& box) const;
  StackRegion refined(std::int64_t r) const;
  StackRegion coarsened(std::int64_t r) const;
  StackRegion whole_cells() const;

  // Without the pixels at both ends of each row for which differs(y, x) is false.
  template <class Differs>
  StackRegion trimmed(Differs differs) const {
    StackRegion found = *this;
    for (std::size_t i = 0; i < spans_.size(); ++i) {
      StackSpan& span = found.spans_[i];
      const std::int64_t y = y0_ + static_cast<std::int64_t>(i);
      while (span.x0 < span.x1 && !differs(y, span.x0)) ++span.x0;
      while (span.x0 < span.x1 && !differs(y, span.x1 - 1)) --span.x1;
    }
    found.drop_empty_rows();
    return found;
  }

  // Appends tiles of image `image` that cover the region: in bands of four rows, whole cells if `in_cells`;
  // otherwise from the row and the columns that need fewest.
  void cover(std::int64_t image, bool in_cells, std::vector<StackTile>& tiles) const;

 private:
  StackSpan span_of_rows(std::int64_t y0, std::int64_t y1) const;
  void drop_empty_rows();

  std::int64_t y0_ = 0;
  std::vector<StackSpan> spans_;  // neither the first nor the last one is empty
};

}  // namespace fastbg
