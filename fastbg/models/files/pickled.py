"""Reads the tensors of torch.save's files; every other object becomes an inert stand-in.

Code in a pickle is never run. Training states contain objects of their framework beside the tensors
(histories, namespaces, NumPy scalars): torch's restricted reader builds a `StandIn` for each.
"""

import pickletools  # nosec B403: it reads the steps of a pickle and runs none
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch

from fastbg.errors import CheckpointError
from fastbg.models.files.kinds import LEGACY
from fastbg.printable import printable

MOST_STEPS = 400_000  # of the pickle's machine; 13,000 tensors take so many. Under a second
MOST_BYTES = 16 << 20  # of the pickle, without the tensors
# Names that torch always refuses; a file with them is an attack.
BLOCKED = re.compile(r"(os|sys|posix|nt|subprocess|shutil|socket|ctypes|importlib|runpy)\.")


class StandIn:
    """Placeholder for an object of a training state that is not a tensor; does nothing."""

    def __new__(cls, *_: object, **__: object) -> "StandIn":
        """Accept any arguments."""
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        """Ignore all arguments."""

    def __setstate__(self, _: object) -> None:
        """Ignore the state."""


def read_pickled(path: Path, kind: str) -> object:
    """The content of a torch.save file, with a `StandIn` for each object that torch refuses."""
    try:
        names = _names(path, kind)
        _refuse_blocked(names)
        stand_ins: list[Any] = [(_stand_in(name), name) for name in sorted(names)]
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old storages; not of use to a reader
            with path.open("rb") as stream:  # of a path, torch goes by the suffix
                return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(
            f"{printable(path)} is damaged, or holds more than tensors, which is never run: "
            f"{_reason(error)}"
        ) from error


def _stand_in(name: str) -> type[StandIn]:
    """A class with the name of the one that it replaces."""
    return type(name.rpartition(".")[2], (StandIn,), {})


def _names(path: Path, kind: str) -> set[str]:
    """The full name of every class and function that the file calls.

    Raises ValueError for more steps or bytes than weights need, before any of them is done.
    """
    names: set[str] = set()
    if kind == LEGACY:
        with path.open("rb") as stream:
            limited = _Limited(stream)
            for _ in range(5):  # magic, version, system, content, keys
                names |= _globals(limited)
    else:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch itself does not look at checksums
            if damaged:
                raise ValueError(f"the checksum of {damaged} is not that of its bytes")
            for record in archive.infolist():
                if record.filename.endswith("data.pkl"):
                    if record.file_size > MOST_BYTES:
                        raise ValueError(f"its pickle is larger than {MOST_BYTES:,} bytes")
                    names |= _globals(BytesIO(archive.read(record)))
    return names


def _globals(stream: Any) -> set[str]:
    names = set()
    for step, (code, argument, _) in enumerate(pickletools.genops(stream)):
        if step > MOST_STEPS:
            raise ValueError(f"it takes more than {MOST_STEPS:,} steps to read")
        if code.name == "GLOBAL":
            names.add(_full_name(str(argument)))
    return names


def _full_name(argument: str) -> str:
    """Full name of a "module name" pair, in Python 3: torch.save writes Python 2's module names."""
    module, _, name = argument.partition(" ")
    module, name = NAME_MAPPING.get((module, name), (module, name))
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"


class _Limited:
    """A stream that ends in ValueError after MOST_BYTES."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.left = stream, MOST_BYTES

    def read(self, size: int) -> bytes:
        """As the stream's."""
        self._spend(size)
        return self.stream.read(size)

    def readline(self) -> bytes:
        """As the stream's."""
        line = self.stream.readline(min(self.left, 1 << 16))
        self._spend(len(line))
        return line

    def tell(self) -> int:
        """As the stream's."""
        return self.stream.tell()

    def _spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise ValueError(f"its pickle is larger than {MOST_BYTES:,} bytes")


def _refuse_blocked(names: set[str]) -> None:
    for name in sorted(names):
        if BLOCKED.match(name):
            raise ValueError(f"it would call {name}")


def _reason(error: Exception) -> str:
    """torch's reason without its advice to trust the file."""
    text = str(error) or type(error).__name__
    if "Unsupported operand" in text:
        return "it is pickled with another protocol than 2, torch.save's own; save it again"
    found = re.search(r"WeightsUnpickler error:\s*(.+)", text)  # sometimes two lines further
    return (found[1] if found else text).partition("\n")[0][:300]
