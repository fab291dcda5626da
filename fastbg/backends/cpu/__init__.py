"""C++ with OpenMP (csrc/cpu), compiled per instruction set and chosen at run time."""

import os
from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor


@cache
def native() -> ModuleType:
    """The compiled module; raises ImportError where it was not built.

    A forked child lacks its parent's OpenMP threads, and would wait for them for ever. It therefore
    computes on one thread, as PyTorch's own workers do.
    """
    module = import_module("fastbg._cpu")
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
    return module


def floats(*shape: int) -> Tensor:
    """Memory for a kernel to write to: float32 on the CPU, whatever PyTorch's defaults are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def unavailable(device: torch.device) -> str | None:
    """Why this backend cannot run on `device`, or None."""
    if device.type != "cpu":
        return f"it computes on the CPU, the tensors are on {device}"
    try:
        native()
    except ImportError as error:
        return f"its compiled module is missing ({error}); reinstall fastbg with a C++ compiler"
    return None
