"""Anything may come: every operator on every backend that runs here, image files, weights files.

`FASTBG_FUZZ_CASES` is the number of cases of each operator on each backend; `nox -s fuzz` sets it.
What it found is kept below, as tests of their own.
"""

import os

import emulation_build
import fuzz_operators
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from fastbg.dispatch import BACKENDS
from fastbg.testing import backend_under_test

CASES = int(os.environ.get("FASTBG_FUZZ_CASES", "4"))
campaign = settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, *([Phase.shrink] if CASES > 10 else [])),
    derandomize=CASES <= 10,  # the short version says the same every time
    print_blob=True,
)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "torch"])
@pytest.mark.parametrize("op", fuzz_operators.OPERATORS)
def test_operators(op: str, name: str) -> None:
    if name == "cuda" and not torch.cuda.is_available():
        reason = emulation_build.provide()
        if reason is not None:
            pytest.skip(f"the CUDA kernels cannot be emulated: {reason}")
    backend = backend_under_test(name, op)
    if backend.skip_reason is not None:
        pytest.skip(backend.skip_reason)
    limit = fuzz_operators.PIXELS.get(name, fuzz_operators.FEW_PIXELS)

    @given(case=fuzz_operators.OPERATORS[op](limit))
    @campaign
    def check(case: fuzz_operators.Case) -> None:
        fuzz_operators.check(case, backend)

    check()
