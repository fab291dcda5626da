// One registration function per operator family, each in its NAME_bindings.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace fastbg {

void register_isa(pybind11::module_& m);
void register_composite(pybind11::module_& m);
void register_path(pybind11::module_& m);
void register_gram(pybind11::module_& m);
void register_conv(pybind11::module_& m);
void register_attention(pybind11::module_& m);
void register_conv_stack(pybind11::module_& m);
void register_conv_stack_change(pybind11::module_& m);

}  // namespace fastbg
