"""Shared fixtures. Without a GPU, Triton is interpreted and CUDA emulated, on CPU tensors."""

import os
from collections.abc import Iterator
from pathlib import Path

import emulation_build
import numpy as np
import pytest
import torch

# Both are read when the kernels are imported, so they are set before any of fastbg is.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
    os.environ.setdefault("FASTBG_EMULATE", "1")

from fastbg.dispatch import BACKENDS
from fastbg.testing import BackendUnderTest, backend_under_test

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(params=tuple(BACKENDS))
def backend(request: pytest.FixtureRequest) -> BackendUnderTest:
    """Every backend in turn; skips with the reason where one cannot run at all."""
    if request.param == "cuda" and not torch.cuda.is_available():
        reason = emulation_build.provide()
        if reason is not None:
            pytest.skip(f"the CUDA kernels cannot be emulated: {reason}")
    candidate = backend_under_test(request.param, "composite")
    if candidate.skip_reason is not None:
        pytest.skip(candidate.skip_reason)
    return candidate


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """torch.empty returns NaN (or the largest integer), so that a pixel left unwritten shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def bicubic_golden() -> dict[str, np.ndarray]:
    """MATLAB's and Pillow's down-sampling of real images."""
    with np.load(GOLDEN / "bicubic.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The builders' data folder beside the checkout, which users do not have."""
    if not SHARED.is_dir():
        pytest.skip("the builders' shared data folder is not beside this checkout")
    return SHARED
