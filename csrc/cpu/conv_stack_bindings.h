// How the layers of a stack of 3x3 convolutions come from Python.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "conv_stack_plan.h"

namespace fastbg {

// What _described() in fastbg/backends/cpu/conv_stack.py gives.
std::vector<StackLayer> stack_layers_from(const pybind11::tuple& described);

}  // namespace fastbg
