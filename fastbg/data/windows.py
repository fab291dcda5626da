"""Reads windows of images from a CSV file with the columns image,y0,x0,y1,x1 (SR pixels)."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from fastbg.data.sets import ImageSet
from fastbg.errors import InvalidArgument
from fastbg.geometry import Box
from fastbg.printable import printable

COLUMNS = ("image", "y0", "x0", "y1", "x1")


def names_of(path: Path) -> set[str | Path]:
    """What a list may call an image: its path, file name, or file name without suffix."""
    shown = printable(path.name), printable(path.stem)
    return {path, path.name, path.stem, *shown}


def read_windows(path: Path, argument: str) -> list[tuple[str, Box]]:
    """Image name and window of each line of a CSV file with the columns COLUMNS.

    Raises InvalidArgument, naming `argument`, for an unreadable file and an invalid line.
    """
    try:
        if path.exists() and not path.is_file():  # opening a pipe would block
            raise InvalidArgument(argument, path, "a CSV file; this is no regular file")
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            names = reader.fieldnames or []
            missing = [name for name in COLUMNS if name not in names]
            if missing:
                told = f"{printable(path)} with columns {', '.join(names) or '(none)'}"
                raise InvalidArgument(argument, told, f"columns {', '.join(COLUMNS)}")
            found = [_line(argument, path, reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        cause = getattr(error, "strerror", None) or error
        raise InvalidArgument(argument, path, f"a CSV file; it cannot be read: {cause}") from error
    if not found:
        raise InvalidArgument(argument, f"{printable(path)} without a line", "a window a line")
    return found


def _line(argument: str, path: Path, number: int, row: dict[str, str | None]) -> tuple[str, Box]:
    values = [row[name] or "" for name in COLUMNS[1:]]
    try:
        y0, x0, y1, x1 = (int(value) for value in values)
    except ValueError:
        y0 = x0 = y1 = x1 = 0
    if not (0 <= y0 < y1 and 0 <= x0 < x1 and row["image"]):
        raise InvalidArgument(
            argument,
            f"{printable(path)}, line {number}: {','.join([row['image'] or '', *values])}",
            "an image's name and whole numbers with 0 <= y0 < y1, 0 <= x0 < x1",
        )
    return row["image"], Box(y0, x0, y1, x1)


def one_window_each(
    listed: Sequence[tuple[str, Box]], images: ImageSet, argument: str
) -> dict[str, Box]:
    """The window of every image, by key. `listed` must name each once, by key, path or file name.

    Raises InvalidArgument, naming `argument` and the images, if it does not.
    """
    called: dict[str, set[str]] = defaultdict(set)
    for item in images.items:
        for name in (item.key, item.path.name, item.path.stem, str(item.path)):
            called[name].add(item.key)
    found: dict[str, Box] = {}
    for name, box in listed:
        keys = [name] if name in images else sorted(called.get(name, ()))
        if len(keys) != 1:
            expected = f"one of them, by its path: {', '.join(keys)}" if keys else "one of the set"
            raise InvalidArgument(argument, f"image {name!r}", f"{expected} ({images.name})")
        if keys[0] in found:
            raise InvalidArgument(argument, f"image {name!r} twice", "one window for each image")
        found[keys[0]] = box
    missing = [item.key for item in images.items if item.key not in found]
    if missing:
        got = f"no window for {shortened(missing)}"
        raise InvalidArgument(argument, got, f"one for each image of {images.name}")
    return found


def shortened(names: Sequence[str], most: int = 5) -> str:
    """The first `most` names, such as "a.png, b.png and 7 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
