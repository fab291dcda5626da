// Runs kernels on the CPU, one thread block after another, each thread of a block a fiber.
//
// What is checked while they run: barriers that not all threads of the block reach, or reach at
// different places; warp operations with threads missing, or at different places; copies that a
// thread does not wait for; launches that a device would refuse. Dynamic shared memory is filled with NaNs before every block.
// AddressSanitizer, UBSan and ThreadSanitizer (races between the threads of a block) understand
// the fibers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// The running thread's coordinates.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace fastbg::emulation {

// Where a thread waits; compared to find threads that wait at different places.
struct Site {
  const char* operation;
  const char* file;
  int line;
};

constexpr std::size_t kDefaultSharedLimit = 48 * 1024;
constexpr std::size_t kLargestSharedLimit = 99 * 1024;  // sm_120, the least of our targets

// Runs `body` as every thread of every block; throws std::runtime_error on a broken rule.
// A configuration that a device refuses is remembered for last_error instead.
void launch(const char* kernel, const void* address, dim3 grid, dim3 block,
            std::size_t shared_bytes, const std::function<void()>& body);

// cudaError_t of the last refused launch, and forgets it.
int last_error(bool forget);

// cudaFuncSetAttribute(cudaFuncAttributeMaxDynamicSharedMemorySize)
bool allow_shared(const void* kernel, std::size_t bytes);

// Order in which the threads of a block take turns: forward, or backward. Code without races gives
// the same result in both, and under FASTBG_EMULATION_SEED=1, 2, ..: blocks in random order, and
// between barriers the threads of a block, too.
void set_backward(bool backward);

// For the headers of include/.
void* dynamic_shared();
void block_barrier(Site site);
int block_sum(int value, Site site);  // of all threads that have not exited
int lane();
// Waits for the lanes of `mask`; returns the value of each lane.
const std::uint64_t* warp_exchange(unsigned mask, std::uint64_t offered, Site site);
// Waits for the whole warp; then `together` is called once with the values of all lanes, which it may
// change, before any lane continues.
void warp_together(void* offered, void (*together)(void* const* offered), Site site);
// A copy that a thread has started, and has to wait for before it exits.
struct Copy {
  void* to;
  const void* from;
  int size;   // 16, 8 or 4 bytes
  int bytes;  // of `size`; the others become zero
  Site site;
};
void copy_later(const Copy& copy);
void commit_copies();                             // a group: those since the last commit
std::vector<Copy> take_copies(std::size_t left);  // of all groups but for the last `left`
[[noreturn]] void fail(const char* what, Site site);

}  // namespace fastbg::emulation
