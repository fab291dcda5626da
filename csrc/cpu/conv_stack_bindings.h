// Converts the layers of a stack of 3x3 convolutions from Python.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "conv_stack_plan.h"

namespace fastbg {

// From the result of _described() in fastbg/backends/cpu/conv_stack.py.
std::vector<StackLayer> stack_layers_from(const pybind11::tuple& described);

}  // namespace fastbg
