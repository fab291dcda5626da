"""Atomic writing: a file is replaced completely, or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which replaces `path` at the end, flushed to disk.

    If the block raises, or the machine stops, `path` is unchanged. Of several threads or processes
    that write one file, the last to end wins. Creates the folder if needed. Raises OSError as the
    file system does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Drawn, as threads share a process and containers their numbers; short, as `path` may not be.
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    partial.touch()  # an error of the file system's own, whoever writes it
    try:
        yield partial
        _flush(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    if os.name == "posix":  # the folder holds the name; Windows cannot open folders
        _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
