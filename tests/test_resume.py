"""A run that was killed with -9 resumes, repeats nothing, and ends as an unbroken one."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from small_run import EXPERIMENTS, OPTIONS, contents, make_images, make_network
from torch import Tensor

from fastbg.cli import main
from fastbg.engines.local import Job
from fastbg.experiments.study import Item

LONGEST = 120.0  # seconds until the record at which the run is killed


def records(folder: Path) -> int:
    """Committed records of a run that another process is writing."""
    if not (folder / "run.sqlite").is_file():
        return 0
    try:
        with sqlite3.connect(f"file:{folder / 'run.sqlite'}?mode=ro", uri=True) as connection:
            return int(connection.execute("SELECT count(*) FROM records").fetchone()[0])
    except sqlite3.OperationalError:  # no table yet
        return 0


@pytest.mark.parametrize("kill_at", [1, 15])
def test_a_killed_run_resumes(
    kill_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the first of 4 images of `slicing`, and between the chunks of `table1`."""
    images, network = make_images(tmp_path / "images"), make_network(tmp_path / "net.safetensors")
    command = ["run", *EXPERIMENTS, "--data", str(images), "--model", str(network), *OPTIONS]

    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert main([*command, "--out", str(unbroken)]) == 0
    total = records(unbroken)
    assert total == 4 + 25

    script = (
        "import sys, time; from fastbg.cli import main; from fastbg.engines.local import Job;"
        "put = Job.put;"
        "Job.put = lambda *a: (put(*a), time.sleep(0.5));"  # time to be killed in
        "sys.exit(main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, *command, "--out", str(broken)],
        cwd=Path(__file__).parent,  # not where a fastbg lies that is not the installed one
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    give_up = time.monotonic() + LONGEST
    try:
        while records(broken) < kill_at and process.poll() is None:
            assert time.monotonic() < give_up, "the run came to nothing"
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    kept = records(broken)
    assert kill_at <= kept < total
    assert not (broken / "report.html").exists()

    measured: list[Item] = []
    put = Job.put

    def counted(job: Job, items: Sequence[Item], columns: dict[str, Tensor]) -> None:
        measured.extend(items)
        put(job, items, columns)

    monkeypatch.setattr(Job, "put", counted)
    assert main([*command, "--out", str(broken)]) == 0
    assert len(measured) == total - kept
    assert contents(broken) == contents(unbroken)
    assert sorted(os.listdir(broken / "figures")) == sorted(os.listdir(unbroken / "figures"))
