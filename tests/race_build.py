"""Builds csrc/cpu with ThreadSanitizer and threads that it understands, into build/races."""

import fcntl
import os
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path

from emulation_build import ROOT, _of_compiler, missing
from native_build import CSRC, INCLUDE, cpu_sources, objects, run_compiler

# One instruction set: the sanitizer sees memory, not registers.
FLAGS = [
    "-std=c++17",
    "-O1",
    "-g1",
    "-fPIC",
    "-fopenmp",
    "-fsanitize=thread",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-DFASTBG_VARIANT=baseline",
]


@cache
def unavailable() -> str | None:
    """Why the kernels cannot be run under ThreadSanitizer here, or None."""
    if not (CSRC / "cpu").is_dir():
        return "the sources csrc/cpu are not beside the tests"
    reason = missing()
    if reason is None and not Path(_of_compiler("libtsan.so")).is_absolute():
        reason = "g++ has no libtsan.so"
    return reason


@cache
def build() -> Path:
    """The module, up to date with the sources; RuntimeError with the compiler's words."""
    import pybind11

    folder = ROOT / "build" / "races"
    folder.mkdir(parents=True, exist_ok=True)
    include = [f"-I{path}" for path in (sysconfig.get_path("include"), pybind11.get_include())]
    sources = [*cpu_sources(), CSRC / "module_cpu.cpp"]
    sources.append(Path(__file__).with_name("openmp_threads.cpp"))
    module = folder / f"_cpu{sysconfig.get_config_var('EXT_SUFFIX')}"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several pytest processes may want it at once
        made = objects(["g++", *FLAGS, *INCLUDE, *include], sources, folder)
        # Without -fopenmp: `#pragma omp` is answered by openmp_threads.cpp.
        run_compiler(["g++", "-shared", "-fsanitize=thread", *made, "-o", str(module), "-lpthread"])
    return module


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run race_cases.py on the module under ThreadSanitizer, in a process of its own."""
    # libstdc++ too: the runtime looks up the function that throws when it starts.
    preload = [_of_compiler("libtsan.so"), _of_compiler("libstdc++.so")]
    environment = dict(
        os.environ,
        LD_PRELOAD=" ".join(preload),
        TSAN_OPTIONS="halt_on_error=1:ignore_noninstrumented_modules=1:report_signal_unsafe=0",
        OMP_NUM_THREADS="1",
    )
    script = Path(__file__).with_name("race_cases.py")
    return subprocess.run(
        [sys.executable, str(script), str(build()), *arguments],
        env=environment, cwd=script.parent, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
