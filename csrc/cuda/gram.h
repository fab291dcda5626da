// Launchers of the Gram family. They enqueue on `stream` and never wait for the device. Shapes and
// dtypes were checked by fastbg.ops; `out` is contiguous. Partial sums pass through a workspace of
// float32, of the size that *_workspace returns. For a workspace that is too small, and for rows of 2^31
// pixels in images that are not contiguous, a launcher returns cudaErrorInvalidValue. Infinite float32
// features give NaN where IEEE arithmetic gives infinity.
#pragma once

#include <cuda_runtime.h>

#include "gram_params.h"

namespace fastbg {

std::int64_t gram_workspace(const GramParams& params);
std::int64_t conv_gram_workspace(const ConvGramParams& params);
cudaError_t launch_gram(const GramParams& params, const TensorView& workspace, cudaStream_t stream);
cudaError_t launch_conv_gram(const ConvGramParams& params, const TensorView& workspace,
                             cudaStream_t stream);

}  // namespace fastbg
