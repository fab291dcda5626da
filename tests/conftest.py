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

# Workers of pytest-xdist, and what they start, share the machine: threads that spin while others
# have the cores would make them many times slower.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

from emulation_selftest import Selftest
from runnable_backend import runnable
from small_run import make_images

from fastbg.data.images import open_folder
from fastbg.experiments.study import Study
from fastbg.models.edsr import EDSR
from fastbg.registration.dispatch import BACKENDS
from fastbg.testing import BackendUnderTest

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(params=tuple(BACKENDS))
def backend(request: pytest.FixtureRequest) -> BackendUnderTest:
    """Every backend in turn; skips with the reason where one cannot run at all."""
    return runnable(request.param, "composite")


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """torch.empty returns NaN (or the largest integer), so that a pixel left unwritten shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def selftest() -> Selftest:
    """The emulator's own test kernels."""
    return Selftest(emulation_build.build())


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulated operators."""
    monkeypatch.setenv("FASTBG_EMULATE", "1")
    reason = emulation_build.provide()
    assert reason is None


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Four small images, in plain PyTorch."""
    return Study(open_folder(make_images(tmp_path / "images")), backend="torch")


@pytest.fixture
def net() -> EDSR:
    """A random EDSR with 4 features and 1 block, x4."""
    torch.manual_seed(0)
    return EDSR(features=4, blocks=1).eval().requires_grad_(False)


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
