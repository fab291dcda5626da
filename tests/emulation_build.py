"""Builds csrc/emulation on demand, plain or with a sanitizer, into build/emulation."""

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "csrc" / "emulation"
RUNTIMES = {"memory": "libasan.so", "races": "libtsan.so"}  # to be loaded before Python


def missing() -> str | None:
    """Why the emulation cannot be built here, or None."""
    if not SOURCE.is_dir():
        return "the sources csrc/emulation are not beside the tests"
    for tool in ("g++", "cmake"):
        if _tool(tool) is None:
            return f"{tool} is not installed"
    if importlib.util.find_spec("pybind11") is None:
        return "the package pybind11 is not installed"
    return None


def _tool(name: str) -> str | None:
    own = Path(sys.executable).parent  # of this environment, activated or not
    return shutil.which(name) or shutil.which(name, path=str(own))


@cache
def sanitizer_missing(sanitizer: str) -> str | None:
    """Why `sanitizer` cannot be used here, or None."""
    reason = missing()
    if reason is None and not Path(_of_compiler(RUNTIMES[sanitizer])).is_absolute():
        reason = f"g++ has no {RUNTIMES[sanitizer]}"
    return reason


def _of_compiler(library: str) -> str:
    """Path of one of g++'s own libraries, or just its name where there is none."""
    return subprocess.check_output(["g++", f"-print-file-name={library}"], text=True).strip()


@cache
def build(sanitizer: str = "") -> Path:
    """Folder of the modules, up to date with the sources; RuntimeError with the compiler's words.

    `sanitizer`: "memory" (AddressSanitizer and UBSan), "races" (ThreadSanitizer) or none.
    """
    import pybind11

    folder = ROOT / "build" / "emulation" / f"{sanitizer or 'plain'}-{sys.implementation.cache_tag}"
    folder.mkdir(parents=True, exist_ok=True)
    ninja = _tool("ninja")
    configure = [
        str(_tool("cmake")), "-S", str(SOURCE), "-B", str(folder),
        *(["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []),
        "-DCMAKE_CXX_COMPILER=g++",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DFASTBG_EMULATION_SANITIZER={sanitizer}",
    ]  # fmt: skip
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several pytest processes may want it at once
        if not (folder / "CMakeCache.txt").exists():
            _run(configure)
        _run([str(_tool("cmake")), "--build", str(folder), "--parallel"])
    return folder


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")


def provide() -> str | None:
    """Make fastbg._cuda_emulated importable; why that cannot be done here, or None."""
    if importlib.util.find_spec("fastbg._cuda_emulated") is None:
        reason = missing()
        if reason is not None:
            return reason
        load("_cuda_emulated", build())
    return None


def load(name: str, folder: Path) -> ModuleType:
    """Import module `name` of fastbg from `folder`."""
    full = f"fastbg.{name}"
    if full not in sys.modules:
        path = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
        spec = importlib.util.spec_from_file_location(full, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[full] = module
    return sys.modules[full]


def run_sanitized(sanitizer: str, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run tests/`script` on the build with `sanitizer`, in a process of its own."""
    folder = build(sanitizer)
    environment = dict(
        os.environ,
        ASAN_OPTIONS="detect_leaks=0:abort_on_error=0",  # Python keeps what it has until the end
        UBSAN_OPTIONS="print_stacktrace=1",
        TSAN_OPTIONS="halt_on_error=1:ignore_noninstrumented_modules=1:report_signal_unsafe=0",
        PYTHONMALLOC="malloc",  # so that AddressSanitizer sees the bounds of each piece
        OMP_NUM_THREADS="1",
        FASTBG_EMULATE="1",
    )
    # libstdc++ too: the runtime looks up the function that throws when it starts.
    environment["LD_PRELOAD"] = " ".join(map(_of_compiler, (RUNTIMES[sanitizer], "libstdc++.so")))
    return subprocess.run(
        [sys.executable, str(Path(__file__).with_name(script)), str(folder), *arguments],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
