"""SHA-256 of files, cached in the user's cache folder by path, size and modification time."""

import hashlib
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from functools import cache
from pathlib import Path

from fastbg import users_line
from fastbg.errors import DataError
from fastbg.printable import printable

_DIGEST = re.compile("[0-9a-f]{64}")
_TABLE = "CREATE TABLE IF NOT EXISTS digests (version TEXT PRIMARY KEY, digest TEXT NOT NULL)"
# A file modified more recently may change again within the same time stamp, so it is not cached.
_SETTLED = 2_000_000_000  # nanoseconds


def digests(paths: Iterable[Path]) -> dict[Path, str]:
    """SHA-256 of each file's contents, 64 hex digits. Raises DataError for an unreadable file.

    If the cache cannot be used (read-only, damaged, no home), every file is read; a warning says so
    if it cannot be written either.
    """
    versions = {path: _version(path) for path in dict.fromkeys(paths)}
    known = _recalled()
    found, fresh = {}, {}
    for path, version in versions.items():
        digest = known.get(version)
        if digest is None:
            digest = _digest(path)
            unchanged = _version(path) == version  # while it was read
            if unchanged and _is_settled(_stat(path)):
                fresh[version] = digest
        found[path] = digest
    _remember(fresh)
    return found


def cache_file() -> Path:
    """Path of the cache; RuntimeError if there is no home folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))  # relative ones are to be ignored
    home = base if base.is_absolute() else Path.home() / ".cache"
    if not home.is_absolute():
        raise RuntimeError(f"the home folder is {home}, which is no absolute path")
    return home / "fastbg" / "digests.sqlite"


def file_state(path: Path) -> tuple[int, ...]:
    """Differs after any change of the file, for caches of what is read from it.

    Found with one call of the system, as it is asked for each region that is read. DataError for a
    file that is not there.
    """
    about = _stat(path)
    # Device and inode tell to which file a link leads today.
    state = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
    return state if _is_settled(about) else (*state, time.time_ns())


def _version(path: Path) -> str:
    about = _stat(path)
    # SQLite needs valid text, but file names may contain any bytes.
    real = os.fsencode(os.path.realpath(path)).decode("latin-1")
    return f"{real}\0{about.st_size}\0{about.st_ino}\0{about.st_mtime_ns}\0{about.st_ctime_ns}"


def _is_settled(about: os.stat_result) -> bool:
    return time.time_ns() - max(about.st_mtime_ns, about.st_ctime_ns) > _SETTLED


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DataError(f"{printable(path)}: cannot be read: {error.strerror}") from error


def _digest(path: Path) -> str:
    whole = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                whole.update(block)
    except OSError as error:
        raise DataError(f"{printable(path)}: cannot be read: {error.strerror}") from error
    return whole.hexdigest()


def _recalled() -> dict[str, str]:
    try:
        file = cache_file()
        if not file.exists():
            return {}
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as found:
            rows = found.execute("SELECT version, digest FROM digests").fetchall()
    except (sqlite3.Error, OSError, RuntimeError):  # `_remember` tells why
        return {}
    return {version: digest for version, digest in rows if _DIGEST.fullmatch(str(digest))}


def _remember(fresh: Mapping[str, str]) -> None:
    """Store digests; a damaged cache is begun anew."""
    if not fresh:
        return
    try:
        file = cache_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            _store(file, fresh)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # the disk or the rights, not the file
                raise
            file.unlink()  # SQLite itself removes the journals of a file that is new
            _store(file, fresh)
    except (sqlite3.Error, OSError, RuntimeError) as error:
        if "locked" not in str(error):  # another process stores its own
            _warn(str(error))


def _store(file: Path, fresh: Mapping[str, str]) -> None:
    with closing(sqlite3.connect(file, timeout=5)) as opened, opened:
        opened.execute(_TABLE)
        opened.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?)", fresh.items())


@cache
def _warn(reason: str) -> None:
    """Once for each reason: results are right without the cache, and only later."""
    users_line.warn(
        f"the cache of file digests cannot be written ({printable(reason)}): every image file is "
        "read again each time; set XDG_CACHE_HOME to a folder that can be written",
    )
