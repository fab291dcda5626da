// Launchers of the composite family. They enqueue on `stream` and never wait for the device. Shapes and
// dtypes were checked by fastbg.ops; `out` is contiguous. For arguments that it does not support, a
// launcher returns cudaErrorInvalidValue.
#pragma once

#include <cuda_runtime.h>

#include "composite_params.h"

namespace fastbg {

cudaError_t launch_composite(const CompositeParams& params, cudaStream_t stream);

// For the results that are computed once per source: float32, contiguous. With a box for each pair,
// `small` is filled with elements of the output's type.
struct CompositeLrScratch {
  TensorView rows;   // (A+B,C,H/s,W)
  TensorView small;  // (A+B,C,H/s,W/s)
};

// If `scratch.small` is null, each pair is computed on its own, which is faster for few pairs.
// `column_band` (W/s,4s), float32, contiguous, has the taps of columns again: [j][k] is the weight of
// column s*j - floor(3s/2) + k in LR column j.
cudaError_t launch_composite_lr(const CompositeLrParams& params, const CompositeLrScratch& scratch,
                                const TensorView& column_band, cudaStream_t stream);

cudaError_t launch_mosaic(const MosaicParams& params, cudaStream_t stream);

// cudaSuccess if this module has machine code for the current device and the driver is new enough.
cudaError_t can_launch();

}  // namespace fastbg
