"""The lock of a run folder: one writer at a time; the error for others names its process.

The kernel holds the lock (flock), so it ends with its process, however that ends. The file itself
says only who holds it, and may stay.
"""

import errno
import fcntl
import os
import platform
import stat
import weakref
from pathlib import Path

from fastbg.errors import RunStoreError
from fastbg.printable import printable

_NO_FILE = (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO)
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class FolderLock:
    """The lock of `folder`, held from its making to `release` or the process's end.

    Raises RunStoreError if another process, or this one, holds it, or the file system has no locks;
    OSError as the file system does.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._file = folder, Path(os.path.abspath(folder)) / "run.lock"
        self._process = os.getpid()
        self._descriptor: int | None = self._take()
        self._watched: dict[Path, os.stat_result] = {}
        _HELD.add(self)

    def _take(self) -> int:
        # Its holder is written into the file, and a link would lead to one that is not the run's.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        while True:
            try:
                descriptor = os.open(self._file, flags, 0o644)
            except OSError as error:
                if error.errno not in _NO_FILE:
                    raise
                raise self._not_its_own() from error
            try:
                opened = os.fstat(descriptor)
                if not stat.S_ISREG(opened.st_mode) or opened.st_nlink > 1:
                    raise self._not_its_own()
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_in_place(descriptor):
                    os.ftruncate(descriptor, 0)
                    os.pwrite(
                        descriptor, f"process {self._process} on {platform.node()}".encode(), 0
                    )
                    return descriptor
            except OSError as error:
                holder = printable(os.pread(descriptor, 200, 0).decode(errors="replace"))
                os.close(descriptor)
                refusal = self._refusal(error, holder)
                if refusal:
                    raise RunStoreError(f"{printable(self.folder)}: {refusal}") from error
                raise
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # removed between opening and locking: take the new file's lock

    def _not_its_own(self) -> RunStoreError:
        return RunStoreError(
            f"{printable(self.folder)}: its run.lock is a link, a folder, a pipe or a device; "
            "expected a file of its own: remove it, or choose another folder"
        )

    def _refusal(self, error: OSError, holder: str) -> str:
        """Why the lock cannot be had; empty for other errors of the file system."""
        if isinstance(error, BlockingIOError):
            return (
                f"is in use by {holder or 'another process'}; wait for it to end, or choose "
                "another folder"
            )
        if error.errno in _UNSUPPORTED:
            return (
                f"its file system has no file locks ({error.strerror}), so two processes could "
                "write at once; choose a folder on another disk, such as a local one"
            )
        return ""

    def check(self) -> None:
        """Raises RunStoreError unless this process still holds the folder's lock and its files.

        A forked process does not, nor does one whose run.lock was removed: another process may
        have made a new file and locked that.
        """
        if os.getpid() != self._process:
            raise RunStoreError(
                f"{printable(self.folder)}: was opened by process {self._process}, and this is "
                f"process {os.getpid()}, forked from it; only the one that opened it may write"
            )
        if self._descriptor is None:
            raise RunStoreError(
                f"{printable(self.folder)}: this run was closed; open it again to write"
            )
        if not self._is_in_place(self._descriptor):
            raise RunStoreError(
                f"{printable(self.folder)}: its run.lock was removed, moved or replaced while the "
                "run was writing, so another process may write too. What is stored stays: see "
                "that no other process uses the folder, then repeat the command"
            )
        for file, noted in self._watched.items():
            if not _is_there(file, noted):
                raise RunStoreError(
                    f"{printable(self.folder)}: its {file.name} was removed, moved or replaced "
                    "while the run was writing: what is measured now would be lost. Put it back if "
                    "you can, then repeat the command"
                )

    def watch(self, name: str) -> None:
        """From now on `check` also raises where the folder's file `name` is not the present one."""
        file = self._file.with_name(name)
        self._watched[file] = os.stat(file)

    @property
    def is_own(self) -> bool:
        """Whether this process took it, and is not one forked since."""
        return os.getpid() == self._process

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _is_in_place(self, descriptor: int) -> bool:
        """Whether the folder's run.lock is the open file."""
        return _is_there(self._file, os.fstat(descriptor))


def _is_there(file: Path, noted: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(file), noted)
    except (FileNotFoundError, NotADirectoryError):
        return False


_HELD: "weakref.WeakSet[FolderLock]" = weakref.WeakSet()


def _leave_to_parent() -> None:
    """A forked process closes its copies: the lock shall end with the process that took it."""
    for lock in _HELD:
        lock.release()


os.register_at_fork(after_in_child=_leave_to_parent)
