#include "runtime.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace fastbg::emulation {
namespace {

constexpr unsigned kMaxThreads = 1024;
constexpr int kInvalidConfiguration = 9;  // cudaErrorInvalidConfiguration

enum class State { ready, at_block_barrier, at_warp_barrier, exited };

struct Thread {
  Fiber fiber;
  State state = State::exited;
  uint3 index{};
  unsigned number = 0;  // in the block
  Site site{};          // where it waits
  unsigned mask = 0;    // lanes that it waits for
  int vote = 0;
  std::uint64_t offered = 0;
  std::array<std::uint64_t, warpSize> received{};
  void* part = nullptr;  // of what the warp does together
  void (*together)(void* const*) = nullptr;
  std::deque<std::vector<Copy>> copies;  // groups; the last one is not committed yet
  std::exception_ptr failure;
};

bool same_place(const Site& first, const Site& second) {
  return first.line == second.line && !std::strcmp(first.file, second.file) &&
         !std::strcmp(first.operation, second.operation);
}

std::string text(const Site& site) {
  const char* name = std::strrchr(site.file, '/');
  std::ostringstream out;
  out << site.operation << " at " << (name ? name + 1 : site.file) << ":" << site.line;
  return out.str();
}

std::string text(const Thread& thread) {
  std::ostringstream out;
  out << "thread (" << thread.index.x << "," << thread.index.y << "," << thread.index.z << ")";
  if (thread.state == State::exited) {
    out << " has exited";
  } else {
    out << " waits in " << text(thread.site);
    if (thread.state == State::at_warp_barrier) out << std::hex << " with mask 0x" << thread.mask;
  }
  return out.str();
}

// Everything of one launch at a time.
class Machine {
 public:
  void launch(const char* kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
              const std::function<void()>& body);

  Thread& current() { return *current_; }
  void wait(State state, Site site) {
    current_->state = state;
    current_->site = site;
    current_->fiber.leave(false);
  }
  void* shared() { return shared_; }
  int sum() const { return sum_; }
  void set_backward(bool backward) { backward_ = backward; }

 private:
  void run_block();
  void run_ready();
  void choose_order();
  std::vector<unsigned> order(unsigned count);
  bool open_warp_barriers();
  void open_block_barrier();
  void open(const std::vector<Thread*>& waiting, void* barrier);
  [[noreturn]] void stuck(const std::string& why, const Thread& first, const Thread& second) const;
  static void thread_entry();

