"""Reading the files (.npz) that results are saved in."""

import os
import zipfile
import zlib
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbg.errors import DataError
from fastbg.given_path import path_of
from fastbg.printable import printable

# What numpy.load raises on files that are damaged or no archive of arrays.
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    AttributeError,
    TypeError,
    MemoryError,  # by the size that a file says it has
    RuntimeError,  # encrypted, or a compression that Python lacks
    zipfile.BadZipFile,
    zlib.error,
)


def read_arrays(
    path: str | os.PathLike[str], names: Collection[str] | None = None
) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file by name, of `names` those that it has; runs no code of the file.

    Raises DataError for a file that cannot be read, InvalidArgument for a `path` that is none.
    """
    file_path = path_of("path", path)
    try:
        if file_path.exists() and not file_path.is_file():  # opening a pipe would block
            raise DataError(f"{printable(path)}: is no regular file; expected arrays (.npz)")
        # NumPy leaves a damaged file open unless it is given an open one.
        with file_path.open("rb") as file:
            # NumPy would call other files pickled, and advise to load them unsafely.
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no .npz file, or cut off")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                wanted = stored.files if names is None else [n for n in names if n in stored]
                return {name: stored[name] for name in wanted}
    except _UNREADABLE as error:
        raise DataError(f"{printable(path)}: cannot be read as arrays (.npz): {error}") from error
