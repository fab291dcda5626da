// Memory that PyTorch has just allocated for an output.
#pragma once

#include "tensor_view.h"

namespace fastbg {

// Asks for huge pages under a large contiguous `out`. Its first writes fault page by page
// otherwise: 24,000 faults for 100 MB, longer than the copy itself. Advice only: no page that is
// already there changes.
void expect_whole_pages(const TensorView& out);

}  // namespace fastbg