  std::vector<std::unique_ptr<Thread>> threads_;  // kept, with their stacks, for the next block
  unsigned count_ = 0;                            // threads of this block
  Thread* current_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  void* shared_ = nullptr;
  int sum_ = 0;
  bool backward_ = false;
  std::optional<std::mt19937> random_;            // seeded by the environment
  char started_ = 0, finished_ = 0;  // addresses that ThreadSanitizer knows orders by
};

Machine machine;
std::mutex one_launch;
std::map<const void*, std::size_t> shared_limits;
unsigned long long launches = 0;  // that were not refused
int refused = 0;

void Machine::thread_entry() {
  try {
    (*machine.body_)();
    for (const auto& group : machine.current_->copies) {
      if (!group.empty()) fail("a thread exits without having waited for its copies", group[0].site);
    }
  } catch (...) {
    machine.current_->failure = std::current_exception();
  }
  machine.current_->state = State::exited;
}

void Machine::launch(const char* kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
                     const std::function<void()>& body) {
  count_ = block.x * block.y * block.z;
  while (threads_.size() < count_) threads_.push_back(std::make_unique<Thread>());
  for (unsigned i = 0; i < count_; ++i) {
    Thread& thread = *threads_[i];
    thread.number = i;
    thread.index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
  }
  const auto free_memory = [](void* memory) { std::free(memory); };
  // Exactly as large as asked for, so that AddressSanitizer sees every access beyond.
  const std::unique_ptr<void, decltype(free_memory)> memory(
      shared_bytes ? std::malloc(shared_bytes) : nullptr, free_memory);
  shared_ = memory.get();
  body_ = &body;
  blockDim = block;
  gridDim = grid;
  choose_order();
  for (const unsigned number : order(grid.x * grid.y * grid.z)) {
    blockIdx = {number % grid.x, number / grid.x % grid.y, number / (grid.x * grid.y)};
    if (shared_) std::memset(shared_, 0xFF, shared_bytes);  // NaNs, as float, half and double
    try {
      run_block();
    } catch (const std::exception& error) {
      std::ostringstream out;
      out << kernel << ", block (" << blockIdx.x << "," << blockIdx.y << "," << blockIdx.z
          << "): " << error.what();
      throw std::runtime_error(out.str());
    }
  }
}

void Machine::choose_order() {
  const char* seed = std::getenv("FASTBG_EMULATION_SEED");
  random_.reset();
  if (seed && *seed) random_.emplace(static_cast<unsigned>(std::strtoul(seed, nullptr, 10)));
}

// 0 .. count-1 as they take turns.
std::vector<unsigned> Machine::order(unsigned count) {
  std::vector<unsigned> numbers(count);
  std::iota(numbers.begin(), numbers.end(), 0u);
  if (random_) std::shuffle(numbers.begin(), numbers.end(), *random_);
  return numbers;
}

void Machine::run_block() {
  release(&started_);
  for (unsigned i = 0; i < count_; ++i) {
    threads_[i]->state = State::ready;
    threads_[i]->failure = nullptr;
    threads_[i]->copies.assign(1, {});
    threads_[i]->fiber.start(&Machine::thread_entry);
    threads_[i]->fiber.acquire(&started_);
  }
  while (true) {
    run_ready();
    if (open_warp_barriers()) continue;
    const bool all_exited = std::all_of(threads_.begin(), threads_.begin() + count_, [](auto& t) {
      return t->state == State::exited;
    });
    if (all_exited) break;
    open_block_barrier();
  }
  for (unsigned i = 0; i < count_; ++i) threads_[i]->fiber.release(&finished_);
  acquire(&finished_);
}

void Machine::run_ready() {
  for (const unsigned i : order(count_)) {
    Thread& thread = *threads_[backward_ ? count_ - 1 - i : i];
    if (thread.state != State::ready) continue;
    current_ = &thread;
    threadIdx = thread.index;
    thread.fiber.resume();
    if (thread.failure) std::rethrow_exception(thread.failure);
  }
}

// Opens each warp barrier that all lanes of its mask have reached.
bool Machine::open_warp_barriers() {
  bool opened = false;
  for (unsigned i = 0; i < count_; ++i) {
    const Thread& first = *threads_[i];
    if (first.state != State::at_warp_barrier) continue;
    const unsigned warp = i / warpSize * warpSize;
    std::array<std::uint64_t, warpSize> offers{};
    std::vector<Thread*> lanes;
    bool complete = true;
    for (unsigned lane = 0; lane < warpSize; ++lane) {
      if (!(first.mask >> lane & 1u)) continue;
      if (warp + lane >= count_) {
        throw std::runtime_error("a mask names a lane beyond the block: " + text(first));
      }
      Thread& other = *threads_[warp + lane];
      if (other.state == State::exited) stuck("a warp operation misses a lane", first, other);
      // A lane that waits elsewhere may still come; open_block_barrier() tells if nobody can run.
      complete = complete && other.state == State::at_warp_barrier && other.mask == first.mask &&
                 same_place(other.site, first.site);
      offers[lane] = other.offered;
      lanes.push_back(&other);
    }
    if (!complete) continue;
    if (first.together) {
      std::array<void*, warpSize> parts{};
      for (unsigned lane = 0; lane < warpSize; ++lane) parts[lane] = lanes[lane]->part;
      first.together(parts.data());
    } else {
      for (Thread* lane : lanes) lane->received = offers;
    }
    open(lanes, threads_[warp].get());
    opened = true;
  }
  return opened;
}

// Nobody can run: all that have not exited must wait at one barrier of the block. (Since compute
// capability 7.0 a barrier waits only for threads that have not exited; CUDA C++ Programming Guide,
// "Independent Thread Scheduling".)
void Machine::open_block_barrier() {
  std::vector<Thread*> waiting;
  int sum = 0;
  for (unsigned i = 0; i < count_; ++i) {
    Thread& thread = *threads_[i];
    if (thread.state == State::exited) continue;
    waiting.push_back(&thread);
    const Thread& first = *waiting.front();
    if (thread.state != first.state || !same_place(thread.site, first.site)) {
      stuck("threads of a block wait at different places", first, thread);
    }
    sum += thread.vote;
  }
  const Thread* first = waiting.front();
  if (first->state == State::at_warp_barrier) {
    stuck("a warp operation never completes: its threads name different masks", *first, *first);
  }
  sum_ = sum;
  open(waiting, this);
}

// All that was done before the barrier comes before all that is done after it.
void Machine::open(const std::vector<Thread*>& waiting, void* barrier) {
  for (Thread* thread : waiting) thread->fiber.release(barrier);
  for (Thread* thread : waiting) {
    thread->fiber.acquire(barrier);
    thread->state = State::ready;
  }
}

void Machine::stuck(const std::string& why, const Thread& first, const Thread& second) const {
  throw std::runtime_error(why + ": " + text(first) + "; " + text(second));
}

}  // namespace

