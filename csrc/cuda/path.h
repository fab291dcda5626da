// Launchers of the path family. They enqueue on `stream` and never wait for the device. Shapes and
// dtypes were checked by fastbg.ops; `out` is contiguous. For blur kernels above kMaxRadius a launcher
// returns cudaErrorInvalidValue.
#pragma once

#include <cuda_runtime.h>

#include "path_params.h"

namespace fastbg {

// A tile with its borders and one group of nodes' weights fit in 48 KiB of shared memory.
constexpr int kMaxRadius = 31;

cudaError_t launch_blur_path(const BlurPathParams& params, cudaStream_t stream);
cudaError_t launch_path_integral(const PathIntegralParams& params, cudaStream_t stream);
cudaError_t launch_gradient_detector(const GradientDetectorParams& params, cudaStream_t stream);
cudaError_t launch_gradient_detector_backward(const GradientDetectorBackwardParams& params,
                                              cudaStream_t stream);

}  // namespace fastbg
