"""Errors of SQLite and of the file system as errors of a run folder, with a remedy."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastbg.errors import RunStoreError
from fastbg.printable import printable

DAMAGED = "run.sqlite is damaged or no SQLite file: move it away, or choose another folder"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def reported(folder: Path) -> Iterator[None]:
    """Turn errors of SQLite and the file system into a RunStoreError with a remedy."""
    try:
        yield
    except UnicodeDecodeError as error:  # in SQLite's message, which quotes what it cannot read
        raise RunStoreError(f"{printable(folder)}: {DAMAGED}") from error
    except (sqlite3.Error, OSError) as error:
        raise RunStoreError(f"{printable(folder)}: {error}; {_remedy(error)}") from error


def _remedy(error: sqlite3.Error | OSError) -> str:
    text = str(error)
    if isinstance(error, sqlite3.ProgrammingError):  # closed, or of another thread
        return "open the run in the thread that uses it, and close it last"
    if "is full" in text or "disk I/O" in text or getattr(error, "errno", None) in _NO_SPACE:
        return "free space there (or check the disk), then repeat the command: it resumes"
    if "not a database" in text or "malformed" in text:
        return DAMAGED
    if "locked" in text:
        return "another program has run.sqlite open: close it, then repeat the command"
    return "expected a folder that can be written: change its rights, or choose another folder"
