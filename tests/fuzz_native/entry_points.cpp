// libFuzzer over every entry point of csrc/cpu: bytes become a call that the Python layer could make
// inside a compiled graph, where values are not checked beforehand. The sanitizers judge memory; the
// rest is here: bad values are refused with std::invalid_argument and nothing else is, every element
// of a result is written, and it is the same for any number of threads that work is divided by.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <string>

#include "calls.h"

namespace fuzzing {
namespace {

[[noreturn]] void fail(const std::string& name, const char* what) {
  std::fprintf(stderr, "%s: %s\n", name.c_str(), what);
  std::abort();
}

const pybind11::module_& entry_points() {
  static const pybind11::module_ made = [] {
    pybind11::module_ m;
    fastbg::register_isa(m);
    fastbg::register_composite(m);
    fastbg::register_path(m);
    fastbg::register_gram(m);
    fastbg::register_conv(m);
    fastbg::register_conv_stack(m);
    register_planted(m);
    return m;
  }();
  return made;
}

Call draw_call(Input& input) {
  if (const char* planted = std::getenv("FASTBG_PLANTED")) return planted_call(input, planted);
  constexpr Call (*kCalls[])(Input&) = {
      composite_call,     composite_lr_call,         mosaic_call,
      blur_path_call,     path_integral_call,        gradient_detector_call,
      gram_call,          conv_gram_call,            gradient_detector_backward_call,
      conv3x3_call,       conv_weight_gradient_call, conv_factors_call,
      bridged_composite_call, bridged_composite_lr_call,
      conv_stack_call,    conv_stack_gradient_call,
  };
  return kCalls[input.number(0, std::size(kCalls) - 1)](input);
}

// Neither pattern is a NaN, so that an element left as it was differs between them.
constexpr int kBefore[] = {0x00, 0x5a};

// Where the magnitudes of a floating-point type's NaNs begin, or beyond all bits.
std::uint32_t infinity(DType dtype) {
  switch (dtype) {
    case DType::float32: return 0x7f800000u;
    case DType::float16: return 0x7c00u;
    case DType::bfloat16: return 0x7f80u;
    default: return UINT32_MAX;
  }
}

// Any NaN becomes the same one: which operand's bits a sum of two NaNs keeps is the compiler's choice.
void append_element(std::string& all, const char* from, DType dtype) {
  const auto bytes = static_cast<std::size_t>(bytes_of(dtype));
  std::uint32_t bits = 0;
  std::memcpy(&bits, from, bytes);
  const std::uint32_t sign = 1u << (8 * bytes - 1);
  if ((bits & ~sign) > infinity(dtype)) bits = infinity(dtype) + 1;
  all.append(reinterpret_cast<const char*>(&bits), bytes);
}

// The elements of all results, without what lies between them.
std::string contents(const std::vector<Tensor>& results) {
  std::string all;
  for (const Tensor& result : results) {
    const std::int64_t bytes = bytes_of(result.dtype);
    for (std::int64_t i = 0; i < product(result.sizes); ++i) {
      std::int64_t at = 0, rest = i;
      for (std::size_t axis = result.sizes.size(); axis-- > 0; rest /= result.sizes[axis]) {
        at += rest % result.sizes[axis] * result.strides[axis];
      }
      append_element(all, result.data() + at * bytes, result.dtype);
    }
  }
  return all;
}

std::string run(Call& call, int threads, int before) {
  for (Tensor& result : call.results) result.fill(before);
  for (Tensor& workspace : call.zeros) workspace.fill(0);
  std::vector<pybind11::object> arguments = call.arguments;
  arguments.push_back(threads);
  try {
    entry_points().call(call.name, arguments);
  } catch (const std::invalid_argument& error) {
    if (call.valid) fail(call.name, error.what());
    return "";
  }
  if (!call.valid && !call.nothing_to_do()) fail(call.name, "took values that it must refuse");
  return contents(call.results);
}

}  // namespace
}  // namespace fuzzing

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzzing::Input input(data, size);
  fuzzing::Call call = fuzzing::draw_call(input);
  if (fuzzing::run(call, 1, fuzzing::kBefore[0]) != fuzzing::run(call, 3, fuzzing::kBefore[1])) {
    fuzzing::fail(call.name, "leaves part of its result as it was, or depends on threads");
  }
  return 0;
}
