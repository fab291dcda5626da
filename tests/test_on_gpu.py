"""bench/on_gpu.sh, the one command for a machine with a GPU: every line that a CPU can run."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "bench" / "on_gpu.sh"
pytestmark = [
    pytest.mark.skipif(not SCRIPT.exists(), reason="bench/ is not beside the tests"),
    pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed"),
]


def on_cpu(out: Path, *phases: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The script's phases without a GPU, with the fastbg that is under test."""
    import fastbg

    places = str(Path(fastbg.__file__).parents[1]), os.environ.get("PYTHONPATH", "")
    environment = os.environ | {
        "DEVICE": "cpu",
        "OUT": str(out),
        "PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(filter(None, places)),
        **more,
    }
    return subprocess.run(
        ["bash", str(SCRIPT), *phases], env=environment, capture_output=True, text=True, check=False
    )


def test_every_line_that_needs_no_gpu(tmp_path: Path) -> None:
    done = on_cpu(tmp_path, "build", "check", "time", "trace")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    for phase in ("smoke", "time"):
        record = json.loads((tmp_path / f"on_gpu_{phase}.json").read_text())
        assert record["machine"]["gpu"] is None
        names = {result["name"].split()[0] for result in record["results"]}
        assert {"composite_fwd", "composite_lr", "mosaic", "conv_gram_partial"} <= names
        assert {"gram_partial", "blur_path", "path_integral", "conv3x3_fwd"} <= names
    assert record["ceilings"].keys() == {"bytes", "ieee", "tf32", "bf16"}
    rows = (tmp_path / "on_gpu_time.md").read_text().splitlines()
    assert any(row.startswith("| composite_fwd float32 | cpu |") for row in rows)
    assert any(row.startswith("| edsr, 4 windows, tf32 | eager |") for row in rows)
    assert (tmp_path / "run" / "report.html").is_file()
    said = (tmp_path / "run.txt").read_text().split()
    assert {"swap", "ring"} <= {*said}


def test_what_is_about_gpu_kernels_is_tested_on_a_gpu() -> None:
    files = {path.name for path in Path(__file__).parent.glob("test_*_gpu.py")} - {
        Path(__file__).name
    }
    assert len(files) > 2
    assert files <= {*SCRIPT.read_text().split()}


def test_an_unknown_phase_is_refused(tmp_path: Path) -> None:
    done = on_cpu(tmp_path, "tune")
    assert done.returncode == 2
    assert "unknown phase tune" in done.stdout


def test_a_failing_line_fails_the_script_and_stops_no_other(tmp_path: Path) -> None:
    done = on_cpu(tmp_path, "check", "trace", PYTHON="false")
    assert done.returncode == 1
    assert done.stdout.count("FAILED") == 3


class TestTable:
    @pytest.fixture
    def on_gpu(self, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        monkeypatch.syspath_prepend(str(SCRIPT.parent))
        return importlib.import_module("on_gpu")

    def test_compares_with_the_same_gpu_only(self, on_gpu: ModuleType, tmp_path: Path) -> None:
        kept = {"machine": {"gpu": "A"}, "results": [{"name": "call", "seconds": {"cuda": 2e-6}}]}
        path = tmp_path / "baseline.json"
        assert on_gpu.earlier("A", path) == {}
        path.write_text(json.dumps(kept))
        assert on_gpu.earlier("B", path) == {}
        before = on_gpu.earlier("A", path)
        now = {"name": "call", "seconds": {"cuda": 1e-6, "triton": 4e-6}, "share": {"cuda": 0.5}}
        rows = on_gpu.table([now, {"name": "an answer only"}], before).splitlines()
        assert rows[2:] == ["| call | cuda | 1.0 | 50% | 2.00 |", "| call | triton | 4.0 |  |  |"]

    def test_a_wrong_answer_is_told(self, on_gpu: ModuleType) -> None:
        import torch

        right = torch.tensor([1.0, -4.0])
        case = on_gpu.Case("c", 8, {"way": lambda: right + 0.5}, lambda: right, 1e-5)
        assert on_gpu.disagreement(case) == {"way": 0.125}
