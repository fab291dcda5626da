// What a call of the composite family needs before its kernel runs: checks, tables, scratch.
#pragma once

#include <memory>
#include <vector>

#include "composite.h"

namespace fastbg {

// Throw std::invalid_argument where a kernel would leave its memory. fastbg.ops checks the same,
// but not inside a compiled graph. Boxes need no check: they are cut to the image.
void check_pairs(const CompositeParams& params);
void check_cells(const MosaicParams& params);

// Owns everything that `job` points to.
class CompositePlan {
 public:
  CompositePlan(const CompositeParams& params, int threads);
  CompositeJob job;

 private:
  std::vector<char> rows_;
};

// Memory: at most two LR images in float32 per pair (one per distinct source and boxes), and a
// few rows per thread.
class CompositeLrPlan {
 public:
  CompositeLrPlan(const CompositeLrParams& params, int threads);
  CompositeLrPlan(const CompositeLrPlan&) = delete;
  CompositeLrPlan& operator=(const CompositeLrPlan&) = delete;
  CompositeLrJob job;

 private:
  void prepare_axis(Axis& axis, const TensorView& index, std::int64_t size,
                    std::vector<std::int32_t>& bounds);
  void prepare_rows();
  void prepare_columns();
  void choose_parts();
  void allocate(int threads);

  std::vector<std::int32_t> row_bounds_, column_bounds_;
  std::vector<std::int32_t> row_slot_, chain_column_, column_after_, pair_parts_;
  std::vector<std::int64_t> column_entry_;
  std::vector<float> column_weight_;
  std::vector<LrPart> parts_;
  std::unique_ptr<float[]> part_images_;
  std::vector<float> scratch_;
};

}  // namespace fastbg
