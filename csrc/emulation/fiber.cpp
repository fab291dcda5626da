#include "fiber.h"

#include <sys/mman.h>

#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(FASTBG_RACES)
#include <sanitizer/tsan_interface.h>
#endif

namespace fastbg::emulation {
namespace {

// Sanitized frames are several times as large; pages that are not touched cost nothing.
constexpr std::size_t kStackBytes = 256 * 1024;
Fiber* entering = nullptr;

}  // namespace

Fiber::Fiber() {
  stack_ = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack_ == MAP_FAILED) throw std::bad_alloc();
#if defined(FASTBG_RACES)
  race_fiber_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
#if defined(FASTBG_RACES)
  __tsan_destroy_fiber(race_fiber_);
#endif
  munmap(stack_, kStackBytes);
}

void Fiber::start(void (*entry)()) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack_, kStackBytes);  // frames that were left in the middle
#endif
#if defined(FASTBG_RACES)
  if (!ended_) {  // its calls were never left
    __tsan_destroy_fiber(race_fiber_);
    race_fiber_ = __tsan_create_fiber(0);
  }
#endif
  entry_ = entry;
  ended_ = false;
  sanitizer_stack_ = nullptr;
  getcontext(&inside_);
  inside_.uc_stack.ss_sp = stack_;
  inside_.uc_stack.ss_size = kStackBytes;
  inside_.uc_link = nullptr;
  makecontext(&inside_, &Fiber::enter, 0);
}

void Fiber::resume() {
  entering = this;
#if defined(FASTBG_RACES)
  race_outside_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(race_fiber_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__SANITIZE_ADDRESS__)
  void* outside = nullptr;
  __sanitizer_start_switch_fiber(&outside, stack_, kStackBytes);
#endif
  swapcontext(&outside_, &inside_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(outside, nullptr, nullptr);
#endif
}

void Fiber::leave(bool for_good) {
#if defined(FASTBG_RACES)
  __tsan_switch_to_fiber(race_outside_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &sanitizer_stack_, outside_stack_,
                                 outside_size_);
#endif
  ended_ = for_good;
  swapcontext(&inside_, &outside_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(sanitizer_stack_, &outside_stack_, &outside_size_);
#endif
}

void Fiber::enter() {
  Fiber* const self = entering;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &self->outside_stack_, &self->outside_size_);
#endif
  self->entry_();
  self->leave(true);
}

#if defined(FASTBG_RACES)
void release(void* at) { __tsan_release(at); }
void acquire(void* at) { __tsan_acquire(at); }

void Fiber::release(void* at) {
  void* const outside = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(race_fiber_, __tsan_switch_to_fiber_no_sync);
  __tsan_release(at);
  __tsan_switch_to_fiber(outside, __tsan_switch_to_fiber_no_sync);
}

void Fiber::acquire(void* at) {
  void* const outside = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(race_fiber_, __tsan_switch_to_fiber_no_sync);
  __tsan_acquire(at);
  __tsan_switch_to_fiber(outside, __tsan_switch_to_fiber_no_sync);
}
#else
void release(void*) {}
void acquire(void*) {}
void Fiber::release(void*) {}
void Fiber::acquire(void*) {}
#endif

}  // namespace fastbg::emulation
