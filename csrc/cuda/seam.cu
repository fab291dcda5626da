// Composites whose seam is bridged, and their down-sampling.
//
// Besides itself, a pixel reads two pixels of the inner rim and up to four of the outer one, from L1 or
// L2. Down-sampling works in the tiles of composite_lr, for every pair and tile: the bridge is clipped,
// so that results are no sum of parts, and at the paper's sizes it reaches the whole image (12.5 tau
// pixels). Copying the few tiles that it does not reach would need the LR image of every source first.
#include "seam.h"

#include "bridge.cuh"
#include "downsample.cuh"
#include "launch.cuh"

namespace fastbg {
namespace {

// Blocks per SM are set as in composite.cu, as ptxas spills registers to reach one block more.
constexpr int kThreads = 256, kBlocks = 4;
constexpr int kTileThreads = 128, kTileBlocks = 4;  // 5 spilled on sm_80
constexpr int kMaxSide = 1 << 27;  // of an image, so that 32-bit coordinates never overflow

template <typename In, typename Out>
__global__ void __launch_bounds__(kThreads, kBlocks)
    bridged_composite_fwd_kernel(const CompositeParams p, const SeamParams seam) {
  const std::int64_t channels = p.out.sizes[1];
  const std::int64_t planes = p.out.sizes[0] * channels;
  const int height = static_cast<int>(p.out.sizes[2]), width = static_cast<int>(p.out.sizes[3]);

  for (std::int64_t plane = blockIdx.y; plane < planes; plane += gridDim.y) {
    const std::int64_t n = plane / channels, c = plane - n * channels;
    const Pair pair = pair_of(p, n);
    const BridgedPlane<In> image(p, seam, pair.valid ? pair : Pair{0, 0, false}, n, c);
    Out* out = static_cast<Out*>(p.out.data) + plane * height * width;
    for (int y = blockIdx.x * blockDim.y + threadIdx.y; y < height; y += gridDim.x * blockDim.y) {
      const RowOfB row(image.inner, image.outer, y);
      for (int x = threadIdx.x; x < width; x += blockDim.x) {
        const float value = pair.valid ? image.at(row, y, x) : NAN;
        out[static_cast<std::int64_t>(y) * width + x] = from_float<Out>(value);
      }
    }
  }
}

// One block computes a band of rows of tiles.
template <typename In, typename Out>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks)
    bridged_composite_lr_kernel(const CompositeLrParams p, const SeamParams seam,
                                const TileShape shape) {
  const CompositeParams& q = p.composite;
  const int lr_height = static_cast<int>(q.out.sizes[2]);
  const int lr_width = static_cast<int>(q.out.sizes[3]);
  const int bands = ceil_div(lr_height, shape.side());
  const std::int64_t channels = q.out.sizes[1], size = q.out.sizes[2] * q.out.sizes[3];
  const std::int64_t work = q.out.sizes[0] * channels * bands;
  const bool quantize = p.quantize;

  for (std::int64_t item = blockIdx.x; item < work; item += gridDim.x) {
    const std::int64_t plane = item / bands, n = plane / channels, c = plane - n * channels;
    const int top = static_cast<int>(item - plane * bands) << shape.log_side;
    const Pair pair = pair_of(q, n);
    Out* out = static_cast<Out*>(q.out.data) + plane * size;
    if (!pair.valid) {
      const int rows_out = min(shape.side(), lr_height - top);
      for (int k = threadIdx.x; k < rows_out * lr_width; k += blockDim.x) {
        out[static_cast<std::int64_t>(top) * lr_width + k] = from_float<Out>(NAN);
      }
      continue;
    }
    const BridgedPlane<In> image(q, seam, pair, n, c);
    for (int left = 0; left < lr_width; left += shape.side()) {
      downsample_tile(image, p, shape, top, left, [=](int i, int j, float value) {
        out[static_cast<std::int64_t>(i) * lr_width + j] = finished<Out>(value, quantize);
      });
    }
  }
}

bool fits(const TensorView& source, const SeamParams& seam) {
  const std::int64_t height = source.sizes[2], width = source.sizes[3];
  return height <= kMaxSide && width <= kMaxSide && contiguous(seam.decay) &&
         seam.decay.sizes[0] >= height && seam.decay.sizes[0] >= width;
}

}  // namespace

cudaError_t launch_bridged_composite(const CompositeParams& p, const SeamParams& seam,
                                     cudaStream_t stream) {
  if (!contiguous(p.out) || !fits(p.a, seam)) return cudaErrorInvalidValue;
  if (element_count(p.out) == 0) return cudaSuccess;
  return with_types(p.a.dtype, [&](auto in, auto out) {
    using In = typename decltype(in)::type;
    using Out = typename decltype(out)::type;
    const dim3 block(32, kThreads / 32);
    const dim3 grid(grid_size(ceil_div<std::int64_t>(p.out.sizes[2], block.y)),
                    grid_size(p.out.sizes[0] * p.out.sizes[1]));
    FASTBG_LAUNCH((bridged_composite_fwd_kernel<In, Out>), grid, block, 0, stream, p, seam);
    return cudaGetLastError();
  });
}

cudaError_t launch_bridged_composite_lr(const CompositeLrParams& p, const SeamParams& seam,
                                        cudaStream_t stream) {
  const CompositeParams& q = p.composite;
  if (!contiguous(q.out) || !fits(q.a, seam)) return cudaErrorInvalidValue;
  if (element_count(q.out) == 0) return cudaSuccess;
  TileShape shape;
  if (!tile_shape_for(p, shape)) return cudaErrorInvalidValue;
  return with_types(q.a.dtype, [&](auto in, auto out) {
    using In = typename decltype(in)::type;
    using Out = typename decltype(out)::type;
    const std::int64_t bands = ceil_div<std::int64_t>(q.out.sizes[2], shape.side());
    const dim3 grid(grid_size(q.out.sizes[0] * q.out.sizes[1] * bands));
    FASTBG_LAUNCH((bridged_composite_lr_kernel<In, Out>), grid, dim3(kTileThreads),
                  shape.shared_bytes(), stream, p, seam, shape);
    return cudaGetLastError();
  });
}

}  // namespace fastbg
