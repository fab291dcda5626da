// Blur paths, integrals along them, and LAM's objective.
//
// blur_path, path_integral. Variants considered:
//   a pass per axis and node: 2 (2r+1) multiply-adds per pixel (18 for 9x9); intermediate results go
//     through shared memory, with two barriers per node.
//   81 taps per node: no barrier, 81 multiply-adds and as many shared loads.
//   folded (chosen): a kernel symmetric in x, in y and under their exchange has (r+1)(r+2)/2 different
//     weights, 15 for 9x9. Pixels of equal weight are added once per tile and stay in registers for
//     all nodes: 15 multiply-adds per pixel and node, barriers only to load the weights of 16 nodes,
//     and path_integral's difference of two outer products takes no longer than a blur.
// One LR image has few pixels (3x64x64: 48 tiles), so blur_path also distributes groups of nodes to
// blocks; path_integral does not, as its sum over nodes would need atomics or a second pass.
//
// gradient_detector: one block per image, so that the order of the sum never changes. Its backward
// gathers from three gradient lengths per pixel instead of scattering with atomics.
#include "path.h"

#include <type_traits>

#include "element.cuh"
#include "launch.cuh"

namespace fastbg {
namespace {

constexpr int kTileX = 32, kTileY = 8;
constexpr int kThreads = kTileX * kTileY;
constexpr int kGroup = 16;     // nodes whose weights are in shared memory at a time
constexpr int kAnyRadius = -1;  // radius known only at run time: sums are not kept in registers

__host__ __device__ constexpr int class_count(int radius) { return (radius + 1) * (radius + 2) / 2; }
// Shared weights of one node: whole 128-bit loads.
__host__ __device__ constexpr int weight_pitch(int radius) { return (class_count(radius) + 3) / 4 * 4; }
__host__ __device__ constexpr int tile_pitch(int radius) { return kTileX + 2 * radius; }

std::size_t shared_bytes(int radius) {
  const int floats = tile_pitch(radius) * (kTileY + 2 * radius) + kGroup * weight_pitch(radius) + 4;
  return static_cast<std::size_t>(floats) * sizeof(float);
}

__device__ inline int mirrored(int place, int size) {
  const int inside = abs(place);
  return min(inside, 2 * (size - 1) - inside);
}

template <typename T>
__device__ inline const T* plane_at(const TensorView& view, std::int64_t b, std::int64_t c) {
  return static_cast<const T*>(view.data) + b * view.strides[0] + c * view.strides[1];
}

struct Tile {
  std::int64_t b, c;
  int y, x;  // of this thread's pixel
  bool inside;

  __device__ Tile(const TensorView& image, std::int64_t index) {
    const int height = static_cast<int>(image.sizes[2]), width = static_cast<int>(image.sizes[3]);
    const int across = ceil_div(width, kTileX), down = ceil_div(height, kTileY);
    const std::int64_t plane = index / (across * down);
    const int tile = static_cast<int>(index % (across * down));
    b = plane / image.sizes[1];
    c = plane % image.sizes[1];
    y = tile / across * kTileY + static_cast<int>(threadIdx.y);
    x = tile % across * kTileX + static_cast<int>(threadIdx.x);
    inside = y < height && x < width;
  }
};

std::int64_t tile_count(const TensorView& image) {
  return image.sizes[0] * image.sizes[1] * ceil_div<std::int64_t>(image.sizes[2], kTileY) *
         ceil_div<std::int64_t>(image.sizes[3], kTileX);
}

// The image around a tile in shared memory, and sums of the pixels that have equal weights.
template <typename T, int R>
class Folded {
 public:
  __device__ Folded(float* shared, int radius) : shared_(shared), radius_(radius) {}

  // Called by all threads of the block. They may read after the next barrier, which comes before `fold`.
  __device__ void read(const TensorView& image, const Tile& tile) {
    const int height = static_cast<int>(image.sizes[2]), width = static_cast<int>(image.sizes[3]);
    const T* plane = plane_at<T>(image, tile.b, tile.c);
    const int top = tile.y - static_cast<int>(threadIdx.y) - radius();
    const int left = tile.x - static_cast<int>(threadIdx.x) - radius();
    const int last_y = height - 1 + radius(), last_x = width - 1 + radius();
    for (int i = threadIdx.y; i < kTileY + 2 * radius(); i += kTileY) {
      const std::int64_t row = mirrored(min(top + i, last_y), height) * image.strides[2];
      for (int j = threadIdx.x; j < tile_pitch(radius()); j += kTileX) {
        const std::int64_t column = mirrored(min(left + j, last_x), width) * image.strides[3];
        shared_[i * tile_pitch(radius()) + j] = to_float(plane[row + column]);
      }
    }
  }

