// Launchers of the composite family. They enqueue on `stream` and never wait for the device. Shapes and
// dtypes were checked by fastbg.ops; `out` is contiguous. For arguments that it does not support, a
// launcher returns cudaErrorInvalidValue.
#pragma once

#include <cuda_runtime.h>

#include "composite_params.h"

namespace fastbg {

cudaError_t launch_composite(const CompositeParams& params, cudaStream_t stream);

// For the results that are computed once per source: float32, contiguous.
struct CompositeLrScratch {
  TensorView rows;   // (A+B,C,H/s,W)
  TensorView small;  // (A+B,C,H/s,W/s)
};

// If `scratch.small` is null, each pair is computed on its own, which is faster for few pairs.
cudaError_t launch_composite_lr(const CompositeLrParams& params, const CompositeLrScratch& scratch,
                                cudaStream_t stream);

cudaError_t launch_mosaic(const MosaicParams& params, cudaStream_t stream);

// cudaSuccess if this module has machine code for the current device and the driver is new enough.
cudaError_t can_launch();

}  // namespace fastbg
