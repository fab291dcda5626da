"""The backend that a test asks for, where it can run on this machine."""

import os

import emulation_build
import poisoned_interpreter
import pytest
import torch

from fastbg.testing import BackendUnderTest, backend_under_test


def runnable(name: str, op: str) -> BackendUnderTest:
    """Backend `name` for `op`, CUDA kernels emulated; skips where it runs nowhere, saying why.

    Fails instead for the backends that FASTBG_REQUIRE names, such as "cuda,triton": where they are
    what is to be tested, a skip would hide that they are missing.
    """
    required = name in os.environ.get("FASTBG_REQUIRE", "").split(",")
    end = pytest.fail if required else pytest.skip
    if name == "cuda" and not torch.cuda.is_available():
        reason = emulation_build.provide()
        if reason is not None:
            end(f"the CUDA kernels cannot be emulated: {reason}")
    if name == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        poisoned_interpreter.install()
    candidate = backend_under_test(name, op)
    if candidate.skip_reason is not None:
        end(candidate.skip_reason)
    return candidate
