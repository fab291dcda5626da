"""What may happen to a run: kills, a full disk, a second process, old files, a jumping clock.

It resumes, repeats nothing, and ends as an unbroken one; or it says in one line why it cannot.
"""

import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import kill_campaign
import pytest
from small_run import EXPERIMENTS, OPTIONS, contents, make_images, make_network
from torch import Tensor

from fastbg.cli import main
from fastbg.experiments.study import Item
from fastbg.runs.local import Job

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
        "import sys, time; from fastbg.cli import main; from fastbg.runs.local import Job;"
        "put = Job.put;"
        "Job.put = lambda *a: (put(*a), time.sleep(1.1));"  # so that each chunk is a commit
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
    page = broken / "report.html"
    assert not page.exists() or "Still to come" in page.read_text()

    measured: list[Item] = []
    put = Job.put

    def counted(job: Job, items: Sequence[Item], columns: dict[str, list[Tensor]]) -> None:
        measured.extend(items)
        put(job, items, columns)

    monkeypatch.setattr(Job, "put", counted)
    assert main([*command, "--out", str(broken)]) == 0
    assert len(measured) == total - kept
    assert contents(broken) == contents(unbroken)
    assert sorted(os.listdir(broken / "figures")) == sorted(os.listdir(unbroken / "figures"))


def test_a_short_kill_campaign(tmp_path: Path) -> None:
    """`nox -s kill` does this 100 times; in a process of its own, as it forks."""
    done = subprocess.run(
        [sys.executable, kill_campaign.__file__, "--kills", "3", "--seed", "1"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "'killed': 3" in done.stdout


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """One experiment, to be completed by --out."""
    folder = tmp_path_factory.mktemp("resume")
    images, network = make_images(folder / "images"), make_network(folder / "net.safetensors")
    return ["run", "slicing", "--data", str(images), "--model", str(network), *OPTIONS[-2:]]


@pytest.fixture(scope="module")
def unbroken(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    assert main([*command, "--out", str(out)]) == 0
    return out


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that says why nothing was done."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def test_a_full_disk_stops_the_run_which_then_resumes(
    command: list[str], unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)]
    mounted = subprocess.run(mount, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    try:
        ballast = disk / "ballast"
        space = os.statvfs(disk)
        # Room for the first records, not for the pictures nor for the report.
        ballast.write_bytes(bytes(space.f_bavail * space.f_frsize - 120_000))
        arguments = [*command, "--out", str(disk / "run")]
        message = refused(arguments, capsys)
        assert message.startswith(f"fastbg: {disk / 'run'}: ")
        assert "free space there" in message
        ballast.unlink()
        assert main(arguments) == 0
        assert contents(disk / "run") == contents(unbroken)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_second_process_on_a_run_folder_says_so_and_stops(
    command: list[str], unbroken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(unbroken)
    hold = (
        "import fcntl, os, sys; d = os.open(sys.argv[1], os.O_RDWR);"
        "fcntl.flock(d, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(unbroken / "run.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        message = refused([*command, "--out", str(unbroken)], capsys)
        other.kill()
    assert f"{unbroken}: is in use by process " in message
    assert contents(unbroken) == before


def test_a_run_of_an_older_fastbg_is_named_and_left_alone(
    command: list[str], unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old"
    shutil.copytree(unbroken, old)
    with closing(sqlite3.connect(old / "run.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 0")
    message = refused([*command, "--out", str(old)], capsys)
    assert "has schema 0, written by an older fastbg" in message
    assert "choose another folder" in message
    assert contents(old) == contents(unbroken)


@pytest.mark.parametrize("then", [0.0, 4.1e9], ids=["1970", "2099"])
def test_a_jumping_clock_changes_nothing(
    then: float,
    command: list[str],
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the halves of a run, all its files get another time; within the second, it jumps."""
    arguments = [*command, "--out", str(tmp_path)]
    assert main([*arguments, "--limit", "2"]) == 0
    for path in tmp_path.rglob("*"):
        os.utime(path, (then, then))
    jumps = itertools.cycle([then, 1e9, 2e9, 0.0])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    assert main(arguments) == 0
    assert contents(tmp_path)["records"] == contents(unbroken)["records"]
