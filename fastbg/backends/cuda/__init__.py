"""CUDA C++ kernels (csrc/cuda) on NVIDIA GPUs, or emulated on the CPU for tests."""

import os
from functools import cache
from importlib import import_module
from types import ModuleType

import torch


def emulated() -> bool:
    """Whether ``FASTBG_EMULATE=1`` asks for the emulation build, which runs on CPU tensors."""
    return os.environ.get("FASTBG_EMULATE", "0") == "1"


@cache
def native() -> ModuleType:
    """The compiled module; raises ImportError where it was not built."""
    return import_module("fastbg._cuda_emulated" if emulated() else "fastbg._cuda")


def current_stream(device: torch.device) -> int:
    """Handle of PyTorch's current stream on `device` (0 in emulation)."""
    return 0 if emulated() else torch.cuda.current_stream(device).cuda_stream


def unavailable(device: torch.device) -> str | None:
    """Why this backend cannot run on `device`, or None."""
    wanted = "cpu" if emulated() else "cuda"
    if device.type != wanted:
        where = "the CPU, as it is emulated" if emulated() else "NVIDIA GPUs"
        return f"it computes on {where}, the tensors are on {device}"
    try:
        native()
    except ImportError as error:
        return f"its compiled module is missing ({error}); reinstall with FASTBG_CUDA=ON and nvcc"
    return None
