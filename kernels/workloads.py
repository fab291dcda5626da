"""The launches that are compiled and budgeted without a GPU: real ones, at the paper's shapes.

Made with meta tensors, so that they describe exactly what would run and hold no memory.
"""

import importlib
import pkgutil
from dataclasses import dataclass

import torch
from torch import Tensor

from .launch import DTYPE_NAMES, Launch

FOREGROUNDS = BACKGROUNDS = 150  # sources, 3x128x128
PAIRS = FOREGROUNDS * BACKGROUNDS
SIZE = 128


@dataclass(frozen=True)
class Workload:
    """A launch, named KERNEL DTYPE..., with the work that it cannot avoid."""

    name: str
    launch: Launch
    bytes: int  # every input read once, every output written once
    operations: int  # floating-point, 2 per multiply-add


def workload(launch: Launch, variant: str, touched: list[Tensor], operations: int = 0) -> Workload:
    """`launch` under its kernel's name and `variant`; `touched`: all that it reads or writes."""
    moved = sum(tensor.numel() * tensor.element_size() for tensor in touched)
    return Workload(f"{launch.kernel.__name__} {variant}", launch, moved, operations)


def dtype_name(tensor: Tensor) -> str:
    """Triton's name of the dtype: fp32, u8, ..."""
    return DTYPE_NAMES[tensor.dtype]


def paper_sources(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """a, b, all pairs, and one box (section 3.2), without data."""
    a = torch.empty((FOREGROUNDS, 3, SIZE, SIZE), dtype=dtype, device="meta")
    b = torch.empty((BACKGROUNDS, 3, SIZE, SIZE), dtype=dtype, device="meta")
    pairs = torch.empty((PAIRS, 2), dtype=torch.int32, device="meta")
    return a, b, pairs, pairs.new_empty(4)


def workloads() -> dict[str, list[Workload]]:
    """Of every module of this package that defines `workloads`, by the module's name."""
    package = importlib.import_module(__package__)
    found: dict[str, list[Workload]] = {}
    for module in pkgutil.iter_modules(package.__path__):
        family = importlib.import_module(f"{__package__}.{module.name}")
        if module.name != "workloads" and hasattr(family, "workloads"):
            found[module.name] = family.workloads()
    return found
