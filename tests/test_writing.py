"""Files are written whole or not at all."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fastbg.writing import replacing


def test_the_new_file_takes_the_old_ones_place(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.txt"
    for text in ("first", "second"):
        with replacing(path) as partial:
            partial.write_text(text)
            assert not path.exists() or path.read_text() != text
        assert path.read_text() == text
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_half_way() -> None:
        with replacing(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_two_processes_that_write_one_file_leave_one_of_theirs(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    script = (
        "import sys; from pathlib import Path; from fastbg.writing import replacing\n"
        "for _ in range(40):\n"
        "    with replacing(Path(sys.argv[1])) as partial:\n"
        "        partial.write_text(sys.argv[2] * 100_000)"
    )
    both = [subprocess.Popen([sys.executable, "-c", script, str(path), word]) for word in "ab"]
    assert [each.wait() for each in both] == [0, 0]
    assert path.read_text() in ("a" * 100_000, "b" * 100_000)
    assert os.listdir(tmp_path) == ["a.txt"]


def test_threads_that_write_one_file_leave_one_of_theirs(tmp_path: Path) -> None:
    path, both = tmp_path / "a.txt", threading.Barrier(2)

    def write(word: str) -> None:
        with replacing(path) as partial:
            both.wait(60)
            partial.write_text(word * 10)
            both.wait(60)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, "ab"))
    assert path.read_text() in ("a" * 10, "b" * 10)
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_longest_name_of_a_file_is_not_too_long(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".png")
    with replacing(path) as partial:
        partial.write_text("x")
    assert path.read_text() == "x"


def test_the_data_are_on_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("flush"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), replace(a, b)))
    with replacing(tmp_path / "a.txt") as partial:
        partial.write_text("x")
    assert done == ["flush", "replace", "flush"]
