// Launchers of composites with a bridged seam; the rules of composite.h apply.
#pragma once

#include <cuda_runtime.h>

#include "composite_params.h"

namespace fastbg {

cudaError_t launch_bridged_composite(const CompositeParams& params, const SeamParams& seam,
                                     cudaStream_t stream);

cudaError_t launch_bridged_composite_lr(const CompositeLrParams& params, const SeamParams& seam,
                                        cudaStream_t stream);

}  // namespace fastbg
