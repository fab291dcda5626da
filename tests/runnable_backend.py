"""The backend that a test asks for, where it can run on this machine."""

import emulation_build
import pytest
import torch

from fastbg.testing import BackendUnderTest, backend_under_test


def runnable(name: str, op: str) -> BackendUnderTest:
    """Backend `name` for `op`, CUDA kernels emulated; skips where it runs nowhere, saying why."""
    if name == "cuda" and not torch.cuda.is_available():
        reason = emulation_build.provide()
        if reason is not None:
            pytest.skip(f"the CUDA kernels cannot be emulated: {reason}")
    candidate = backend_under_test(name, op)
    if candidate.skip_reason is not None:
        pytest.skip(candidate.skip_reason)
    return candidate
