// A coroutine with a stack of its own. Sanitizers are informed of every switch.
#pragma once

#include <ucontext.h>

#include <cstddef>

namespace fastbg::emulation {

class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next resume() calls entry(). A fiber that was left in the middle may be started again.
  void start(void (*entry)());

  // From outside: runs until the fiber leaves. From inside: go back; `for_good` if it has ended.
  void resume();
  void leave(bool for_good);

  // Tells ThreadSanitizer that everything this fiber has done so far happens before whatever follows
  // an acquire(at) in any fiber.
  void release(void* at);
  void acquire(void* at);

 private:
  ucontext_t inside_, outside_;
  void* stack_;
  void* sanitizer_stack_ = nullptr;        // AddressSanitizer's, while this fiber is away
  const void* outside_stack_ = nullptr;    // where resume() was called
  std::size_t outside_size_ = 0;
  void* race_fiber_ = nullptr;             // ThreadSanitizer's
  void* race_outside_ = nullptr;
  void (*entry_)() = nullptr;
  bool ended_ = true;

  static void enter();
};

// The same for the code outside of fibers.
void release(void* at);
void acquire(void* at);

}  // namespace fastbg::emulation
