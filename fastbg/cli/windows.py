"""Windows on a command line: `Y X SIZE`, `Y0 X0 Y1 X1`, `center [SIZE]`, or a CSV file."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fastbg.data.windows import names_of, read_windows
from fastbg.errors import InvalidArgument
from fastbg.geometry import Box, centre

ARGUMENT = "--window"
FORMS = "Y X SIZE, Y0 X0 Y1 X1, center [SIZE], or a CSV file"
CENTRE = 16  # SR pixels a side, as in the LAM paper


@dataclass(frozen=True)
class Windows:
    """The requested windows of each image."""

    boxes: tuple[Box, ...] = ()  # of every image, as given
    centres: tuple[int, ...] = ()  # sides of windows in the middle of every image
    listed: tuple[tuple[str, Box], ...] = ()  # image name, box: from CSV files

    def of(self, path: Path, height: int, width: int) -> list[Box]:
        """The windows for the image `path`, whose SR image has (height, width) pixels.

        Raises InvalidArgument for one that is not inside.
        """
        middle = []
        for size in self.centres:
            if size > min(height, width):
                expected = f"at most {min(height, width)} pixels a side, the SR image's"
                raise InvalidArgument(ARGUMENT, f"center {size}", expected)
            middle.append(centre(size, height, width))
        found = [*self.boxes, *middle, *self.listed_for(path)]
        for box in found:
            if not (0 <= box.y0 < box.y1 <= height and 0 <= box.x0 < box.x1 <= width):
                expected = f"a window inside the SR image, which has {height}x{width} pixels"
                raise InvalidArgument(ARGUMENT, window_text(box), expected)
        return found

    def listed_for(self, path: Path) -> list[Box]:
        """The windows that CSV files list for the image `path`."""
        found = {line for name in names_of(path) for line in self._lines.get(name, ())}
        return [self.listed[line][1] for line in sorted(found)]

    @cached_property
    def _lines(self) -> dict[str | Path, list[int]]:
        """The numbers of the lines of each name, as it stands and as a path."""
        lines: dict[str | Path, list[int]] = defaultdict(list)
        for number, (name, _) in enumerate(self.listed):
            lines[name].append(number)
            lines[Path(name)].append(number)
        return dict(lines)

    def count(self, path: Path) -> int:
        """Number of windows of the image."""
        return len(self.boxes) + len(self.centres) + len(self.listed_for(path))

    def refuse_strangers(self, images: Sequence[Path]) -> None:
        """InvalidArgument for a CSV file with an image that is not among `images`."""
        known = {name for path in images for name in names_of(path)}
        for name, _ in self.listed:
            if name not in known and Path(name) not in known:
                told = f"image {name!r} in a CSV file"
                raise InvalidArgument(ARGUMENT, told, "the name of an IMAGE that is given")


def window_text(box: Box) -> str:
    """The window as written on a command line."""
    y0, x0, y1, x1 = box
    return f"{y0} {x0} {y1 - y0}" if y1 - y0 == x1 - x0 else f"{y0} {x0} {y1} {x1}"


def parse_windows(given: Sequence[Sequence[str]]) -> Windows:
    """Parses the values of each --window; InvalidArgument if they are no window."""
    boxes, centres, listed = [], [], []
    for words in given:
        if words[0].lower() in ("center", "centre"):
            centres.append(_centre(words))
        elif len(words) == 1 and words[0].lower().endswith(".csv"):
            listed += read_windows(Path(words[0]), ARGUMENT)
        else:
            boxes.append(_box(words))
    return Windows(tuple(boxes), tuple(centres), tuple(listed))


def _centre(words: Sequence[str]) -> int:
    if len(words) == 1:
        return CENTRE
    if len(words) == 2 and words[1].isdigit() and int(words[1]) > 0:
        return int(words[1])
    raise InvalidArgument(ARGUMENT, repr(" ".join(words)), "center, or center SIZE, SIZE >= 1")


def _box(words: Sequence[str]) -> Box:
    told = " ".join(words)
    try:
        values = [int(word) for word in words]
    except ValueError:
        raise InvalidArgument(ARGUMENT, repr(told), f"{FORMS}, in whole numbers") from None
    if len(values) == 3:
        y, x, size = values
        if min(y, x) < 0 or size < 1:
            raise InvalidArgument(ARGUMENT, told, "Y X SIZE with Y, X >= 0 and SIZE >= 1")
        return Box(y, x, y + size, x + size)
    if len(values) == 4:
        box = Box(*values)
        if min(values) < 0 or box.y0 >= box.y1 or box.x0 >= box.x1:
            raise InvalidArgument(ARGUMENT, told, "Y0 X0 Y1 X1 with 0 <= Y0 < Y1 and 0 <= X0 < X1")
        return box
    raise InvalidArgument(ARGUMENT, repr(told), FORMS)
