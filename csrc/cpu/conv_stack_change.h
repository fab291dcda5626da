// A stack of 3x3 convolutions on one image, in which boxes are changed many times.
//
// The maps of the unchanged image are kept, as far as the stack's boxes need them. For a change, each layer
// computes only the pixels that the change can reach and that are needed; the pixels around them are read
// from the kept maps. So does a tail, see StackTail. The tiles of all changed images are computed together.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "conv_stack_plan.h"

namespace fastbg {

// K images that differ from the unchanged one in `box` of the input only.
struct StackChange {
  StackBox box;
  TensorView pixels;  // (K, C, height, width) of the box
  TensorView result;  // (K, Co, h, w): the last box; written only where the change can reach
};

class ChangeableStack {
 public:
  // Computes all maps of `input` (1, C, H, W), the last one into `result` (1, Co, h, w). A tail follows the
  // layers; with a tail there may be no layers. With `whole_cells`
  // changes compute whole cells and drop nothing, so that results equal those of such a stack on the changed
  // image bit for bit.
  // Throws std::invalid_argument as StackPlan does.
  ChangeableStack(const TensorView& input, std::vector<StackLayer> layers, std::optional<StackTail> tail,
                  bool whole_cells, const TensorView& result, int threads);
  ChangeableStack(ChangeableStack&&) noexcept;
  ~ChangeableStack();

  // After every layer, pixels at both ends of each row of what was computed for an image in which no value
  // changes by more than `negligible` times the map's largest are dropped: the next layers compute less. Results
  // do not depend on the other changes. Twelve images are computed together.
  // Throws std::invalid_argument for tensors of other shapes, or a box outside of the input.
  void run(const std::vector<StackChange>& changes, float negligible, int threads) const;

  // Bytes of the kept maps.
  std::int64_t bytes() const;

 private:
  struct State;
  struct Changed;
  std::unique_ptr<State> state_;

  void run_together(std::vector<Changed>& items, float negligible, int threads) const;
};

}  // namespace fastbg
