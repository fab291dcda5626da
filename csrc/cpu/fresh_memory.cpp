#include "fresh_memory.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>

namespace fastbg {

void expect_whole_pages(const TensorView& out) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t kHugePage = std::uintptr_t{2} << 20;
  std::uintptr_t bytes = out.dtype == DType::float32 ? 4 : 2;
  for (std::int32_t k = 0; k < out.rank; ++k) bytes *= static_cast<std::uintptr_t>(out.sizes[k]);
  const auto begin = reinterpret_cast<std::uintptr_t>(out.data);
  const std::uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const std::uintptr_t last = (begin + bytes) / kHugePage * kHugePage;
  // A kernel without huge pages refuses; the output is as good on small ones.
  if (first < last) static_cast<void>(madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE));
#else
  static_cast<void>(out);
#endif
}

}  // namespace fastbg
