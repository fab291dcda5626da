"""Atomic writing: a file is replaced completely, or not at all."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which replaces `path` at the end, flushed to disk.

    If the block raises, or the machine stops, `path` is unchanged. Of several threads or processes
    that write one file, the last to end wins. A link stays, and leads to the new file, which has
    the old one's permissions. What cannot be replaced, such as a pipe or /dev/stdout, is itself the
    file to write. Creates the folder if needed. Raises OSError as the file system does.
    """
    mode = _mode(path)
    if mode is not None and _is_stream(path, mode):
        yield path
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Drawn, as threads share a process and containers their numbers; short, as `path` may not be.
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    partial.touch()  # an error of the file system's own, whoever writes it
    try:
        if mode is not None:
            partial.chmod(stat.S_IMODE(mode))
        yield partial
        _flush(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    if os.name == "posix":  # the folder holds the name; Windows cannot open folders
        _flush(path.parent)


def _mode(path: Path) -> int | None:
    """What `path` leads to, and its permissions; None if that is not there yet."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


def _is_stream(path: Path, mode: int) -> bool:
    """Whether others hold `path` open: a pipe or a device, or an open file by its number."""
    folder = os.path.realpath(path.parent)
    special = not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    return special or folder == "/dev" or folder.startswith("/proc/")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