void launch(const char* kernel, const void* address, dim3 grid, dim3 block,
            std::size_t shared_bytes, const std::function<void()>& body) {
  const std::lock_guard<std::mutex> lock(one_launch);
  const auto limit = shared_limits.find(address);
  const std::size_t most = limit == shared_limits.end() ? kDefaultSharedLimit : limit->second;
  const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
  const bool fits = threads > 0 && threads <= kMaxThreads && block.z <= 64 && grid.x > 0 &&
                    grid.x <= 0x7FFFFFFFu && grid.y > 0 && grid.y <= 65535 && grid.z > 0 &&
                    grid.z <= 65535 && shared_bytes <= most;
  if (!fits) {
    refused = kInvalidConfiguration;
    return;
  }
  ++launches;
  machine.launch(kernel, grid, block, shared_bytes, body);
}

int last_error(bool forget) {
  const int error = refused;
  if (forget) refused = 0;
  return error;
}

bool allow_shared(const void* kernel, std::size_t bytes) {
  if (bytes > kLargestSharedLimit) return false;
  const std::lock_guard<std::mutex> lock(one_launch);
  shared_limits[kernel] = bytes;
  return true;
}

void set_backward(bool backward) {
  const std::lock_guard<std::mutex> lock(one_launch);
  machine.set_backward(backward);
}

void* dynamic_shared() { return machine.shared(); }

void block_barrier(Site site) { block_sum(0, site); }

int block_sum(int value, Site site) {
  machine.current().vote = value;
  machine.wait(State::at_block_barrier, site);
  return machine.sum();
}

int lane() { return static_cast<int>(machine.current().number) % warpSize; }

const std::uint64_t* warp_exchange(unsigned mask, std::uint64_t offered, Site site) {
  Thread& self = machine.current();
  if (!(mask >> lane() & 1u)) fail("the mask leaves out the calling lane", site);
  self.mask = mask;
  self.offered = offered;
  self.together = nullptr;
  machine.wait(State::at_warp_barrier, site);
  return self.received.data();
}

void warp_together(void* offered, void (*together)(void* const* offered), Site site) {
  Thread& self = machine.current();
  self.mask = 0xFFFFFFFFu;
  self.part = offered;
  self.together = together;
  machine.wait(State::at_warp_barrier, site);
}

void copy_later(const Copy& copy) {
  for (const void* address : {static_cast<const void*>(copy.to), copy.from}) {
    if (reinterpret_cast<std::uintptr_t>(address) % copy.size) fail("not aligned to its width", copy.site);
  }
  if (copy.bytes < 0 || copy.bytes > copy.size) fail("not 0 bytes to its width", copy.site);
  machine.current().copies.back().push_back(copy);
}

void commit_copies() { machine.current().copies.emplace_back(); }

std::vector<Copy> take_copies(std::size_t left) {
  auto& groups = machine.current().copies;
  std::vector<Copy> taken;
  for (; groups.size() > left + 1; groups.pop_front()) {
    taken.insert(taken.end(), groups.front().begin(), groups.front().end());
  }
  return taken;
}

void fail(const char* what, Site site) {
  throw std::runtime_error(std::string(what) + ": thread (" + std::to_string(threadIdx.x) + "," +
                           std::to_string(threadIdx.y) + "," + std::to_string(threadIdx.z) +
                           ") in " + text(site));
}

}  // namespace fastbg::emulation

// For tests, which call it through ctypes.
extern "C" __attribute__((visibility("default"))) unsigned long long fastbg_emulated_launches() {
  return fastbg::emulation::launches;
}
