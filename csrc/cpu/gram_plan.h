// Prepares a call of the Gram family: division of work, scratch memory.
#pragma once

#include <memory>
#include <new>

#include "gram.h"

namespace fastbg {

constexpr std::align_val_t kCacheLine{64};

struct FreeFloats {
  void operator()(float* floats) const { ::operator delete[](floats, kCacheLine); }
};
using Floats = std::unique_ptr<float[], FreeFloats>;

// Both own everything that `job` points to. Memory: the sums of every chunk, at most an eighth of
// what the features take where the images are large, and a block and two tiles per thread.
class GramPlan {
 public:
  GramPlan(const GramParams& params, int threads);
  GramJob job;

 private:
  Floats sums_, scratch_;
};

class ConvGramPlan {
 public:
  ConvGramPlan(const ConvGramParams& params, int threads);
  ConvGramJob job;

 private:
  Floats weight_, sums_, scratch_;
};

}  // namespace fastbg
