"""Threads change nothing: equal bits for any number of them, and no race that a sanitizer sees.

The sanitizer's part compiles csrc/cpu again, which takes minutes: FASTBG_TSAN=1, as `nox -s races`
sets it, asks for it.
"""

import os
from collections.abc import Iterator

import pytest
import race_build
import torch
from race_cases import cases, equal

from fastbg.registration.dispatch import Place, unavailable

CPU = Place(torch.device("cpu"), torch.float32)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", cases())
def test_bits_do_not_depend_on_threads_nor_on_the_run(name: str) -> None:
    if (reason := unavailable("composite", "cpu", CPU)) is not None:
        pytest.skip(reason)
    case = cases()[name]
    torch.set_num_threads(1)
    expected = case()
    for count in (1, 2, 3, 2, 3):
        torch.set_num_threads(count)
        assert equal(case(), expected), f"other bits on {count} threads"


@pytest.fixture
def sanitizer() -> None:
    if os.environ.get("FASTBG_TSAN") != "1":
        pytest.skip("FASTBG_TSAN=1 builds and runs the CPU kernels under ThreadSanitizer")
    if (reason := race_build.unavailable()) is not None:
        pytest.skip(reason)


@pytest.mark.usefixtures("sanitizer")
def test_the_sanitizer_finds_a_race_and_takes_a_barrier() -> None:
    done = race_build.run("planted")
    assert done.stdout.split() == ["order", "3"]  # 0 + 1 + 2, and halted by the race
    assert done.returncode != 0
    assert "WARNING: ThreadSanitizer: data race" in done.stderr
    assert "fastbg_planted_race" in done.stderr


@pytest.mark.usefixtures("sanitizer")
def test_the_kernels_do_not_race() -> None:
    done = race_build.run()
    assert done.returncode == 0, done.stderr
    assert "ThreadSanitizer" not in done.stderr
    assert done.stdout.splitlines() == [f"checked {name}" for name in cases()]
