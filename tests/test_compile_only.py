"""Every GPU kernel becomes machine code for every architecture named; no GPU is needed."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[1] / "csrc"
CUDA_FILES = sorted((CSRC / "cuda").glob("*.cu"))

# The interpreter replaces the compiler when it is on, so that this needs a process of its own.
COMPILE = """
import sys
from fastbg.kernels.workloads import workloads
for family, launches in workloads().items():
    for work in launches:
        cubin = work.launch.compile(int(sys.argv[1])).asm["cubin"]
        assert cubin[:4] == bytes([127]) + b"ELF", work.name
        print(family, work.launch.kernel.__name__)
"""


def kernels_defined() -> set[str]:
    """Names of the entry points in fastbg.kernels, read from the sources."""
    spec = importlib.util.find_spec("fastbg.kernels")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return {
        line.removeprefix("def ").split("(")[0]
        for folder in spec.submodule_search_locations
        for path in Path(folder).glob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith("def ") and line.split("(")[0].endswith("_kernel")
    }


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("capability", [80, 90, 100, 120])
def test_triton_kernels_compile(capability: int) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(capability)],
        cwd=Path(__file__).parent,  # not where a fastbg lies that is not the installed one
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    compiled = {line.split()[1] for line in done.stdout.splitlines()}
    assert kernels_defined(), "no kernel was found"
    assert compiled == kernels_defined(), "every kernel needs a workload, see kernels/workloads.py"


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")
@pytest.mark.skipif(not CUDA_FILES, reason="there are no CUDA sources beside the tests")
@pytest.mark.parametrize("capability", [80, 90, 100, 120])
@pytest.mark.parametrize("source", CUDA_FILES, ids=lambda path: path.name)
def test_cuda_kernels_compile(source: Path, capability: int, tmp_path: Path) -> None:
    known = subprocess.run(
        ["nvcc", "--list-gpu-code"], capture_output=True, text=True, check=True
    ).stdout.split()
    if f"sm_{capability}" not in known:
        pytest.skip(f"this nvcc does not know sm_{capability}")
    cubin = tmp_path / "kernels.cubin"
    done = subprocess.run(
        [
            *("nvcc", "-std=c++17", "-O3", "-cubin", f"-arch=sm_{capability}"),
            *("-I", CSRC, "-I", CSRC / "common", source, "-o", cubin),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert cubin.read_bytes()[:4] == b"\x7fELF"
