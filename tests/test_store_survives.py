"""The run store survives: kill -9 at any moment, two writers, a disk that fills up."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import kill_run
import numpy as np
import pytest

from fastbg.errors import RunStoreError
from fastbg.runs import RunStore

CONFIG = {"models": ["edsr"], "scale": 4}


def start(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    log.touch()
    return subprocess.Popen([sys.executable, kill_run.__file__, str(folder), str(log)])


def wait_for_lines(process: subprocess.Popen[bytes], log: Path, count: int) -> None:
    limit = time.monotonic() + 120
    while log.read_bytes().count(b"\n") < count and process.poll() is None:
        assert time.monotonic() < limit, f"{log} has not got {count} lines"
        time.sleep(0.0005)


def test_a_run_killed_at_random_moments_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    log, killed = tmp_path / "log", 0
    # The first kill falls into the creation of the store, the others into its commits.
    for lines in (0, 15, 40, 60):
        before = log.read_bytes().count(b"\n") if log.exists() else 0
        process = start(tmp_path / "broken", log)
        wait_for_lines(process, log, before + 1 + lines)
        time.sleep(rng.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed == 4
    assert start(tmp_path / "broken", log).wait() == 0

    kill_run.run(tmp_path / "whole", tmp_path / "whole.log")
    with RunStore.read(tmp_path / "broken") as broken, RunStore.read(tmp_path / "whole") as whole:
        records = broken.records()
        assert records == whole.records()
        assert len(records) == kill_run.ITEMS * len(kill_run.EXPERIMENTS)
        for record in records:
            key = (record.experiment, record.model, record.item, "lam")
            np.testing.assert_array_equal(broken.array(*key), whole.array(*key))

    stored: set[tuple[str, str]] = set()
    for line in log.read_text().splitlines():
        word, experiment, *items = line.split()
        keys = {(experiment, item) for item in items}
        if word == "trying":
            assert not keys & stored, "a stored record was measured again"
        if word == "stored":
            stored |= keys


def test_one_writer_and_its_lock_dies_with_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = start(tmp_path / "run", log)
    wait_for_lines(process, log, 5)
    process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(RunStoreError, match=f"run: is in use by process {process.pid} on "):
            RunStore.open(tmp_path / "run", {"items": kill_run.ITEMS}, seeds={"run": 1})
        with RunStore.read(tmp_path / "run") as reader:  # looking is allowed meanwhile
            assert reader.config == {"items": kill_run.ITEMS}
    finally:
        process.kill()
        process.wait()
    with RunStore.open(tmp_path / "run", {"items": kill_run.ITEMS}, seeds={"run": 1}) as store:
        assert store.done("batched", "edsr")


def test_one_writer_within_a_process(tmp_path: Path) -> None:
    with (
        RunStore.open(tmp_path, CONFIG),
        pytest.raises(RunStoreError, match=f"in use by process {os.getpid()}"),
    ):
        RunStore.open(tmp_path, CONFIG)
    store = RunStore.open(tmp_path, CONFIG)
    store.close()
    store.close()


def fill(folder: Path) -> int:
    """Put records until the disk is full; the number that were stored before the error."""
    with RunStore.open(folder, CONFIG) as store:
        for i in range(2000):
            try:
                store.put("e", "m", f"{i:04}", {"text": "x" * 2000})
            except RunStoreError as error:
                message = str(error)
                break
        else:
            pytest.fail("the disk has not become full")
    assert message.startswith(f"{folder}: ")
    assert "free space there" in message
    return i


def check_resumes(folder: Path, stored: int) -> None:
    with RunStore.open(folder, CONFIG) as store:
        assert store.done("e", "m") == {f"{i:04}" for i in range(stored)}
        store.put("e", "m", "next", {"text": "x" * 2000})


def test_a_limit_on_file_sizes_is_reported_and_survived(tmp_path: Path) -> None:
    RunStore.open(tmp_path, CONFIG).close()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        stored = fill(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert stored > 10
    check_resumes(tmp_path, stored)


def test_a_full_disk_is_reported_and_survived(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    size = ["-o", "size=600k"]
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", *size, "none", str(disk)], check=False, capture_output=True
    )
    if mount.returncode:
        pytest.skip(f"cannot mount a small disk: {mount.stderr.decode().strip()}")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(100_000))
        stored = fill(disk / "run")
        assert stored > 10
        ballast.unlink()
        check_resumes(disk / "run", stored)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