  __device__ void fold() {
    if constexpr (R != kAnyRadius) {
      int n = 0;
#pragma unroll
      for (int i = 0; i <= R; ++i) {
#pragma unroll
        for (int j = i; j <= R; ++j) sums_[n++] = of_class(i, j);
      }
    }
  }

  __device__ float weighted(const float* weights) const {
    float total = 0;
    if constexpr (R != kAnyRadius) {
#pragma unroll
      for (int n = 0; n < class_count(R); ++n) total = fmaf(weights[n], sums_[n], total);
    } else {
      for (int i = 0, n = 0; i <= radius(); ++i) {
        for (int j = i; j <= radius(); ++j) total = fmaf(weights[n++], of_class(i, j), total);
      }
    }
    return total;
  }

 private:
  __device__ int radius() const { return R != kAnyRadius ? R : radius_; }

  // Sum of the pixels at (+-i, +-j) and (+-j, +-i), each once.
  __device__ float of_class(int i, int j) const {
    return i == j ? around(i, j) : around(i, j) + around(j, i);
  }

  __device__ float around(int dy, int dx) const {
    const int y = static_cast<int>(threadIdx.y) + radius(), x = static_cast<int>(threadIdx.x) + radius();
    const float* up = shared_ + (y - dy) * tile_pitch(radius()) + x;
    const float* down = shared_ + (y + dy) * tile_pitch(radius()) + x;
    float sum = down[dx];
    if (dx) sum += down[-dx];
    if (dy) sum += up[dx];
    if (dy && dx) sum += up[-dx];
    return sum;
  }

  float* shared_;
  int radius_;
  float sums_[R != kAnyRadius ? class_count(R) : 1];
};

// Weights of `count` nodes from `first` on: change x level + level x change, or level x level if
// `change` is null. Called by all threads of the block.
__device__ void read_weights(float* shared, const TensorView* change, const TensorView& level,
                             int first, int count, int radius) {
  const int thread = static_cast<int>(threadIdx.y) * kTileX + static_cast<int>(threadIdx.x);
  for (int k = 0; k < count; ++k) {
    const float* l = static_cast<const float*>(level.data) + (first + k) * level.strides[0] + radius;
    const float* d =
        change ? static_cast<const float*>(change->data) + (first + k) * change->strides[0] + radius
               : nullptr;
    for (int cell = thread; cell < (radius + 1) * (radius + 1); cell += kThreads) {
      const int i = cell / (radius + 1), j = cell % (radius + 1);
      if (j < i) continue;
      const int n = i * (2 * radius + 3 - i) / 2 + j - i;
      shared[k * weight_pitch(radius) + n] = d ? fmaf(d[i], l[j], l[i] * d[j]) : l[i] * l[j];
    }
  }
}

__device__ inline float* weights_after(float* tile, int radius) {
  const int floats = tile_pitch(radius) * (kTileY + 2 * radius);
  return tile + (floats + 3) / 4 * 4;
}

template <typename T, int R>
__global__ void __launch_bounds__(kThreads)
    blur_path_fwd_kernel(const BlurPathParams p, int radius, std::int64_t tiles) {
  FASTBG_DYNAMIC_SHARED(float, shared);
  float* const weights = weights_after(shared, radius);
  const int nodes = static_cast<int>(p.taps.sizes[0]), groups = ceil_div(nodes, kGroup);
  const std::int64_t size = p.image.sizes[2] * p.image.sizes[3];

  for (std::int64_t index = blockIdx.x; index < tiles * groups; index += gridDim.x) {
    const Tile tile(p.image, index / groups);
    const int first = static_cast<int>(index % groups) * kGroup, count = min(kGroup, nodes - first);
    Folded<T, R> folded(shared, radius);
    __syncthreads();  // all threads have read the previous tile
    folded.read(p.image, tile);
    read_weights(weights, nullptr, p.taps, first, count, radius);
    __syncthreads();
    folded.fold();
    if (!tile.inside) continue;
    T* out = static_cast<T*>(p.out.data) + tile.y * p.image.sizes[3] + tile.x +
             ((tile.b * nodes + first) * p.image.sizes[1] + tile.c) * size;
    for (int k = 0; k < count; ++k) {
      out[k * p.image.sizes[1] * size] = from_float<T>(folded.weighted(weights + k * weight_pitch(radius)));
    }
  }
}

template <typename T, int R>
__global__ void __launch_bounds__(kThreads)
    path_integral_fwd_kernel(const PathIntegralParams p, int radius, std::int64_t tiles) {
  FASTBG_DYNAMIC_SHARED(float, shared);
  float* const weights = weights_after(shared, radius);
  const int nodes = static_cast<int>(p.change.sizes[0]);

  for (std::int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    const Tile tile(p.image, index);
    Folded<T, R> folded(shared, radius);
    __syncthreads();
    folded.read(p.image, tile);
    __syncthreads();
    folded.fold();
    const TensorView& g = p.gradients;
    const T* gradient = static_cast<const T*>(g.data) + tile.b * g.strides[0] +
                        tile.c * g.strides[2] + tile.y * g.strides[3] + tile.x * g.strides[4];
    float sum = 0;
    for (int first = 0; first < nodes; first += kGroup) {
      const int count = min(kGroup, nodes - first);
      __syncthreads();
      read_weights(weights, &p.change, p.level, first, count, radius);
      __syncthreads();
      if (!tile.inside) continue;
#pragma unroll 4
      for (int k = 0; k < count; ++k) {
        const float value = to_float(gradient[(first + k) * g.strides[1]]);
        sum = fmaf(value, folded.weighted(weights + k * weight_pitch(radius)), sum);
      }
    }
    if (!tile.inside) continue;
    const std::int64_t plane = tile.b * p.image.sizes[1] + tile.c;
    static_cast<T*>(p.out.data)[(plane * p.image.sizes[2] + tile.y) * p.image.sizes[3] + tile.x] =
        from_float<T>(sum);
  }
}

// ---------------------------------------------------------------------------------------------
// The objective

// The window's pixels that have a neighbour below and right of them.
struct Measured {
  int y0, x0, y1, x1;

