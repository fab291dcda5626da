// Kernels that try the emulation itself, some broken on purpose; tests/test_emulation.py.
#include <exception>
#include <string>

#include "cuda/async_copy.cuh"
#include "cuda/element.cuh"
#include "cuda/launch.cuh"
#include "cuda/mma.cuh"

namespace fastbg {
namespace {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// out[block] = sum of the block's inputs, by a tree in shared memory.
__global__ void tree_sum(const float* in, float* out) {
  FASTBG_DYNAMIC_SHARED(float, tile);
  const unsigned i = threadIdx.x;
  tile[i] = in[blockIdx.x * blockDim.x + i];
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (i < half) tile[i] += tile[i + half];
    __syncthreads();
  }
  if (i == 0) out[blockIdx.x] = tile[0];
}

// The same by shuffles and static shared memory.
__global__ void shuffle_sum(const float* in, float* out) {
  __shared__ float of_warp[32];
  const unsigned i = threadIdx.x;
  float sum = in[blockIdx.x * blockDim.x + i];
  for (int delta = 16; delta > 0; delta /= 2) sum += __shfl_down_sync(kAllLanes, sum, delta);
  if (i % 32 == 0) of_warp[i / 32] = sum;
  __syncthreads();
  if (i < 32) {
    sum = i < blockDim.x / 32 ? of_warp[i] : 0.0f;
    for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
    if (i == 0) out[blockIdx.x] = sum;
  }
}

// out[i] = in of the neighbour on the left in a group of 8, plus 100 * positive inputs of the warp
// + 10000 * positive inputs of the block.
__global__ void votes(const float* in, float* out) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  const float left = __shfl_up_sync(kAllLanes, in[i], 1, 8);
  const unsigned ballot = __ballot_sync(kAllLanes, in[i] > 0);
  out[i] = left + 100.0f * __popc(ballot) + 10000.0f * __syncthreads_count(in[i] > 0);
}

// Each lane of the upper half-warp takes part in its own operation.
__global__ void half_warps(const float* in, float* out) {
  const unsigned i = threadIdx.x;
  if (i % 32 < 16) {
    out[i] = __shfl_sync(0x0000FFFFu, in[i], 3);
  } else {
    out[i] = __shfl_sync(0xFFFF0000u, in[i], 20);
  }
}

__global__ void atomic_sum(const float* in, float* out) {
  atomicAdd(out, in[blockIdx.x * blockDim.x + threadIdx.x]);
}

// Legal since compute capability 7.0: barriers wait for the threads that are left.
__global__ void early_exit(const float* in, float* out) {
  FASTBG_DYNAMIC_SHARED(float, tile);
  const unsigned i = threadIdx.x;
  if (i % 2) return;
  tile[i] = in[i];
  __syncthreads();
  out[i] = tile[(i + 2) % blockDim.x];
}

__global__ void to_half_and_back(const float* in, float* out) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = to_float(from_float<__half>(in[i]));
}

__global__ void to_bfloat16_and_back(const float* in, float* out) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = to_float(from_float<__nv_bfloat16>(in[i]));
}

__global__ void grey_levels(const float* in, float* out) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = grey_level(in[i]);
}

__global__ void to_tf32(const float* in, float* out) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = __uint_as_float(round_to_tf32(in[i]));
}

__global__ void to_parts_and_back(const float* in, float* out) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  const Parts parts = parts_of(in[i]);
  out[i] = __uint_as_float(parts.high & 0xFFFFE000u) + __uint_as_float(parts.low & 0xFFFFE000u);
}

