"""CUDA C++ kernels (csrc/cuda) on NVIDIA GPUs, or emulated on the CPU for tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import ModuleType

import torch


def emulated() -> bool:
    """Whether ``FASTBG_EMULATE=1`` asks for the emulation build, which runs on CPU tensors."""
    return os.environ.get("FASTBG_EMULATE", "0") == "1"


@cache
def _load(name: str) -> ModuleType:
    return import_module(name)


def native() -> ModuleType:
    """The compiled module; raises ImportError where it was not built."""
    return _load("fastbg._cuda_emulated" if emulated() else "fastbg._cuda")


@contextmanager
def launching_on(device: torch.device) -> Iterator[int]:
    """Makes `device` current; gives the handle of PyTorch's stream there (0 in emulation)."""
    if emulated():
        yield 0
        return
    with torch.cuda.device(device):
        yield torch.cuda.current_stream(device).cuda_stream


def unavailable(device: torch.device) -> str | None:
    """Why this backend cannot run on `device`, or None."""
    wanted = "cpu" if emulated() else "cuda"
    if device.type != wanted:
        where = "the CPU, as it is emulated" if emulated() else "NVIDIA GPUs"
        return f"it computes on {where}, the tensors are on {device}"
    try:
        native()
    except ImportError as error:
        remedy = "FASTBG_EMULATION=ON" if emulated() else "FASTBG_CUDA=ON and nvcc"
        return f"its compiled module is missing ({error}); build it with {remedy}"
    return None if emulated() else _why_not(device)


@cache
def _why_not(device: torch.device) -> str | None:
    """Why no kernel can be launched on a GPU: its age, or the driver's."""
    if not torch.cuda.is_available():
        return "no CUDA device is visible"
    with torch.cuda.device(device):
        error: str = native().why_not()
    if not error:
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return f"it was not built for this GPU (sm_{major}{minor}) or its driver: {error}"
