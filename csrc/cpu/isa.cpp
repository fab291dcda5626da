#include "isa.h"

#ifdef FASTBG_AVX2
#include <cpuid.h>
#endif

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace fastbg {
namespace {

#ifdef FASTBG_AVX2
// __builtin_cpu_supports knows "f16c" only from GCC 11 and clang 15 on.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

// As above: "vaes" is known from GCC 11 on.
bool has_vaes() {
  constexpr unsigned kVaes = 1u << 9;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & kVaes);
}
#endif

// Whether this build has the variant, and this machine can run it.
bool runs_here(Isa isa) {
#ifdef FASTBG_AVX512
  if (isa == Isa::avx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
  }
#endif
#ifdef FASTBG_AVX2
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
#endif
  return isa == Isa::baseline;
}

Isa choose() {
  const char* wanted = std::getenv("FASTBG_CPU_ISA");
  for (const Isa isa : {Isa::avx512, Isa::avx2, Isa::baseline}) {
    if (wanted ? std::string(wanted) == isa_name(isa) : runs_here(isa)) {
      if (runs_here(isa)) return isa;
      throw std::runtime_error(std::string("FASTBG_CPU_ISA: this machine or build has no ") + wanted);
    }
  }
  throw std::runtime_error(std::string("FASTBG_CPU_ISA: got ") + wanted +
                           "; expected baseline, avx2 or avx512");
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    case Isa::baseline: break;
  }
  return "baseline";
}

bool has_vector_aes() {
#ifdef FASTBG_AVX2
  static const bool has = has_vaes();
  return has;
#else
  return false;
#endif
}

Isa current_isa() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace fastbg
