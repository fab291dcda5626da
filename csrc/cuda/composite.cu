// Composites of two image sources, their down-sampling, and mosaics.
//
// All three are bound by memory: one or two reads and one write per element. Variants considered:
//
// composite, mosaic
//   flat index, one element per thread: three 64-bit divisions per element, 2-byte stores for half.
//   one block per image:                too few blocks for small batches, no better for large ones.
//   rows: threadIdx.y walks rows, threadIdx.x 128-bit packs of a row.
//   mosaic: a pack in all channels per thread, whose addresses are computed once. Tiles stay in L1, so
//     that reading packs where a transform allows it is no gain, and took a branch for each transform.
//   composite: blockIdx.y images. The source of a pixel is computed once for all its channels, the
//     pair and its boxes once for up to 8 rows: a pack takes about 60 instructions. With a plane per
//     thread it took 256, and instruction issue was the bottleneck, not memory.
//
// composite_lr (s the scale; T <= 4s taps per axis)
//   composite in HR, then down-sample: writes and reads s*s times the output; ruled out by design.
//   every LR pixel from its T x T taps: no shared memory, but 16 s^2 select-and-add per pixel.
//   separable tiles per pair: 9 s multiply-adds per pixel, yet reads all HR pixels of every pair.
//   8x8 tiles per pair that straddle an edge: halos read 1.9x the pixels, and all 44 rows of a tile were
//     summed although a box's rim cuts few; remains for pairs so few that sources are not shared.
//   once per source (chosen): R is linear and separable. The rows, then the columns of A+B sources are
//     summed once. With one box for all pairs, R((1-M)a) and R(Mb) depend on one source each; a pair
//     adds them, and reads each only where it is not zero. With a box per pair, an LR pixel whose
//     support lies in one source is copied from that source's LR image. In the others, columns of taps
//     in one source are copied from that source's summed rows; only columns that a rim cuts are summed
//     for the pair: of a 32x32 box, s = 4, 8 x 32 columns of 16 taps instead of 128 pixels of 256.
//     Pixels are selected, not multiplied with M, so that a NaN in an unselected one has no effect;
//     R(b) + R(M(a-b)) would take no fewer pixels, and let such a NaN in.
//   a box per pair, a block for a band of a pair's rows: a thread summed its column's 16 taps for each LR
//     row, and read both sources' HR rows from L2. Now a warp has one plane of a pair: the four LR rows
//     of a tile share their 28 lines, and the warps of a block one plane of b, which L1 holds.
#include "composite.h"
#include "composite_lr.cuh"
#include "composite_lr_boxes.cuh"
#include "composite_pixels.cuh"
#include "downsample.cuh"
#include "element.cuh"
#include "launch.cuh"

