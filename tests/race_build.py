"""Builds csrc/cpu with ThreadSanitizer and threads that it understands, into build/races."""

import fcntl
import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from emulation_build import ROOT, _of_compiler, missing

CSRC = ROOT / "csrc"
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
    include = [CSRC, CSRC / "common", sysconfig.get_path("include"), pybind11.get_include()]
    flags = [*FLAGS, *(f"-I{path}" for path in include)]
    sources = [*sorted((CSRC / "cpu").glob("*.cpp")), CSRC / "module_cpu.cpp"]
    sources.append(Path(__file__).with_name("openmp_threads.cpp"))
    newest = max(p.stat().st_mtime for p in [*sources, *CSRC.rglob("*.h"), Path(__file__)])

    def compiled(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        if not target.exists() or target.stat().st_mtime < newest:
            _run(["g++", *flags, "-c", str(source), "-o", str(target)])
        return target

    module = folder / f"_cpu{sysconfig.get_config_var('EXT_SUFFIX')}"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several pytest processes may want it at once
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = [str(target) for target in pool.map(compiled, sources)]
        # Without -fopenmp: `#pragma omp` is answered by openmp_threads.cpp.
        _run(["g++", "-shared", "-fsanitize=thread", *objects, "-o", str(module), "-lpthread"])
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


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
