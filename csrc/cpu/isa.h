// Instruction-set variants: every file of cpu/ is compiled once per variant, chosen at run time.
#pragma once

namespace fastbg {

enum class Isa { baseline, avx2, avx512 };

// The best variant of this build that this machine supports, or the one named by the environment variable
// FASTBG_CPU_ISA (baseline, avx2, avx512); throws std::runtime_error if it is not supported.
Isa current_isa();

const char* isa_name(Isa isa);

}  // namespace fastbg

// Declares `void NAME(const PARAMS&, int threads)` in each variant's namespace.
#define FASTBG_DECLARE_VARIANTS(NAME, PARAMS)              \
  namespace baseline { void NAME(const PARAMS&, int); }    \
  namespace avx2 { void NAME(const PARAMS&, int); }        \
  namespace avx512 { void NAME(const PARAMS&, int); }

// Calls the variant that fits this machine.
#ifdef FASTBG_X86_VARIANTS
#define FASTBG_CALL_VARIANT(NAME, ...)                              \
  switch (::fastbg::current_isa()) {                                \
    case ::fastbg::Isa::avx512: avx512::NAME(__VA_ARGS__); break;   \
    case ::fastbg::Isa::avx2: avx2::NAME(__VA_ARGS__); break;       \
    case ::fastbg::Isa::baseline: baseline::NAME(__VA_ARGS__);      \
  }
#else
#define FASTBG_CALL_VARIANT(NAME, ...) baseline::NAME(__VA_ARGS__)
#endif
