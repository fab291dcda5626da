// One registration function per operator family, each in its NAME_bindings.cpp.
#pragma once

#include <cuda_runtime.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

namespace fastbg {

void register_composite(pybind11::module_& m);
void register_seam(pybind11::module_& m);
void register_path(pybind11::module_& m);
void register_gram(pybind11::module_& m);
void register_conv(pybind11::module_& m);
void register_conv_stack(pybind11::module_& m);
void register_channel_attention(pybind11::module_& m);

// Throws the error that a launch returned, if any.
inline void check_launch(const char* operation, cudaError_t error) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(operation) + ": " + cudaGetErrorName(error) + ": " +
                           cudaGetErrorString(error));
}

inline cudaStream_t stream_from(std::uintptr_t handle) {
  return reinterpret_cast<cudaStream_t>(handle);
}

}  // namespace fastbg
