// Instruction-set variants: every file of cpu/ is compiled once per variant, chosen at run time.
#pragma once

namespace fastbg {

enum class Isa { baseline, avx2, avx512 };

// The best variant of this build that this machine supports, or the one named by the environment variable
// FASTBG_CPU_ISA (baseline, avx2, avx512); throws std::runtime_error if it is not supported.
Isa current_isa();

const char* isa_name(Isa isa);

// Whether this machine computes AES rounds on whole vectors of the variant (VAES).
bool has_vector_aes();

}  // namespace fastbg

// Declares `void NAME(const PARAMS&, int threads)` in each variant's namespace.
#define FASTBG_DECLARE_VARIANTS(NAME, PARAMS)              \
  namespace baseline { void NAME(const PARAMS&, int); }    \
  namespace avx2 { void NAME(const PARAMS&, int); }        \
  namespace avx512 { void NAME(const PARAMS&, int); }

#ifdef FASTBG_AVX512
#define FASTBG_IF_AVX512(NAME, ...) case ::fastbg::Isa::avx512: avx512::NAME(__VA_ARGS__); break;
#else
#define FASTBG_IF_AVX512(NAME, ...)
#endif

// Calls the variant of this build that fits this machine.
#ifdef FASTBG_AVX2
#define FASTBG_CALL_VARIANT(NAME, ...)                          \
  switch (::fastbg::current_isa()) {                            \
    FASTBG_IF_AVX512(NAME, __VA_ARGS__)                         \
    case ::fastbg::Isa::avx2: avx2::NAME(__VA_ARGS__); break;   \
    default: baseline::NAME(__VA_ARGS__);                       \
  }
#else
#define FASTBG_CALL_VARIANT(NAME, ...) baseline::NAME(__VA_ARGS__)
#endif
