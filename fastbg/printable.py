"""Names of files and networks as text that is safe to print: nothing in them steers a terminal.

A file's name may hold any byte: escape sequences that recolour or erase lines, line breaks that
begin a line of their own, marks that turn the direction of reading, bytes that are no text.
"""

import os

_LETTERS = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Spaces other than " ", and what joins or separates the letters of some scripts and emoji.
_HARMLESS = frozenset("\u00a0\u3000\u200c\u200d")


def printable(name: str | os.PathLike[str]) -> str:
    r"""`name` on one line: what cannot be printed is shown as ``\n``, ``\x1b``, ``\u202e``.

    Bytes that are no UTF-8 are shown as ``\xff``, whatever encoding the locale asks for; text that
    can be printed stays as it is, a backslash too. The result holds no surrogates, so that it can
    be written as UTF-8.
    """
    text = _decoded(os.fspath(name))
    return text if text.isprintable() else "".join(map(_shown, text))


def printable_lines(text: str) -> str:
    """`printable` of each line of `text`, such as a message of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def named(text: str) -> str:
    """`text` as part of a path: UTF-8 on disk, whatever encoding the locale asks for."""
    return os.fsdecode(text.encode("utf-8"))


def _decoded(text: str) -> str:
    """`text` without surrogates, which stand for bytes that the locale could not decode."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # other surrogates, which no file's name has
        return text.encode("utf-8", "backslashreplace").decode()


def _shown(character: str) -> str:
    if character.isprintable() or character in _HARMLESS:
        return character
    return _LETTERS.get(character) or character.encode("unicode_escape").decode()
