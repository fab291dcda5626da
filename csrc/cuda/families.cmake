# Operator families with CUDA kernels: NAME.cu and NAME_bindings.cpp each. Also read by emulation/.
set(FASTBG_CUDA_FAMILIES composite seam path gram conv conv_stack channel_attention)
