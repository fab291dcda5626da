// Calls of csrc/cpu's entry points, as fastbg/backends/cpu/*.py makes them.
#pragma once

#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "cpu/register.h"
#include "tensors.h"

namespace fuzzing {

// Values in an input; the kernels' tiles hold fewer.
constexpr std::int64_t kMost = 20'000;

struct Call {
  explicit Call(std::string entry_point) : name(std::move(entry_point)) {}

  std::string name;
  std::vector<pybind11::object> arguments;  // all but the number of threads, the last
  std::vector<Tensor> results;              // written whole
  std::vector<Tensor> zeros;                // workspaces that must be zero
  std::deque<Tensor> inputs;                // that `arguments` point to
  bool valid = true;                        // no value that must be refused

  // The view of an input, to be an argument.
  pybind11::object keep(Tensor tensor) {
    inputs.push_back(std::move(tensor));
    return inputs.back().view();
  }

  // Of a result.
  pybind11::object result(Tensor tensor) {
    results.push_back(std::move(tensor));
    return results.back().view();
  }

  // An empty result is never computed, so that nothing is refused.
  bool nothing_to_do() const { return product(results.front().sizes) == 0; }
};

// One file per operator family.
Call composite_call(Input& input);
Call composite_lr_call(Input& input);
Call bridged_composite_call(Input& input);
Call bridged_composite_lr_call(Input& input);
Call mosaic_call(Input& input);
Call blur_path_call(Input& input);
Call path_integral_call(Input& input);
Call gradient_detector_call(Input& input);
Call gradient_detector_backward_call(Input& input);
Call gram_call(Input& input);
Call conv_gram_call(Input& input);
Call conv3x3_call(Input& input);
Call conv_weight_gradient_call(Input& input);
Call conv_factors_call(Input& input);
Call conv_stack_call(Input& input);
Call conv_stack_gradient_call(Input& input);

// A fault that must be found.
void register_planted(pybind11::module_& m);
Call planted_call(Input& input, const std::string& name);

}  // namespace fuzzing
