"""Builds tests/fuzz_native with csrc/cpu under libFuzzer, AddressSanitizer and UBSan."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from emulation_build import ROOT
from native_build import CSRC, INCLUDE, cpu_sources, objects, run_compiler

SOURCE = Path(__file__).with_name("fuzz_native")
SANITIZERS = "address,undefined"
LINK = f"-fsanitize=fuzzer,{SANITIZERS}"
FLAGS = [
    "-std=c++17",
    "-O1",
    "-g1",
    f"-fsanitize=fuzzer-no-link,{SANITIZERS}",
    "-fno-sanitize-recover=all",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-unknown-pragmas",
    # One instruction set per build: the only variant, so that nothing is chosen at run time.
    "-DFASTBG_VARIANT=baseline",
]
MACHINE = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl")] + ["-mfma", "-mf16c"],
}
# Linux hands the peak memory of the process that starts it, pytest, to the fuzzer: no limit on
# that, but 2 GiB for each allocation. What is not freed is found by AddressSanitizer.
MEMORY = ["-rss_limit_mb=0", "-malloc_limit_mb=2048"]
PROBE = 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }'


@cache
def compiler() -> str | None:
    """clang++, of this name or with its release behind it."""
    names = ["clang++", *(f"clang++-{release}" for release in range(30, 11, -1))]
    return next(filter(None, map(shutil.which, names)), None)


@cache
def unavailable() -> str | None:
    """Why the entry points cannot be fuzzed here, or None."""
    if not (CSRC / "cpu").is_dir():
        return "the sources csrc/cpu are not beside the tests"
    if (clang := compiler()) is None:
        return "clang++ is not installed"
    with tempfile.TemporaryDirectory() as folder:
        command = [clang, "-x", "c++", "-", LINK, "-o", f"{folder}/probe"]
        probe = subprocess.run(command, input=PROBE, capture_output=True, text=True)
    return f"clang++ has no libFuzzer: {probe.stderr.strip()}" if probe.returncode else None


@cache
def build(isa: str) -> Path:
    """The fuzzer for an instruction set, up to date with the sources."""
    folder = ROOT / "build" / "fuzz_native" / isa
    folder.mkdir(parents=True, exist_ok=True)
    clang, binary = str(compiler()), folder / "fuzz"
    command = [clang, *FLAGS, *MACHINE[isa], f"-I{SOURCE}", *INCLUDE]
    sources = [*cpu_sources(), *sorted(SOURCE.glob("*.cpp"))]
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several pytest processes may want it at once
        made = objects(command, sources, folder)
        run_compiler([clang, LINK, *made, "-o", str(binary)])
    return binary


def run(isa: str, *options: str, planted: str | None = None) -> subprocess.CompletedProcess[str]:
    """The fuzzer with libFuzzer's `options`; `planted` names a fault that it must find."""
    binary = build(isa)
    corpus = binary.with_name("corpus")  # what earlier runs found worth keeping
    corpus.mkdir(exist_ok=True)
    environment = dict(os.environ, UBSAN_OPTIONS="print_stacktrace=1")
    if planted is not None:
        environment["FASTBG_PLANTED"] = planted
    kept = [] if planted is not None else [str(corpus)]
    return subprocess.run(
        [str(binary), f"-artifact_prefix={binary.parent}/", *MEMORY, *options, *kept],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
