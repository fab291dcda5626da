"""The folder that a process works in, which may be removed while it runs, or before it starts."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def is_removed() -> bool:
    """Whether the working folder is no longer there: relative paths then lead nowhere."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


@contextmanager
def elsewhere() -> Iterator[None]:
    """Inside, the working folder exists: the root if it was removed, otherwise what it was.

    For parts of PyTorch that ask for its name while they are loaded. It is back afterwards, so that
    a relative path never leads to another file.
    """
    if not is_removed():
        yield
        return
    kind = getattr(os, "O_PATH", os.O_RDONLY)  # of Linux: the folder need not be readable
    folder = os.open(os.curdir, kind | os.O_CLOEXEC)
    try:
        os.chdir(os.sep)
        yield
    finally:
        os.fchdir(folder)
        os.close(folder)


def load_torch() -> None:
    """Import PyTorch where the working folder has been removed; oneMKL would end the process."""
    if "torch" not in sys.modules and is_removed():
        with elsewhere():
            import torch  # noqa: F401
