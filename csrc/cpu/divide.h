// Work cut into parts of equal size.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fastbg {

// How many parts cover `whole`; one, if there is nothing to cover.
inline std::int64_t parts(std::int64_t whole, std::int64_t part) {
  return std::max<std::int64_t>(1, (whole + part - 1) / part);
}

inline std::int64_t up_to_multiple(std::int64_t value, std::int64_t unit) {
  return parts(value, unit) * unit;
}

}  // namespace fastbg
