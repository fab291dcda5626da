"""The cache of file digests: unusable in any way, results are right and one warning tells why."""

import os
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from fastbg.data import digests
from fastbg.data.digests import cache_file


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[Path, str]]:
    """Three files and their digests; an own cache, and the warnings of this process forgotten."""
    monkeypatch.setattr(digests, "_SETTLED", 0)  # files of a moment ago may still change
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache # of % this? test"))
    digests._warn.cache_clear()
    contents = {tmp_path / f"{name}.png": name.encode() * 1000 for name in "abc"}
    for path, data in contents.items():
        path.write_bytes(data)
    yield {path: sha256(data).hexdigest() for path, data in contents.items()}
    digests._warn.cache_clear()


def stored() -> int:
    with closing(sqlite3.connect(cache_file())) as cache:
        return int(cache.execute("SELECT count(*) FROM digests").fetchone()[0])


def test_it_is_used(files: dict[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert digests.digests(files) == files
    assert stored() == 3
    monkeypatch.setattr(digests, "_digest", lambda path: pytest.fail(f"{path} is read again"))
    assert digests.digests(files) == files


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_one_is_begun_anew(share: float, files: dict[Path, str]) -> None:
    digests.digests(files)
    data = cache_file().read_bytes()
    cache_file().write_bytes(data[: int(share * len(data))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            assert digests.digests(files) == files
    assert stored() == 3


def test_a_damaged_one_leaves_no_journal_to_the_next(files: dict[Path, str]) -> None:
    digests.digests(files)
    whole = cache_file().read_bytes()
    others = [
        cache_file().with_name(cache_file().name + end) for end in ("-journal", "-wal", "-shm")
    ]
    cache_file().write_bytes(b"damaged " * (len(whole) // 8))
    for other in others:
        other.write_bytes(b"of the damaged one")
    assert digests.digests(files) == files
    assert stored() == 3
    assert not [other.name for other in others if other.exists()]


@pytest.mark.parametrize("damaged", ["no digest", "", "g" * 64, b"\0"])
def test_what_is_no_digest_is_not_taken_for_one(
    damaged: str | bytes, files: dict[Path, str]
) -> None:
    digests.digests(files)
    with closing(sqlite3.connect(cache_file())) as cache, cache:
        cache.execute("UPDATE digests SET digest = ?", (damaged,))
    assert digests.digests(files) == files


def test_one_that_cannot_be_written_is_told_once(
    files: dict[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"digests cannot be written .*set XDG_CACHE_HOME") as told:
        found = [digests.digests(files) for _ in range(3)]
    assert found == [files] * 3
    assert len(told) == 1


def test_a_full_disk_is_told_and_nothing_else(
    files: dict[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(digests, "_store", full)
    with pytest.warns(UserWarning, match="database or disk is full") as told:
        found = [digests.digests(files) for _ in range(3)]
    assert found == [files] * 3
    assert len(told) == 1


@pytest.mark.parametrize(
    "surroundings", [{"HOME": None}, {"HOME": "/dev/null"}, {"HOME": "relative"}, {"HOME": ""}]
)
def test_commands_run_without_a_home(surroundings: dict[str, str | None], tmp_path: Path) -> None:
    """Nothing is written into the working folder instead."""
    program = (
        "import sys; from pathlib import Path; import fastbg.data.digests as d; d._SETTLED = 0\n"
        "print(*d.digests([Path(sys.argv[1])]).values())"
    )
    image, work = tmp_path / "a.png", tmp_path / "work"
    image.write_bytes(b"abc")
    work.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    environment |= {k: v for k, v in surroundings.items() if v is not None}
    environment["XDG_CACHE_HOME"] = "also/relative"
    done = subprocess.run(
        [sys.executable, "-c", program, str(image)],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == sha256(b"abc").hexdigest()
    assert done.stderr.count("the cache of file digests cannot be written") <= 1
    assert list(work.iterdir()) == []
