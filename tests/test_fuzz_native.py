"""Every entry point of csrc/cpu under libFuzzer, AddressSanitizer and UBSan; see fuzz_native/.

`FASTBG_FUZZ_SECONDS` is how long each instruction set that runs here is fuzzed; `nox -s fuzz` sets
it. Without, a few thousand calls of the one that fastbg would choose, the same ones every time.
"""

import os
import re

import fuzz_native_build
import pytest
import torch

from fastbg.backends.cpu import native, unavailable

SECONDS = os.environ.get("FASTBG_FUZZ_SECONDS")
RUNS = 4_000
SEED = "-seed=1"


def instruction_sets() -> list[str]:
    """Those to fuzz, the one that fastbg chooses last."""
    if unavailable(torch.device("cpu")) is not None:
        return ["baseline"]
    chosen = native().isa()
    known = list(fuzz_native_build.MACHINE)
    return known[: known.index(chosen) + 1] if SECONDS else [chosen]


@pytest.fixture(autouse=True)
def fuzzer() -> None:
    if (reason := fuzz_native_build.unavailable()) is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("isa", instruction_sets())
def test_entry_points(isa: str) -> None:
    limit = [f"-max_total_time={SECONDS}"] if SECONDS else [f"-runs={RUNS}", SEED]
    done = fuzz_native_build.run(isa, *limit, "-max_len=512", "-len_control=0", "-timeout=60")
    assert done.returncode == 0, done.stderr
    ran = re.search(r"^Done (\d+) runs", done.stderr, re.MULTILINE)
    assert ran is not None
    assert int(ran[1]) >= RUNS
    print(isa, ran[0])  # the count, for those who run pytest with -s


@pytest.mark.parametrize(
    ("planted", "report"),
    [
        ("beside", "AddressSanitizer: heap-buffer-overflow"),
        ("overflow", "runtime error: signed integer overflow"),
        ("unwritten", "leaves part of its result as it was, or depends on threads"),
        ("threads", "leaves part of its result as it was, or depends on threads"),
        ("accepted", "took values that it must refuse"),
        ("refused", "planted: a value that is good"),
    ],
)
def test_planted_faults_are_found(planted: str, report: str) -> None:
    done = fuzz_native_build.run(instruction_sets()[-1], "-runs=100", SEED, planted=planted)
    assert done.returncode != 0
    assert report in done.stderr
