// fastbg._cuda (or _cuda_emulated): the registration list of the CUDA operators.
#include <pybind11/pybind11.h>

#include "cuda/register.h"

PYBIND11_MODULE(FASTBG_CUDA_MODULE, m) {
  m.doc() = "CUDA operators of fastbg; see fastbg.backends.cuda";
  fastbg::register_composite(m);
  fastbg::register_seam(m);
  fastbg::register_path(m);
  fastbg::register_gram(m);
  fastbg::register_conv(m);
  fastbg::register_conv_stack(m);
  fastbg::register_channel_attention(m);
}
