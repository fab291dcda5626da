// Prepares a call of the composite family: checks, tables, scratch memory.
#pragma once

#include <memory>
#include <vector>

#include "composite.h"

namespace fastbg {

// Throw std::invalid_argument if a kernel would access memory outside of its tensors. fastbg.ops
// checks the same, but not inside a compiled graph. Boxes need no check: they are cut to the image.
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

// Throws std::invalid_argument unless `seam` holds weights for every distance in the image.
Decay checked_decay(const SeamParams& seam, const TensorView& source);

class BridgedCompositePlan {
 public:
  BridgedCompositePlan(const CompositeParams& params, const SeamParams& seam, int threads);
  BridgedCompositeJob job;

 private:
  std::vector<std::int32_t> order_;
  std::vector<float> scratch_;
};

// Memory: at most two LR images in float32 per pair (one per distinct source and boxes), and a
// few rows per thread.
class CompositeLrPlan {
 public:
  // `bridged`: parts are whole sources, and scratch has room for a bridge.
  CompositeLrPlan(const CompositeLrParams& params, int threads, bool bridged = false);
  CompositeLrPlan(const CompositeLrPlan&) = delete;
  CompositeLrPlan& operator=(const CompositeLrPlan&) = delete;
  CompositeLrJob job;

 private:
  void prepare_axis(Axis& axis, const TensorView& index, std::int64_t size,
                    std::vector<std::int32_t>& bounds);
  void prepare_rows();
  void prepare_columns();
  void choose_parts(bool bridged);
  void allocate(int threads, bool bridged);

  std::vector<std::int32_t> row_bounds_, column_bounds_;
  std::vector<std::int32_t> row_slot_, chain_column_, column_after_, pair_parts_;
  std::vector<std::int64_t> column_entry_;
  std::vector<float> column_weight_;
  std::vector<LrPart> parts_;
  std::unique_ptr<float[]> part_images_;
  std::vector<float> scratch_;
};

class BridgedCompositeLrPlan {
 public:
  BridgedCompositeLrPlan(const CompositeLrParams& params, const SeamParams& seam, int threads);
  BridgedCompositeLrJob job;

 private:
  CompositeLrPlan plan_;
  std::vector<std::int32_t> order_;
  std::unique_ptr<bool[]> part_needed_;
};

}  // namespace fastbg
