"""A kernel launch as data: it can be run, or compiled for a GPU that this machine lacks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

DTYPE_NAMES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.uint8: "u8",
    torch.int32: "i32",
    torch.int64: "i64",
}
DIVISIBLE = [["tt.divisibility", 16]]  # what Triton tells the compiler of a multiple of 16


def is_interpreted(kernel: Any) -> bool:
    """Whether `kernel` runs in Triton's interpreter, on the CPU."""
    return not isinstance(kernel, triton.JITFunction)


@dataclass(frozen=True)
class Launch:
    """One start of a Triton kernel on a one-dimensional grid."""

    kernel: Any  # triton.JITFunction, or its interpreted stand-in
    programs: int
    arguments: Mapping[str, Tensor | int | float]
    constants: dict[str, Any]  # tl.constexpr
    num_warps: int

    def run(self) -> None:
        """Start the kernel on the current device and stream; an empty grid starts nothing."""
        if self.programs:
            with np.errstate(all="ignore"):  # the interpreter is numpy; GPUs do not warn of NaN
                self.kernel[(self.programs,)](
                    **self.arguments, **self.constants, num_warps=self.num_warps
                )

    def source(self) -> ASTSource:
        """What Triton would compile for this launch.

        Triton's own rules, which it applies in its launcher only, and that needs a driver: an
        integer 1 becomes a constant, multiples of 16 (addresses too) are known as such, a float is
        neither; nor are arguments that the kernel says not to specialise for.
        """
        # Kernels for the interpreter have no parameters of this kind.
        params = getattr(self.kernel, "params", ())
        general = {p.name for p in params if p.do_not_specialize}
        signature: dict[str, str] = {}
        constants = dict(self.constants)
        attributes: dict[tuple[int], list[list[Any]]] = {}
        for position, name in enumerate(self.kernel.arg_names):
            if name in self.constants:
                signature[name] = "constexpr"
                continue
            value = self.arguments[name]
            if isinstance(value, Tensor):
                signature[name] = "*" + DTYPE_NAMES[value.dtype]
                aligned = value.data_ptr() % 16 == 0
            elif isinstance(value, float):
                signature[name] = "fp32"
                continue
            elif name in general:
                signature[name] = "i32"
                continue
            elif value == 1:
                signature[name] = "constexpr"
                constants[name] = 1
                continue
            else:
                signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
                aligned = value % 16 == 0
            if aligned:
                attributes[(position,)] = DIVISIBLE
        return ASTSource(self.kernel, signature, constants, attributes)

    def compile(self, capability: int) -> CompiledKernel:
        """Compile for NVIDIA GPUs of `capability` (80, 90, ..); impossible in the interpreter."""
        target = GPUTarget("cuda", capability, 32)
        return triton.compile(self.source(), target=target, options={"num_warps": self.num_warps})
