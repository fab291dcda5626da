"""The run store survives: kill -9 at any moment, two writers, a disk that fills up."""

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kill_run
import numpy as np
import pytest

from fastbg.errors import RunStoreError
from fastbg.runs import RunStore
from fastbg.runs.lock import FolderLock

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


def opened_elsewhere(folder: Path) -> str:
    """What another process prints that opens the store: "opened", or its error."""
    script = (
        "import sys; from fastbg.runs import RunStore; from fastbg.errors import RunStoreError\n"
        "try: RunStore.open(sys.argv[1], {'models': ['edsr'], 'scale': 4}); print('opened')\n"
        "except RunStoreError as error: print(error)"
    )
    command = [sys.executable, "-c", script, str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def forked(do: Callable[[], None]) -> int:
    """The process id of a fork that does this and ends at once, without clean-up."""
    process = os.fork()
    if process == 0:
        try:
            do()
        finally:
            os._exit(0)
    return process


def test_a_removed_lock_ends_the_writer_that_held_it(tmp_path: Path) -> None:
    """It would write beside the process that locks a new file."""
    with RunStore.open(tmp_path, CONFIG) as store:
        store.put("e", "m", "0", {"psnr": 1.0})
        (tmp_path / "run.lock").unlink()
        assert opened_elsewhere(tmp_path) == "opened\n"
        for _ in range(2):
            with pytest.raises(
                RunStoreError, match=r"its run\.lock was removed, moved or replaced"
            ):
                store.put("e", "m", "1", {"psnr": 1.0})
    with RunStore.open(tmp_path, CONFIG) as store:
        assert store.done("e", "m") == {"0"}


def test_a_folder_that_is_replaced_gets_nothing_of_the_old_run(tmp_path: Path) -> None:
    with RunStore.open(tmp_path / "run", CONFIG) as store:
        (tmp_path / "run").rename(tmp_path / "moved")
        with RunStore.open(tmp_path / "run", CONFIG) as other:
            with pytest.raises(RunStoreError, match=r"run\.lock was removed, moved"):
                store.put("e", "m", "1", {"psnr": 1.0})
            other.put("e", "m", "2", {"psnr": 1.0})
            assert other.done("e", "m") == {"2"}


def test_a_file_that_is_removed_while_the_run_writes_ends_it(tmp_path: Path) -> None:
    """SQLite would go on writing to a file that has no name any more."""
    with RunStore.open(tmp_path, CONFIG) as store:
        store.put("e", "m", "0", {"psnr": 1.0})
        (tmp_path / "run.sqlite").rename(tmp_path / "kept")
        for _ in range(2):
            with pytest.raises(
                RunStoreError, match=r"its run\.sqlite was removed, moved or replac"
            ):
                store.put("e", "m", "1", {"psnr": 1.0})
        (tmp_path / "kept").rename(tmp_path / "run.sqlite")
        store.put("e", "m", "2", {"psnr": 1.0})
    with RunStore.read(tmp_path) as store:
        assert store.done("e", "m") == {"0", "2"}


def test_a_closed_store_and_another_thread_are_named(tmp_path: Path) -> None:
    store = RunStore.open(tmp_path, CONFIG)
    with ThreadPoolExecutor(1) as pool:
        elsewhere = pool.submit(store.put, "e", "m", "0", {"psnr": 1.0})
    with pytest.raises(RunStoreError, match="open the run in the thread that uses it"):
        elsewhere.result()
    store.close()
    with pytest.raises(RunStoreError, match="was closed; open it again to write"):
        store.put("e", "m", "0", {"psnr": 1.0})
    with pytest.raises(
        RunStoreError, match=r"closed .*open the run in the thread .* close it last"
    ):
        store.records()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_neither_writes_nor_keeps_the_lock(tmp_path: Path) -> None:
    read, write = os.pipe()
    store = RunStore.open(tmp_path, CONFIG)
    store.put("e", "m", "0", {"psnr": 1.0})

    def in_child() -> None:
        try:
            store.put("e", "m", "1", {"psnr": 1.0})
        except RunStoreError as error:
            os.write(write, str(error).encode())
        store.close()

    child = forked(in_child)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        message = pipe.read()
    assert f"was opened by process {os.getpid()}, and this is process {child}" in message
    store.put("e", "m", "2", {"psnr": 1.0})  # the child's end took nothing from the parent

    sleeping = forked(lambda: time.sleep(60))
    try:
        assert f"is in use by process {os.getpid()} on " in opened_elsewhere(tmp_path)
        store.close()
        assert opened_elsewhere(tmp_path) == "opened\n"
    finally:
        os.kill(sleeping, signal.SIGKILL)
        os.waitpid(sleeping, 0)
    with RunStore.read(tmp_path) as store:
        assert store.done("e", "m") == {"0", "2"}


def test_a_lock_removed_between_opening_and_locking_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, removed = fcntl.flock, []

    def late(descriptor: int, how: int) -> None:
        if not removed:
            removed.append((tmp_path / "run.lock").unlink())
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with RunStore.open(tmp_path, CONFIG):
        assert "is in use by process" in opened_elsewhere(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunStoreError, match=r"has no file locks .*; choose a folder on another"):
        RunStore.open(tmp_path, CONFIG)


def not_its_own(kind: str, folder: Path) -> Path:
    """Puts something in the place of `folder`'s run.lock; the file beside it that is precious."""
    precious, lock = folder.parent / "precious", folder / "run.lock"
    precious.write_text("precious")
    folder.mkdir()
    if kind == "link":
        lock.symlink_to(precious)
    elif kind == "link to nothing":
        lock.symlink_to(folder / "nothing")
    elif kind == "second name":
        os.link(precious, lock)
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    return precious


@pytest.mark.parametrize("kind", ["link", "link to nothing", "second name", "pipe", "folder"])
def test_what_a_lock_leads_to_is_not_overwritten(kind: str, tmp_path: Path) -> None:
    """A folder that came from elsewhere may hold a run.lock that is another file."""
    precious = not_its_own(kind, tmp_path / "run")
    with pytest.raises(RunStoreError, match=r"its run\.lock is a link, .* remove it, or choose"):
        RunStore.open(tmp_path / "run", CONFIG)
    assert precious.read_text() == "precious"
    assert os.listdir(tmp_path / "run") == ["run.lock"]


def test_what_a_lock_says_is_one_line(tmp_path: Path) -> None:
    lock = tmp_path / "run.lock"
    lock.write_bytes(b"nobody\x1b[2J\nfastbg: all is well \xff")
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunStoreError) as caught:
            RunStore.open(tmp_path, CONFIG)
    assert "is in use by nobody\\x1b[2J\\nfastbg: all is well" in str(caught.value)


def test_a_pipe_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.sqlite")
    with pytest.raises(RunStoreError, match=r"run\.sqlite: is no regular file"):
        RunStore.open(tmp_path, CONFIG)
    (tmp_path / "run.sqlite").unlink()
    RunStore.open(tmp_path, CONFIG).close()  # nothing is locked


def take_in_turn(folder: Path, until: float) -> None:
    """Count up what two would count once, and make a file that there must not be before."""
    while time.monotonic() < until:
        try:
            lock = FolderLock(folder)
        except RunStoreError:
            continue
        count = int((folder / "count").read_text())
        os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
        (folder / "count").write_text(str(count + 1))
        os.unlink(folder / "inside")
        (folder / f"of {os.getpid()}").open("a").write("x")
        lock.release()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_of_many_processes_one_has_the_lock(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    until = time.monotonic() + 1
    processes = [forked(lambda: take_in_turn(tmp_path, until)) for _ in range(4)]
    for process in processes:
        os.waitpid(process, 0)
    counted = sum(len(path.read_text()) for path in tmp_path.glob("of *"))
    assert int((tmp_path / "count").read_text()) == counted > 0
    assert not (tmp_path / "inside").exists()


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
