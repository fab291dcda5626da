#include "isa.h"
#include "register.h"

namespace fastbg {

void register_isa(pybind11::module_& m) {
  m.def("isa", [] { return isa_name(current_isa()); }, "Instruction set that the operators use.");
}

}  // namespace fastbg
