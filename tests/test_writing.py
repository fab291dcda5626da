"""Files are written whole or not at all."""

import os
import stat
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


def write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text)


def test_a_link_stays_and_leads_to_the_new_file(tmp_path: Path) -> None:
    """Who reads the file that it leads to would otherwise go on reading the old one."""
    there, later = tmp_path / "far" / "a.txt", tmp_path / "far" / "b.txt"
    there.parent.mkdir()
    there.write_text("old")
    for name, target in (("a", there), ("b", later)):
        link = tmp_path / name
        link.symlink_to(target)
        write(link, "new")
        assert link.is_symlink()
        assert target.read_text() == "new"
        assert not target.is_symlink()
    assert sorted(os.listdir(there.parent)) == ["a.txt", "b.txt"]


def test_a_link_to_itself_is_an_error_of_the_file_system(tmp_path: Path) -> None:
    link = tmp_path / "a"
    link.symlink_to(link)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        write(link, "new")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_the_new_file_has_the_old_ones_permissions(mode: int, tmp_path: Path) -> None:
    """Nobody can read it who could not read the old one, nor while it is written."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(mode)
    with replacing(path) as partial:
        assert stat.S_IMODE(partial.stat().st_mode) == mode
        partial.write_text("new")
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_text() == "new"


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(pipe.read_text)
        write(pipe, "text")
        assert reader.result(60) == "text"
    assert pipe.is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_device_is_written_to(tmp_path: Path) -> None:
    """Root would otherwise leave a regular file in the place of /dev/null."""
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.stat(os.devnull).st_rdev)
        device.write_text("")
    except OSError as error:
        pytest.skip(f"cannot make a device: {error}")
    write(device, "text")
    assert device.is_char_device()
    assert os.listdir(tmp_path) == ["null"]


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("to", ["a pipe", "a file"])
def test_what_goes_to_the_standard_output_arrives_there(name: str, to: str, tmp_path: Path) -> None:
    if not os.path.exists(name):
        pytest.skip(f"this system has no {name}")
    script = (
        "import sys; from pathlib import Path; from fastbg.writing import replacing\n"
        "with replacing(Path(sys.argv[1])) as partial: partial.write_text('text')"
    )
    command, out = [sys.executable, "-c", script, name], tmp_path / "out"
    if to == "a pipe":
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert done.stdout == "text"
    else:
        with out.open("w") as file:
            subprocess.run(command, check=True, stdout=file)
            assert os.fstat(file.fileno()).st_ino == out.stat().st_ino
        assert out.read_text() == "text"
        assert os.listdir(tmp_path) == ["out"]
