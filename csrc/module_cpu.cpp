// fastbg._cpu: the registration list of the CPU operators.
#include <pybind11/pybind11.h>

#include "cpu/register.h"

PYBIND11_MODULE(_cpu, m) {
  m.doc() = "C++ operators of fastbg; see fastbg.backends.cpu";
  fastbg::register_isa(m);
  fastbg::register_composite(m);
  fastbg::register_path(m);
  fastbg::register_gram(m);
  fastbg::register_conv(m);
  fastbg::register_attention(m);
  fastbg::register_conv_stack(m);
  fastbg::register_conv_stack_change(m);
}