namespace fastbg {
namespace {

// Blocks per SM are set because ptxas by itself spills registers to reach one block more (kBlocks
// allows 64 registers a thread, kTileBlocks 96).
constexpr int kThreads = 256, kBlocks = 4;
constexpr int kTileThreads = 128, kTileBlocks = 5;
constexpr int kMaxSide = 1 << 27;  // of an image, so that 32-bit coordinates never overflow
constexpr std::int64_t kMostPlanes = 1 << 30;  // that composite_lr_boxes_kernel counts in 32 bits

// ---------------------------------------------------------------------------------------------
// composite

template <typename Out, int V, typename In>
__device__ inline Pack<Out, V> load_converted(const In* address) {
  const Pack<In, V> source = load<In, V>(address);
  Pack<Out, V> pack;
#pragma unroll
  for (int v = 0; v < V; ++v) pack.at[v] = converted<Out>(source.at[v]);
  return pack;
}

template <typename In, typename Out, int V>
__global__ void __launch_bounds__(kThreads, kBlocks)
    composite_fwd_kernel(const CompositeParams p) {
  const int channels = static_cast<int>(p.out.sizes[1]);
  const std::int64_t count = p.out.sizes[0];
  const int height = static_cast<int>(p.out.sizes[2]);
  const int width = static_cast<int>(p.out.sizes[3]);
  const std::int64_t plane = static_cast<std::int64_t>(height) * width;

  for (std::int64_t n = blockIdx.y; n < count; n += gridDim.y) {
    const Pair pair = pair_of(p, n);
    const Box inner = box_of(p.inner, n), outer = box_of(p.outer, n);
    const In* a = plane_of<In>(p.a, pair.a, 0);  // not read if the pair does not exist
    const In* b = plane_of<In>(p.b, pair.b, 0);
    Out* out = static_cast<Out*>(p.out.data) + n * channels * plane;
    forget(a), forget(b), forget(out);

#pragma unroll 1
    for (int y = blockIdx.x * blockDim.y + threadIdx.y; y < height; y += gridDim.x * blockDim.y) {
      const RowOfB of_b(inner, outer, y);
      const In* const row_a = a + y * p.a.strides[2];
      const In* const row_b = b + y * p.b.strides[2];
#pragma unroll 1
      for (int x = threadIdx.x * V; x < width; x += blockDim.x * V) {
        const Range here = {x, x + V};
        const bool none = of_b.holds_none(here);
        const bool cut = V > 1 && !none && !of_b.holds_all(here);
        const In* const in_a = row_a + (V > 1 ? x : x * p.a.strides[3]);  // packs have a step of 1
        const In* from = none ? in_a : row_b + (V > 1 ? x : x * p.b.strides[3]);
        const std::int64_t step = none ? p.a.strides[1] : p.b.strides[1];
        Out* const first = out + static_cast<std::int64_t>(y) * width + x;
        Out* to = first;
#pragma unroll 1
        for (int left = pair.valid ? channels : 0; left > 0; left -= kTogether) {
          Pack<Out, V> result[kTogether];
#pragma unroll
          for (int c = 0; c < kTogether; ++c, from += step) {
            if (c < left) result[c] = load_converted<Out, V>(from);
          }
#pragma unroll
          for (int c = 0; c < kTogether; ++c, to += plane) {
            if (c < left) store(to, result[c]);
          }
        }
        // Few packs are cut by a box, and few pairs do not exist: their pixels follow singly.
        if (pair.valid && !cut) continue;
#pragma unroll 1
        for (int v = 0; v < V; ++v) {
          if (pair.valid && of_b.holds(x + v)) continue;
#pragma unroll 1
          for (int c = 0; c < channels; ++c) {
            first[c * plane + v] = pair.valid ? converted<Out>(in_a[c * p.a.strides[1] + v])
                                              : from_float<Out>(NAN);
          }
        }
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------
// composite_lr

// For so few pairs that work per source does not pay: a block computes a band of rows of one plane.
template <typename In, typename Out>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks)
    composite_lr_fwd_kernel(const CompositeLrParams p, const TileShape shape) {
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
    const HrPlane<In> image = {plane_of<In>(q.a, pair.a, c), plane_of<In>(q.b, pair.b, c),
                               q.a.strides[2], q.a.strides[3], q.b.strides[2], q.b.strides[3],
                               box_of(q.inner, n), box_of(q.outer, n)};
    for (int left = 0; left < lr_width; left += shape.side()) {
      downsample_tile(image, p, shape, top, left, [=](int i, int j, float value) {
        out[static_cast<std::int64_t>(i) * lr_width + j] = finished<Out>(value, quantize);
      });
    }
  }
}

// ---------------------------------------------------------------------------------------------
// mosaic

// fastbg.Transform
enum Transform : int {
  kIdentity, kFlipHorizontal, kFlipVertical, kRotate90, kRotate180, kRotate270, kZoom2, kZoom4,
  kTransforms
};

// Where the pixels of one row of a transformed tile come from: a row of it, or a column, walked forwards
// or backwards, each pixel once or 2 or 4 times.
struct Walk {
  int first, direction, zoom, last;  // pixel v is number min((first + direction * v) >> zoom, last)
  std::int64_t start, step;          // of number 0, and from one to the next

  // Of pixel (y, x) of a tile under transform `code`.
  __device__ Walk(const TensorView& tiles, int code, int y, int x) {
    const int height = static_cast<int>(tiles.sizes[2]), width = static_cast<int>(tiles.sizes[3]);
    const bool turned = code == kRotate90 || code == kRotate270;
    const bool back = code == kFlipHorizontal || code == kRotate180 || code == kRotate270;
    const bool up = code == kFlipVertical || code == kRotate180 || code == kRotate90;
    zoom = code == kZoom2 ? 1 : code == kZoom4 ? 2 : 0;
    const int more = (1 << zoom) - 1;
    first = back ? width - 1 - x : x + width * more / 2;
    direction = back ? -1 : 1;
    // min: fastbg.ops refuses quarter turns of tiles that are not square.
    last = (turned ? height : width) - 1;
    const int across = min(up ? height - 1 - y : (y + height * more / 2) >> zoom,
                           (turned ? width : height) - 1);
    start = across * tiles.strides[turned ? 3 : 2];
    step = tiles.strides[turned ? 2 : 3];
  }

  __device__ std::int64_t offset(int v) const {
    return start + min((first + direction * v) >> zoom, last) * step;
  }
};

// blockIdx.x counts packs of an image, blockIdx.y images; a thread has a pack in all channels.
template <typename T, int V>
__global__ void __launch_bounds__(kThreads, kBlocks) mosaic_fwd_kernel(const MosaicParams p) {
  const std::int64_t channels = p.out.sizes[1];
  const int height = static_cast<int>(p.out.sizes[2]), width = static_cast<int>(p.out.sizes[3]);
  const int tile_height = static_cast<int>(p.tiles.sizes[2]);
  const int tile_width = static_cast<int>(p.tiles.sizes[3]), packs = width / V;
  const std::int64_t plane = static_cast<std::int64_t>(height) * width, places = plane / V;

  for (std::int64_t n = blockIdx.y; n < p.out.sizes[0]; n += gridDim.y) {
    const int* const cells = static_cast<const int*>(p.cells.data) + n * p.cells.strides[0];
    for (std::int64_t place = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
         place < places; place += static_cast<std::int64_t>(gridDim.x) * blockDim.x) {
      const int y = static_cast<int>(place / packs);
      const int x = static_cast<int>(place - static_cast<std::int64_t>(y) * packs) * V;
      const int cell_y = y / tile_height, cell_x = x / tile_width;
      const int code = cells[cell_y * p.cells.strides[1] + cell_x * p.cells.strides[2]];
      const bool exists = code >= 0 && code < kTransforms;
      const Walk walk(p.tiles, code, y - cell_y * tile_height, x - cell_x * tile_width);
      const T* tile = plane_of<T>(p.tiles, n, 0);
      const T* from[V];
#pragma unroll
      for (int v = 0; v < V; ++v) from[v] = tile + walk.offset(v);
      T* to = static_cast<T*>(p.out.data) + n * channels * plane + place * V;
#pragma unroll 1
      for (int c = 0; c < static_cast<int>(channels); ++c, to += plane) {
        Pack<T, V> pack = nan_pack<T, V>();
#pragma unroll
        for (int v = 0; v < V; ++v) {
          if (exists) pack.at[v] = *from[v];
          from[v] += p.tiles.strides[1];
        }
        store(to, pack);
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------
// Launch shapes

bool sides_fit(const TensorView& images) {
  return images.sizes[2] <= kMaxSide && images.sizes[3] <= kMaxSide;
}

struct Launch {
  dim3 grid, block;
};

// threadIdx.x over the packs of a row (at most a warp), threadIdx.y over rows, blockIdx.y planes.
Launch over_lines(std::int64_t rows, std::int64_t width, int pack, std::int64_t planes) {
  const std::int64_t packs = ceil_div<std::int64_t>(width, pack);
  unsigned columns = 1;
  while (columns < 32 && columns < packs) columns *= 2;
  const unsigned lines = kThreads / columns;
  return {dim3(grid_size(ceil_div<std::int64_t>(rows, lines)), grid_size(planes)),
          dim3(columns, lines)};
}

// As over_lines, but blockIdx.y counts images, and with many images a thread has up to 8 rows.
Launch over_images(const TensorView& out, int pack) {
  constexpr std::int64_t kFill = 4096, kRows = 8;
  Launch launch = over_lines(out.sizes[2], out.sizes[3], pack, out.sizes[0]);
  const std::int64_t rows = ceil_div<std::int64_t>(out.sizes[2], launch.block.y);
  const std::int64_t wanted = ceil_div(kFill, std::max<std::int64_t>(out.sizes[0], 1));
  const std::int64_t blocks = std::clamp(wanted, ceil_div(rows, kRows), rows);
  launch.grid.x = grid_size(blocks);
  return launch;
}

// Fills `scratch`; with one box for all pairs, with the parts that its composites take, else finished.
template <typename In, typename Out>
void run_sources(const CompositeLrParams& p, const CompositeLrScratch& scratch, bool parts,
                 cudaStream_t stream) {
  const CompositeParams& q = p.composite;
  const TensorView &rows = scratch.rows, &small = scratch.small;
  const std::int64_t planes = rows.sizes[0] * rows.sizes[1];
  const std::int64_t items = rows.sizes[0] * ceil_div<std::int64_t>(rows.sizes[1], kTogether);
  const bool packs = packable(q.a, kRowPack, sizeof(In)) && packable(q.b, kRowPack, sizeof(In)) &&
                     packable(rows, kRowPack, sizeof(float));
  Launch launch = over_lines(rows.sizes[2], rows.sizes[3], packs ? kRowPack : 1, items);
  launch.grid.x = std::max(launch.grid.x / 2, 1u);  // two rows of a thread
  if (packs && parts) {
    FASTBG_LAUNCH((composite_lr_rows_kernel<In, kRowPack, true>), launch.grid, launch.block, 0,
                  stream, p, rows);
  } else if (packs) {
    FASTBG_LAUNCH((composite_lr_rows_kernel<In, kRowPack, false>), launch.grid, launch.block, 0,
                  stream, p, rows);
  } else if (parts) {
    FASTBG_LAUNCH((composite_lr_rows_kernel<In, 1, true>), launch.grid, launch.block, 0, stream, p,
                  rows);
  } else {
    FASTBG_LAUNCH((composite_lr_rows_kernel<In, 1, false>), launch.grid, launch.block, 0, stream, p,
                  rows);
  }
  launch = over_lines(ceil_div<std::int64_t>(planes * small.sizes[2], kLines), small.sizes[3], 1, 1);
  if (parts) {
    FASTBG_LAUNCH((composite_lr_columns_kernel<float, false>), launch.grid, launch.block, 0, stream, p,
                  rows, small);
  } else {
    FASTBG_LAUNCH((composite_lr_columns_kernel<Out, true>), launch.grid, launch.block, 0, stream, p,
                  rows, small);
  }
}

// Each pair on its own.
template <typename In, typename Out>
cudaError_t run_directly(const CompositeLrParams& p, cudaStream_t stream) {
  const CompositeParams& q = p.composite;
  TileShape shape;
  if (!tile_shape_for(p, shape)) return cudaErrorInvalidValue;
  const std::int64_t bands = ceil_div<std::int64_t>(q.out.sizes[2], shape.side());
  FASTBG_LAUNCH((composite_lr_fwd_kernel<In, Out>),
                dim3(grid_size(q.out.sizes[0] * q.out.sizes[1] * bands)), dim3(kTileThreads),
                shape.shared_bytes(), stream, p, shape);
  return cudaGetLastError();
}

// How far pairs that share their image of b lie apart, where each image of a meets all of b; else 1.
std::int64_t apart_of(const CompositeParams& q) {
  return q.out.sizes[0] == q.a.sizes[0] * q.b.sizes[0] ? q.b.sizes[0] : 1;
}

template <typename In, typename Out, int V>
cudaError_t run_one_box(const CompositeLrParams& p, const CompositeLrScratch& scratch, int scale,
                        cudaStream_t stream) {
  const CompositeParams& q = p.composite;
  const std::int64_t apart = apart_of(q), places = q.out.sizes[2] * (q.out.sizes[3] / V) *
                                                   ceil_div<std::int64_t>(q.out.sizes[1], kTogether);
  const dim3 grid(grid_size(ceil_div<std::int64_t>(places, kLrThreads)),
                  grid_size(ceil_div<std::int64_t>(q.out.sizes[0], apart * kSumPairs) * apart));
  run_sources<In, Out>(p, scratch, true, stream);
  FASTBG_LAUNCH((composite_lr_sum_kernel<Out, V>), grid, dim3(kLrThreads), 0, stream, p,
                scratch.small, scale, apart);
  return cudaGetLastError();
}

template <typename In, typename Out, int V, int Scale>
cudaError_t run_boxes(const CompositeLrParams& p, const CompositeLrScratch& scratch,
                      const TensorView& column_band, int scale, cudaStream_t stream) {
  const CompositeParams& q = p.composite;
  const auto kernel = composite_lr_boxes_kernel<In, Out, V, Scale>;
  const std::int64_t planes = q.out.sizes[0] * q.out.sizes[1];
  cudaFuncAttributes limits;
  cudaError_t error = cudaFuncGetAttributes(&limits, kernel);
  if (error != cudaSuccess) return error;
  BoxShape shape;
  if (!box_shape_for(scale, Scale > 0, q.out.sizes[3] / V, planes, limits.maxThreadsPerBlock / 32, shape)) {
    return run_directly<In, Out>(p, stream);
  }
  const std::size_t shared = static_cast<std::size_t>(shape.warps) * shape.warp_bytes();
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared));
  if (error != cudaSuccess) return error;
  run_sources<In, Out>(p, scratch, false, stream);
  // All at once: a grid's x axis holds 2^31 blocks.
  const std::int64_t blocks = ceil_div<std::int64_t>(planes, shape.warps * shape.planes);
  FASTBG_LAUNCH((composite_lr_boxes_kernel<In, Out, V, Scale>), dim3(static_cast<unsigned>(blocks)),
                dim3(32 * shape.warps), shared, stream, p, scratch, column_band, shape,
                static_cast<int>(apart_of(q)));
  return cudaGetLastError();
}

// Planes of the output or, if there are more, of the sources.
std::int64_t planes_of(const CompositeParams& q) {
  return std::max(q.out.sizes[0], q.a.sizes[0] + q.b.sizes[0]) * q.out.sizes[1];
}

bool fits(const CompositeLrScratch& scratch, const CompositeParams& q) {
  const std::int64_t sources = q.a.sizes[0] + q.b.sizes[0];
  for (const TensorView* view : {&scratch.rows, &scratch.small}) {
    const std::int64_t columns = (view == &scratch.rows ? q.a : q.out).sizes[3];
    if (!contiguous(*view) || view->dtype != DType::float32 || view->sizes[0] != sources ||
        view->sizes[1] != q.out.sizes[1] || view->sizes[2] != q.out.sizes[2] ||
        view->sizes[3] != columns) {
      return false;
    }
  }
  return true;
}

bool fits(const TensorView& column_band, const CompositeLrParams& p) {
  const CompositeParams& q = p.composite;
  return contiguous(column_band) && column_band.dtype == DType::float32 &&
         column_band.sizes[0] == q.out.sizes[3] &&
         column_band.sizes[1] == 4 * (q.a.sizes[2] / q.out.sizes[2]);
}

}  // namespace

cudaError_t launch_composite(const CompositeParams& p, cudaStream_t stream) {
  if (!contiguous(p.out) || !sides_fit(p.out)) return cudaErrorInvalidValue;
  if (element_count(p.out) == 0) return cudaSuccess;
  return with_types(p.a.dtype, [&](auto in, auto out) {
    using In = typename decltype(in)::type;
    using Out = typename decltype(out)::type;
    constexpr int pack = kPackOf<Out>;
    if (packable(p.a, pack, sizeof(In)) && packable(p.b, pack, sizeof(In)) &&
        packable(p.out, pack, sizeof(Out))) {
      const Launch launch = over_images(p.out, pack);
      FASTBG_LAUNCH((composite_fwd_kernel<In, Out, pack>), launch.grid, launch.block, 0, stream, p);
    } else {
      const Launch launch = over_images(p.out, 1);
      FASTBG_LAUNCH((composite_fwd_kernel<In, Out, 1>), launch.grid, launch.block, 0, stream, p);
    }
    return cudaGetLastError();
  });
}

cudaError_t launch_composite_lr(const CompositeLrParams& p, const CompositeLrScratch& scratch,
                                const TensorView& column_band, cudaStream_t stream) {
  const CompositeParams& q = p.composite;
  if (!contiguous(q.out) || !sides_fit(q.a)) return cudaErrorInvalidValue;
  if (element_count(q.out) == 0) return cudaSuccess;
  if (scratch.small.data && !(fits(scratch, q) && fits(column_band, p))) return cudaErrorInvalidValue;
  const int scale = static_cast<int>(q.a.sizes[2] / q.out.sizes[2]);
  return with_types(q.a.dtype, [&](auto in, auto out) {
    using In = typename decltype(in)::type;
    using Out = typename decltype(out)::type;
    constexpr int pack = kPackOf<Out>;
    const bool packs = packable(q.out, pack, sizeof(Out));
    if (!scratch.small.data) return run_directly<In, Out>(p, stream);
    if (q.inner.rank == 1 && q.outer.rank == 1) {
      return packs ? run_one_box<In, Out, pack>(p, scratch, scale, stream)
                   : run_one_box<In, Out, 1>(p, scratch, scale, stream);
    }
    const bool dense = q.a.strides[3] == 1 && q.b.strides[3] == 1;
    const bool fixed = packs && dense && scale == 4 && q.out.sizes[2] >= kTileRows &&
                       p.row_index.sizes[1] == 16 && p.column_index.sizes[1] == 16;
    if (planes_of(q) > kMostPlanes) return run_directly<In, Out>(p, stream);
    return fixed   ? run_boxes<In, Out, pack, 4>(p, scratch, column_band, scale, stream)
           : packs ? run_boxes<In, Out, pack, 0>(p, scratch, column_band, scale, stream)
                   : run_boxes<In, Out, 1, 0>(p, scratch, column_band, scale, stream);
  });
}

cudaError_t launch_mosaic(const MosaicParams& p, cudaStream_t stream) {
  if (!contiguous(p.out) || !sides_fit(p.out)) return cudaErrorInvalidValue;
  if (element_count(p.out) == 0) return cudaSuccess;
  if (p.tiles.dtype == DType::uint8) return cudaErrorInvalidValue;
  return with_types(p.tiles.dtype, [&](auto, auto out) {
    using T = typename decltype(out)::type;
    constexpr int pack = kPackOf<T>;
    const bool packs = p.tiles.sizes[3] % pack == 0 && packable(p.out, pack, sizeof(T));
    const std::int64_t places = p.out.sizes[2] * p.out.sizes[3] / (packs ? pack : 1);
    const dim3 grid(grid_size(ceil_div<std::int64_t>(places, kThreads)), grid_size(p.out.sizes[0]));
    if (packs) {
      FASTBG_LAUNCH((mosaic_fwd_kernel<T, pack>), grid, dim3(kThreads), 0, stream, p);
    } else {
      FASTBG_LAUNCH((mosaic_fwd_kernel<T, 1>), grid, dim3(kThreads), 0, stream, p);
    }
    return cudaGetLastError();
  });
}

cudaError_t can_launch() {
  cudaFuncAttributes unused;
  const cudaError_t error = cudaFuncGetAttributes(&unused, mosaic_fwd_kernel<float, 1>);
  cudaGetLastError();  // clears the error
  return error;
}

}  // namespace fastbg
