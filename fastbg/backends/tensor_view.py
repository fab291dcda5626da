"""Tensors as plain data for the compiled modules: address, dtype, shape and strides."""

import torch
from torch import Tensor

# Order of fastbg::DType in csrc/common/tensor_view.h.
DTYPES = {
    torch.float32: 0,
    torch.float16: 1,
    torch.bfloat16: 2,
    torch.uint8: 3,
    torch.int32: 4,
}

View = tuple[int, int, tuple[int, ...], tuple[int, ...]]


def view(tensor: Tensor) -> View:
    """(address, dtype code, sizes, strides in elements); the caller keeps `tensor` alive."""
    return tensor.data_ptr(), DTYPES[tensor.dtype], tuple(tensor.shape), tensor.stride()


def optional_view(tensor: Tensor | None) -> View | None:
    """`view` of a tensor that may be left out."""
    return None if tensor is None else view(tensor)
