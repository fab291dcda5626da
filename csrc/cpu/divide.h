// Division of work into parts of equal size.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fastbg {

// Number of parts that cover `whole`; at least one.
inline std::int64_t parts(std::int64_t whole, std::int64_t part) {
  return std::max<std::int64_t>(1, (whole + part - 1) / part);
}

inline std::int64_t up_to_multiple(std::int64_t value, std::int64_t unit) {
  return parts(value, unit) * unit;
}

}  // namespace fastbg