  __device__ Measured(const TensorView& windows, const TensorView& sr, std::int64_t b) {
    const int last = windows.rank - 1;
    const int* box = static_cast<const int*>(windows.data) + (last ? b * windows.strides[0] : 0);
    const std::int64_t step = windows.strides[last];
    y0 = max(box[0], 0);
    x0 = max(box[step], 0);
    y1 = min(box[2 * step], static_cast<int>(sr.sizes[2]) - 1);
    x1 = min(box[3 * step], static_cast<int>(sr.sizes[3]) - 1);
  }

  __device__ bool contains(int y, int x) const { return y0 <= y && y < y1 && x0 <= x && x < x1; }
};

struct Slope {
  float down, right;
};

template <typename T>
__device__ inline Slope slope_at(const T* plane, const TensorView& sr, int y, int x) {
  const T* at = plane + y * sr.strides[2] + x * sr.strides[3];
  const float here = to_float(at[0]);
  return {to_float(at[sr.strides[2]]) - here, to_float(at[sr.strides[3]]) - here};
}

__device__ inline float squared(const Slope& s) { return fmaf(s.down, s.down, s.right * s.right); }

// Gradient that the length at (y, x) gives to the pixels below and right of it.
template <typename T>
__device__ inline Slope shares(const T* plane, const TensorView& sr, const Measured& box, int y,
                               int x, float upstream) {
  if (!box.contains(y, x)) return {0, 0};
  const Slope slope = slope_at(plane, sr, y, x);
  const float square = squared(slope);
  if (square == 0) return {0, 0};
  const float share = upstream / sqrtf(square);
  return {slope.down * share, slope.right * share};
}

template <typename T>
__global__ void __launch_bounds__(kThreads) gradient_detector_fwd_kernel(const GradientDetectorParams p) {
  __shared__ float of_warp[kThreads / 32];
  const unsigned thread = threadIdx.x;
  for (std::int64_t b = blockIdx.x; b < p.sr.sizes[0]; b += gridDim.x) {
    const Measured box(p.windows, p.sr, b);
    const int rows = max(box.y1 - box.y0, 0), columns = max(box.x1 - box.x0, 0);
    const std::int64_t pixels = p.sr.sizes[1] * rows * columns;
    float sum = 0;
    for (std::int64_t i = thread; i < pixels; i += kThreads) {
      const int x = static_cast<int>(i % columns), y = static_cast<int>(i / columns % rows);
      const T* plane = plane_at<T>(p.sr, b, i / columns / rows);
      sum += sqrtf(squared(slope_at(plane, p.sr, box.y0 + y, box.x0 + x)));
    }
    for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_down_sync(0xFFFFFFFFu, sum, lanes);
    __syncthreads();  // the sum of the previous image was read
    if (thread % 32 == 0) of_warp[thread / 32] = sum;
    __syncthreads();
    if (thread == 0) {
      for (int warp = 1; warp < kThreads / 32; ++warp) sum += of_warp[warp];
      static_cast<float*>(p.out.data)[b] = sum;
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    gradient_detector_bwd_kernel(const GradientDetectorBackwardParams p, std::int64_t tiles) {
  for (std::int64_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    const Tile tile(p.sr, index);
    if (!tile.inside) continue;
    const Measured box(p.windows, p.sr, tile.b);
    const T* plane = plane_at<T>(p.sr, tile.b, tile.c);
    const float upstream = static_cast<const float*>(p.grad.data)[tile.b * p.grad.strides[0]];
    const Slope own = shares(plane, p.sr, box, tile.y, tile.x, upstream);
    const Slope above = shares(plane, p.sr, box, tile.y - 1, tile.x, upstream);
    const Slope left = shares(plane, p.sr, box, tile.y, tile.x - 1, upstream);
    const std::int64_t row = (tile.b * p.sr.sizes[1] + tile.c) * p.sr.sizes[2] + tile.y;
    static_cast<T*>(p.out.data)[row * p.sr.sizes[3] + tile.x] =
        from_float<T>(above.down + left.right - (own.down + own.right));
  }
}

// ---------------------------------------------------------------------------------------------
// Launches

// Calls run(element type, constant radius): 4 is LAM's 9x9 kernel.
template <typename Run>
cudaError_t with_radius(DType dtype, int radius, Run&& run) {
  return with_float_type(dtype, [&](auto type) -> cudaError_t {
    if (radius == 4) return run(type, std::integral_constant<int, 4>{});
    return run(type, std::integral_constant<int, kAnyRadius>{});
  });
}

bool filterable(const TensorView& image, std::int64_t taps) {
  const std::int64_t radius = taps / 2;
  return taps % 2 == 1 && radius <= kMaxRadius && radius < image.sizes[2] && radius < image.sizes[3];
}

const dim3 kBlock(kTileX, kTileY);

}  // namespace

cudaError_t launch_blur_path(const BlurPathParams& p, cudaStream_t stream) {
  if (element_count(p.out) == 0) return cudaSuccess;
  if (!filterable(p.image, p.taps.sizes[1])) return cudaErrorInvalidValue;
  const int radius = static_cast<int>(p.taps.sizes[1] / 2);
  const std::int64_t groups = ceil_div<std::int64_t>(p.taps.sizes[0], kGroup);
  const std::int64_t tiles = tile_count(p.image);
  const dim3 grid(grid_size(tiles * groups));
  return with_radius(p.image.dtype, radius, [&](auto type, auto constant) {
    using T = typename decltype(type)::type;
    constexpr int R = decltype(constant)::value;
    FASTBG_LAUNCH((blur_path_fwd_kernel<T, R>), grid, kBlock, shared_bytes(radius), stream, p,
                  radius, tiles);
    return cudaGetLastError();
  });
}

cudaError_t launch_path_integral(const PathIntegralParams& p, cudaStream_t stream) {
  if (element_count(p.out) == 0) return cudaSuccess;
  if (!filterable(p.image, p.change.sizes[1])) return cudaErrorInvalidValue;
  const int radius = static_cast<int>(p.change.sizes[1] / 2);
  const std::int64_t tiles = tile_count(p.image);
  const dim3 grid(grid_size(tiles));
  return with_radius(p.image.dtype, radius, [&](auto type, auto constant) {
    using T = typename decltype(type)::type;
    constexpr int R = decltype(constant)::value;
    FASTBG_LAUNCH((path_integral_fwd_kernel<T, R>), grid, kBlock, shared_bytes(radius), stream, p,
                  radius, tiles);
    return cudaGetLastError();
  });
}

cudaError_t launch_gradient_detector(const GradientDetectorParams& p, cudaStream_t stream) {
  if (p.sr.sizes[0] == 0) return cudaSuccess;
  return with_float_type(p.sr.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    FASTBG_LAUNCH((gradient_detector_fwd_kernel<T>), dim3(grid_size(p.sr.sizes[0])), dim3(kThreads),
                  0, stream, p);
    return cudaGetLastError();
  });
}

cudaError_t launch_gradient_detector_backward(const GradientDetectorBackwardParams& p,
                                              cudaStream_t stream) {
  if (element_count(p.out) == 0) return cudaSuccess;
  const std::int64_t tiles = tile_count(p.sr);
  return with_float_type(p.sr.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    FASTBG_LAUNCH((gradient_detector_bwd_kernel<T>), dim3(grid_size(tiles)), kBlock, 0, stream, p,
                  tiles);
    return cudaGetLastError();
  });
}

}  // namespace fastbg
