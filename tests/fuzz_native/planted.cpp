// Faults that the fuzzer must find, by name: see tests/test_fuzz_native.py.
#include <limits>
#include <stdexcept>

#include "bindings.h"
#include "calls.h"

namespace fuzzing {
namespace {

enum Fault { kBeside, kOverflow, kUnwritten, kThreads, kAccepted, kRefused };
constexpr const char* kNames[] = {"beside", "overflow", "unwritten", "threads", "accepted", "refused"};

void copy(std::int64_t fault, const pybind11::tuple& from, const pybind11::tuple& to, int threads) {
  const fastbg::TensorView in = fastbg::view_from(from), out = fastbg::view_from(to);
  if (fault == kRefused) throw std::invalid_argument("a value that is good");
  const std::int64_t count = in.sizes[0] + (fault == kBeside) - (fault == kUnwritten);
  const auto* values = static_cast<const std::int32_t*>(in.data);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int32_t added = fault == kOverflow ? std::numeric_limits<std::int32_t>::max() : threads;
    const std::int32_t value = values[i];
    if (i < in.sizes[0]) {
      static_cast<std::int32_t*>(out.data)[i] =
          fault == kOverflow || fault == kThreads ? value + added : value;
    }
  }
}

}  // namespace

void register_planted(pybind11::module_& m) { m.def("planted", copy); }

Call planted_call(Input& input, const std::string& name) {
  Call call("planted");
  const auto* found = std::find(std::begin(kNames), std::end(kNames), name);
  const auto fault = static_cast<std::int64_t>(found - std::begin(kNames));
  call.valid = fault != kAccepted;
  Tensor in = contiguous(DType::int32, {input.number(1, 9)});
  input.set(in, [](std::int64_t i) { return i + 1; });
  call.arguments = {fault, call.keep(std::move(in)),
                    call.result(contiguous(DType::int32, call.inputs.front().sizes))};
  return call;
}

}  // namespace fuzzing
