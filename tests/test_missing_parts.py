"""fastbg without what may be missing: it imports, says what is not there, computes in PyTorch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# A module that is None in sys.modules cannot be imported, and counts as not installed.
PROGRAM = """
import json, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
import torch
import fastbg
from fastbg.cli import main
from fastbg.registration.dispatch import Place, select
from fastbg.errors import BackendUnavailable

a, place = torch.rand(2, 3, 16, 16), Place(torch.device("cpu"), torch.float32)
boxes = [[0, 1]], (4, 4, 12, 12)
expected = fastbg.composite_lr(a, a, *boxes, backend="torch")
refused = {}
for backend in ("cpu", "triton"):
    try:
        fastbg.composite_lr(a, a, *boxes, backend=backend)
    except BackendUnavailable as error:
        refused[backend] = str(error)
same = torch.allclose(fastbg.composite_lr(a, a, *boxes), expected, rtol=0, atol=1e-6)
told = main(["info"])
found = {"auto": select("composite_lr", place), "same": same, "refused": refused, "info": told}
print(json.dumps(found))
"""


def without(*names: str) -> tuple[dict[str, Any], str]:
    """What the program found without these modules, and what `fastbg info` printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, ",".join(names)],
        cwd=Path(__file__).parent,  # not where a fastbg lies that is not the installed one
        env={key: value for key, value in os.environ.items() if key != "FASTBG_BACKEND"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *info, found = done.stdout.splitlines()
    return json.loads(found), "\n".join(info)


@pytest.mark.parametrize("names", [("fastbg._cpu",), ("fastbg._cpu", "triton")], ids="+".join)
def test_without_the_compiled_module(names: tuple[str, ...]) -> None:
    found, info = without(*names)
    assert (found["auto"], found["same"], found["info"]) == ("torch", True, 0)
    reason = "its compiled module is missing"
    assert reason in found["refused"]["cpu"]
    assert f"cpu: {reason}" in info
    assert "torch: available" in info


def test_without_triton() -> None:
    found, info = without("triton")
    assert (found["same"], found["info"]) == (True, 0)
    assert found["refused"]["triton"].endswith("the package triton is not installed")
    assert "triton: the package triton is not installed" in info
