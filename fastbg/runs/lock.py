"""The lock of a run folder: one writer at a time; the error for others names its process."""

import fcntl
import os
import platform
from pathlib import Path

from fastbg.errors import RunStoreError


def take_lock(folder: Path) -> int:
    """Take the folder's lock or raise RunStoreError; the end of the process releases it."""
    descriptor = os.open(folder / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
    except OSError as error:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise RunStoreError(
                f"{folder}: is in use by {holder}; wait for it to end, or choose another folder"
            ) from error
        raise
    return descriptor
