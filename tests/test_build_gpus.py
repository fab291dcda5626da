"""Which GPUs a build is for: those asked for, else those in sight; by default none if none is."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RULES = Path(__file__).parents[1] / "csrc" / "cuda" / "gpus.cmake"
SCRIPT = """
cmake_minimum_required(VERSION 3.24)
include("{rules}")
set(CMAKE_CUDA_COMPILER "{folder}/nvcc")
fastbg_cuda_wanted(wanted)
if(wanted)
  fastbg_cuda_architectures()
endif()
message(STATUS "wanted ${{wanted}} for ${{CMAKE_CUDA_ARCHITECTURES}}")
"""
ALL = "80-real;90-real;100-real;120"


def program(path: Path, *lines: str) -> None:
    path.write_text("\n".join(["#!/bin/sh", *(f"echo {line}" for line in lines)]) + "\n")
    path.chmod(0o755)


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not on PATH")
@pytest.mark.parametrize(
    ("gpus", "switches", "expected"),
    [
        ([], {}, "wanted OFF for"),
        (["9.0", "9.0"], {}, "wanted ON for 90-real"),
        (["8.0", "9.0"], {}, "wanted ON for 80-real;90-real"),
        (["13.0"], {}, f"wanted ON for {ALL}"),  # this nvcc does not know it
        (["9.0"], {"FASTBG_CUDA": "OFF"}, "wanted OFF for"),
        ([], {"FASTBG_CUDA": "ON"}, f"wanted ON for {ALL}"),
        ([], {"FASTBG_CUDA_ARCHITECTURES": "90"}, "wanted ON for 90"),
        (["9.0"], {"FASTBG_CUDA_ARCHITECTURES": "80,90"}, "wanted ON for 80;90"),
        (["9.0"], {"FASTBG_CUDA_ARCHITECTURES": "all"}, f"wanted ON for {ALL}"),
    ],
)
def test_gpus(gpus: list[str], switches: dict[str, str], expected: str, tmp_path: Path) -> None:
    program(tmp_path / "nvcc", *(f"sm_{code}" for code in (80, 90, 100, 120)))
    program(tmp_path / "nvidia-smi", *gpus)
    script = tmp_path / "rules.cmake"
    script.write_text(SCRIPT.format(rules=RULES.as_posix(), folder=tmp_path.as_posix()))
    defined = {"FASTBG_CUDA": "AUTO", "FASTBG_CUDA_ARCHITECTURES": "", **switches}
    defined["FASTBG_NVIDIA_SMI"] = str(tmp_path / "nvidia-smi")
    found = subprocess.run(
        ["cmake", *(f"-D{name}={value}" for name, value in defined.items()), "-P", str(script)],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip().endswith(f"-- {expected}".rstrip()), found.stdout
    assert ("no GPU in sight" in found.stdout) is (not gpus and not switches)
