// Memory that PyTorch has just allocated for an output.
#pragma once

#include "tensor_view.h"

namespace fastbg {

// Advises the system to use huge pages for a large contiguous `out`. Otherwise its first writes cause a
// page fault for each page: 24,000 for 100 MB, which takes longer than the copy itself. Pages that are
// already mapped do not change.
void expect_whole_pages(const TensorView& out);

}  // namespace fastbg
