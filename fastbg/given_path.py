"""Paths that callers give to public functions: text or `os.PathLike`, everything else is refused.

bytes are refused, too: whether they are UTF-8 or the locale's encoding nobody can tell. So is an
open file: what is written is replaced as a whole, and what is read may be opened more than once.
"""

import os
from pathlib import Path

from fastbg.errors import InvalidArgument

_EXPECTED = "a path: str or os.PathLike"
_SHOWN = 60  # characters of a value


def path_of(argument: str, value: str | os.PathLike[str]) -> Path:
    """`value` as a path. Raises InvalidArgument, naming `argument`, for what is no path."""
    if not isinstance(value, str | os.PathLike):
        shown = repr(value)
        cut = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        raise InvalidArgument(argument, f"{cut} ({type(value).__name__})", _EXPECTED)
    try:
        text: object = os.fspath(value)
    except TypeError as error:  # an __fspath__ that returns something else
        raise InvalidArgument(argument, f"{type(value).__name__} ({error})", _EXPECTED) from error
    if not isinstance(text, str):  # such as os.DirEntry of a folder listed by bytes
        raise InvalidArgument(argument, f"{text!r} ({type(value).__name__})", _EXPECTED)
    if not text:
        raise InvalidArgument(argument, "''", f"{_EXPECTED} that is not empty")
    try:
        os.fsencode(text)
        fits = "\0" not in text
    except UnicodeEncodeError:
        fits = False
    if not fits:
        raise InvalidArgument(argument, text, f"{_EXPECTED}, which a file can have")
    return Path(text)


def file_to_write(argument: str, value: str | os.PathLike[str]) -> Path:
    """`path_of` a file that is to be written; InvalidArgument for a folder, too."""
    path = path_of(argument, value)
    try:
        is_folder = path.is_dir()
    except OSError:  # such as a name that is too long: who writes it will get this error, too
        is_folder = False
    if is_folder:
        raise InvalidArgument(argument, path, "a file to write; this is a folder")
    return path
