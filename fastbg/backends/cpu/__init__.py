"""C++ with OpenMP (csrc/cpu), compiled per instruction set and chosen at run time."""

from functools import cache
from importlib import import_module
from types import ModuleType

import torch


@cache
def native() -> ModuleType:
    """The compiled module; raises ImportError where it was not built."""
    return import_module("fastbg._cpu")


def unavailable(device: torch.device) -> str | None:
    """Why this backend cannot run on `device`, or None."""
    if device.type != "cpu":
        return f"it computes on the CPU, the tensors are on {device}"
    try:
        native()
    except ImportError as error:
        return f"its compiled module is missing ({error}); reinstall fastbg with a C++ compiler"
    return None
