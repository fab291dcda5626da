// Launchers of the composite family. They enqueue on `stream` and never wait for the device.
// Shapes and dtypes were checked by fastbg.ops; `out` is contiguous. What a launcher still
// refuses, it answers with cudaErrorInvalidValue.
#pragma once

#include <cuda_runtime.h>

#include "composite_params.h"

namespace fastbg {

cudaError_t launch_composite(const CompositeParams& params, cudaStream_t stream);

// `scratch` is (A+B,C,H/s,W/s) float32, contiguous, for what is computed once per source; with
// no address (data null) each pair is computed on its own, which is cheaper for few pairs.
cudaError_t launch_composite_lr(const CompositeLrParams& params, const TensorView& scratch,
                                cudaStream_t stream);

cudaError_t launch_mosaic(const MosaicParams& params, cudaStream_t stream);

// Success where this module has machine code for the current device, and its driver is new enough.
cudaError_t can_launch();

}  // namespace fastbg
