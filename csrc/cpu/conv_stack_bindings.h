// Converts the layers and the tail of a stack of 3x3 convolutions from Python.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <vector>

#include "conv_stack_plan.h"

namespace fastbg {

// From the result of described() in fastbg/backends/cpu/conv_stack.py; the tail may be None.
std::vector<StackLayer> stack_layers_from(const pybind11::tuple& described);
std::optional<StackTail> stack_tail_from(const pybind11::object& described);

}  // namespace fastbg