// out (16x8) += A (16xK) B (Kx8) by one warp; `in` is A, then B, both row-major.
__global__ void tf32_product(const float* in, float* out) {
  const int g = static_cast<int>(threadIdx.x) / 4, t = static_cast<int>(threadIdx.x) % 4;
  const float* b = in + 16 * 8;
  unsigned left[4], right[2];
  for (int i = 0; i < 4; ++i) left[i] = __float_as_uint(in[(g + i % 2 * 8) * 8 + t + i / 2 * 4]);
  for (int i = 0; i < 2; ++i) right[i] = __float_as_uint(b[(t + i * 4) * 8 + g]);
  float sum[4];
  for (int i = 0; i < 4; ++i) sum[i] = out[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  mma_tf32(sum, left, right);
  for (int i = 0; i < 4; ++i) out[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[i];
}

template <typename T>
__global__ void half_product(const float* in, float* out) {
  const int g = static_cast<int>(threadIdx.x) / 4, t = static_cast<int>(threadIdx.x) % 4;
  const float* b = in + 16 * 16;
  T left[8], right[4];
  for (int i = 0; i < 8; ++i) {
    left[i] = from_float<T>(in[(g + i / 2 % 2 * 8) * 16 + 2 * t + i % 2 + i / 4 * 8]);
  }
  for (int i = 0; i < 4; ++i) right[i] = from_float<T>(b[(2 * t + i % 2 + i / 2 * 8) * 8 + g]);
  unsigned packed_left[4], packed_right[2];
  memcpy(packed_left, left, sizeof(left));
  memcpy(packed_right, right, sizeof(right));
  float sum[4];
  for (int i = 0; i < 4; ++i) sum[i] = out[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
  mma_half<T>(sum, packed_left, packed_right);
  for (int i = 0; i < 4; ++i) out[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[i];
}

// A thread copies 16 bytes, and reads them before it waits, then after it has waited for all of its groups
// but the last `Left`. Its copies are those of its first 12 bytes, and of all.
template <int Left>
__device__ void copies(const float* in, float* out) {
  FASTBG_DYNAMIC_SHARED(uint4, tile);
  const unsigned i = threadIdx.x;
  const float* const own = reinterpret_cast<const float*>(tile + i);
  tile[i] = uint4{0, 0, 0, 0};
  copy_async(tile + i, in + 4 * i, 12);
  commit_copies();
  copy_async(tile + i, in + 4 * i, 16);
  commit_copies();
  out[i] = own[0];
  wait_for_copies<Left>();
  for (int j = 0; j < 4; ++j) out[(j + 1) * blockDim.x + i] = own[j];
  if (Left == 1) wait_for_copies<0>();
}

__global__ void all_copies(const float* in, float* out) { copies<0>(in, out); }
__global__ void first_copies(const float* in, float* out) { copies<1>(in, out); }

// 8 bytes of which one float exists, 4 bytes, and 4 that do not exist.
__global__ void narrow_copies(const float* in, float* out) {
  FASTBG_DYNAMIC_SHARED(uint4, tile);
  const unsigned i = threadIdx.x;
  float* const own = reinterpret_cast<float*>(tile + i);
  for (int j = 0; j < 4; ++j) own[j] = -1;
  copy_async(reinterpret_cast<uint2*>(own), in + 4 * i, 4);
  copy_async(reinterpret_cast<unsigned*>(own + 2), in + 4 * i + 3, 4);
  copy_async(reinterpret_cast<unsigned*>(own + 3), in + 4 * i + 3, 0);
  commit_copies();
  wait_for_copies<0>();
  for (int j = 0; j < 4; ++j) out[j * blockDim.x + i] = own[j];
}

__global__ void no_work(const float*, float*) {}

// ---- broken ----

__global__ void copies_without_waiting(const float* in, float* out) { copies<2>(in, out); }

__global__ void misaligned_copy(const float* in, float* out) {
  FASTBG_DYNAMIC_SHARED(uint4, tile);
  copy_async(tile + threadIdx.x, in + 1, 4);
  commit_copies();
  wait_for_copies<0>();
  out[threadIdx.x] = 0;
}

__global__ void divergent_barrier(const float* in, float* out) {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = in[threadIdx.x];
}

__global__ void barrier_against_warp(const float* in, float* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else if (threadIdx.x % 2) {
    __syncwarp();
  } else {
    __syncwarp();  // of the same lanes, at another place
  }
  out[threadIdx.x] = in[threadIdx.x];
}

__global__ void missing_lane(const float* in, float* out) {
  if (threadIdx.x == 5) return;
  out[threadIdx.x] = __shfl_sync(kAllLanes, in[threadIdx.x], 0);
}

__global__ void product_misses_a_lane(const float*, float* out) {
  if (threadIdx.x == 5) return;
  float sum[4] = {};
  mma_tf32(sum, {0, 0, 0, 0}, {0, 0});
  out[threadIdx.x] = sum[0];
}

__global__ void outside_mask(const float* in, float* out) {
  out[threadIdx.x] = __shfl_sync(0x0000FFFFu, in[threadIdx.x], 0);
}

__global__ void uninitialised(const float*, float* out) {
  FASTBG_DYNAMIC_SHARED(float, tile);
  out[threadIdx.x] = tile[threadIdx.x];
}

__global__ void beyond_shared(const float* in, float* out) {
  FASTBG_DYNAMIC_SHARED(float, tile);
  tile[threadIdx.x + 1] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x + 1];
}

__global__ void beyond_input(const float* in, float* out) {
  out[threadIdx.x] = in[threadIdx.x + 1];
}

__global__ void misaligned(const float* in, float* out) {
  store(out, load<float, 4>(in + 1));
}

__global__ void race(const float* in, float* out) {
  FASTBG_DYNAMIC_SHARED(float, tile);
  const unsigned i = threadIdx.x;
  tile[i] = in[i];
  out[i] = tile[(i + 1) % blockDim.x];  // no barrier
}

__global__ void race_after_barrier(const float* in, float* out) {
  FASTBG_DYNAMIC_SHARED(float, tile);
  const unsigned i = threadIdx.x;
  tile[i] = in[i];
  __syncthreads();
  tile[i] += tile[(i + 1) % blockDim.x];  // reads what the neighbour writes
  __syncthreads();
  out[i] = tile[i];
}

// How many neighbours came first: one, forward and backward alike; other orders show the race.
__global__ void race_between_neighbours(const float* in, float* out) {
  FASTBG_DYNAMIC_SHARED(float, tile);
  const unsigned i = threadIdx.x, last = blockDim.x - 1;
  tile[i] = 0.0f;
  __syncthreads();
  tile[i] = in[i];
  out[i] = i == 0 || i == last ? 0.0f : tile[i - 1] + tile[i + 1];
}

using Kernel = void (*)(const float*, float*);

struct Named {
  const char* name;
  Kernel kernel;
};

constexpr Named kKernels[] = {
    {"tree_sum", tree_sum},
    {"shuffle_sum", shuffle_sum},
    {"votes", votes},
    {"half_warps", half_warps},
    {"atomic_sum", atomic_sum},
    {"early_exit", early_exit},
    {"to_half_and_back", to_half_and_back},
    {"to_bfloat16_and_back", to_bfloat16_and_back},
    {"grey_levels", grey_levels},
    {"to_tf32", to_tf32},
    {"to_parts_and_back", to_parts_and_back},
    {"tf32_product", tf32_product},
    {"fp16_product", half_product<__half>},
    {"bf16_product", half_product<__nv_bfloat16>},
    {"all_copies", all_copies},
    {"first_copies", first_copies},
    {"narrow_copies", narrow_copies},
    {"copies_without_waiting", copies_without_waiting},
    {"misaligned_copy", misaligned_copy},
    {"no_work", no_work},
    {"divergent_barrier", divergent_barrier},
    {"barrier_against_warp", barrier_against_warp},
    {"missing_lane", missing_lane},
    {"product_misses_a_lane", product_misses_a_lane},
    {"outside_mask", outside_mask},
    {"uninitialised", uninitialised},
    {"beyond_shared", beyond_shared},
    {"beyond_input", beyond_input},
    {"misaligned", misaligned},
    {"race", race},
    {"race_after_barrier", race_after_barrier},
    {"race_between_neighbours", race_between_neighbours},
};

}  // namespace
}  // namespace fastbg

#define FASTBG_EXPORT extern "C" __attribute__((visibility("default")))

// What went wrong, or null. The words live until the next call.
FASTBG_EXPORT const char* run_kernel(const char* name, unsigned blocks, unsigned threads,
                                     std::size_t shared_bytes, const float* in, float* out) {
  static std::string message;
  for (const fastbg::Named& named : fastbg::kKernels) {
    if (std::string(name) != named.name) continue;
    try {
      FASTBG_LAUNCH(named.kernel, dim3(blocks), dim3(threads), shared_bytes, nullptr, in, out);
    } catch (const std::exception& error) {
      message = error.what();
      return message.c_str();
    }
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? nullptr : cudaGetErrorName(error);
  }
  return "no kernel has that name";
}

FASTBG_EXPORT void set_backward(bool backward) { fastbg::emulation::set_backward(backward); }
