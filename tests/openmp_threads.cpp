// What g++ makes of `#pragma omp`, on std::thread: ThreadSanitizer understands threads, mutexes and
// atomics, but not libgomp, whose barriers it would report as races. Test-only; the kernels are
// unchanged. Covers what csrc/cpu uses: parallel regions, static and dynamic loops, barriers.
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

namespace {

constexpr int kLoops = 64;  // dynamic loops of one region

struct Team {
  explicit Team(int n) : size(n) {}

  void barrier() {
    std::unique_lock<std::mutex> lock(mutex);
    const long mine = round;
    if (++waiting == size) {
      waiting = 0;
      ++round;
      all_here.notify_all();
    } else {
      all_here.wait(lock, [&] { return round != mine; });
    }
  }

  const int size;
  // Relaxed, one counter per loop and none to set up: handing out chunks orders nothing, so that
  // no race hides behind it.
  std::array<std::atomic<long>, kLoops> taken{};
  std::mutex mutex;
  std::condition_variable all_here;
  int waiting = 0;
  long round = 0;
};

struct Member {
  Team* team = nullptr;
  int id = 0;
  int loops = 0;  // dynamic loops begun
  long start = 0, end = 0, step = 0, chunk = 0;
};

thread_local Member self;

}  // namespace

extern "C" {

int omp_get_thread_num() { return self.id; }
int omp_get_num_threads() { return self.team ? self.team->size : 1; }

void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned) {
  Team team(threads ? static_cast<int>(threads) : 1);
  const Member outside = self;
  std::vector<std::thread> others;
  for (int id = 1; id < team.size; ++id) {
    others.emplace_back([&team, body, data, id] {
      self = Member{&team, id};
      body(data);
    });
  }
  self = Member{&team, 0};
  body(data);
  for (std::thread& other : others) other.join();
  self = outside;
}

void GOMP_barrier() { self.team->barrier(); }

bool GOMP_loop_nonmonotonic_dynamic_next(long* first, long* last) {
  const long turn = self.team->taken[self.loops - 1].fetch_add(1, std::memory_order_relaxed);
  const long from = self.start + turn * self.chunk * self.step;
  if (from >= self.end) return false;
  *first = from;
  *last = from + self.chunk * self.step < self.end ? from + self.chunk * self.step : self.end;
  return true;
}

bool GOMP_loop_nonmonotonic_dynamic_start(long start, long end, long step, long chunk, long* first,
                                          long* last) {
  if (++self.loops > kLoops || step <= 0) std::abort();
  self.start = start, self.end = end, self.step = step, self.chunk = chunk;
  return GOMP_loop_nonmonotonic_dynamic_next(first, last);
}

void GOMP_loop_end() { self.team->barrier(); }

// The sanitizer must find this one: every thread writes `value`.
__attribute__((visibility("default"))) void fastbg_planted_race(long* value) {
#pragma omp parallel num_threads(3)
  *value += omp_get_thread_num();
}

// And have nothing to say to this one, whose barrier orders the writes.
__attribute__((visibility("default"))) void fastbg_planted_order(long* value) {
#pragma omp parallel num_threads(3)
  for (int turn = 0; turn < omp_get_num_threads(); ++turn) {
    if (omp_get_thread_num() == turn) *value += turn;
#pragma omp barrier
  }
}
}
