// The copies of cuda/async_copy.cuh. They happen as late as a device may do them, when their thread waits
// for them: whoever reads earlier finds what was there before.
#pragma once

#include "runtime.h"
#include "vector_types.h"

#define FASTBG_ASYNC_COPIES

namespace fastbg {

template <typename Word>
void copy_async(Word* shared, const void* from, int bytes, const char* file = __builtin_FILE(),
                int line = __builtin_LINE()) {
  constexpr int size = sizeof(Word);
  static_assert(size == 16 || size == 8 || size == 4, "copies are 16, 8 or 4 bytes wide");
  emulation::copy_later({shared, from, size, bytes, emulation::Site{"copy_async", file, line}});
}

inline void commit_copies() { emulation::commit_copies(); }

template <int Left>
void wait_for_copies() {
  for (const emulation::Copy& copy : emulation::take_copies(Left)) {
    auto* const to = static_cast<unsigned char*>(copy.to);
    for (int i = 0; i < copy.size; ++i) to[i] = i < copy.bytes ? static_cast<const unsigned char*>(copy.from)[i] : 0;
  }
}

}  // namespace fastbg
