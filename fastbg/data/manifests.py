"""Draws sub-images and groups of composites for experiments, with a seed.

Runs store the drawn items, because numpy may change its random streams between versions.
"""

import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fastbg.data.images import ImageItem, ImageSet
from fastbg.data.sets import decoded
from fastbg.errors import DataError, InvalidArgument

T = TypeVar("T")

MIN_STD = 4.0
"""Grey levels. A flatter crop has 36 dB if it is replaced by its mean, so it measures nothing."""


@dataclass(frozen=True)
class SubImage:
    """A square of `size` HR pixels of one image of a set, by its top-left corner."""

    item: str
    y: int
    x: int
    size: int

    @property
    def key(self) -> str:
        """Name for records and captions, unique within an image set."""
        return f"{self.item}@{self.y},{self.x}"


@dataclass(frozen=True)
class Group:
    """A foreground and its foreign backgrounds, as indices into two lists.

    The own background also belongs to the group: the unchanged sub-image.
    """

    foreground: int
    backgrounds: tuple[int, ...]


def sub_images(
    images: ImageSet,
    count: int,
    size: int,
    seed: int,
    multiple: int = 4,
    min_std: float = MIN_STD,
) -> list[SubImage]:
    """Draw `count` different squares of `size` HR pixels, spread evenly over the photographs.

    Every photograph gives one square before any gives a second, so the first squares of the list
    are spread evenly, too. Several images of one photograph take turns. Corners lie at multiples of
    `multiple`. Images smaller than `size` are skipped, and so are squares whose grey levels (mean
    of R, G, B) have a standard deviation below `min_std`; with `min_std` 0 no image is decoded.
    (The paper draws 150 squares of 256 pixels for Table 1 and 300 of 128 pixels for composites.)

    Raises InvalidArgument, and DataError if there are not enough squares.
    """
    for name, value in {"count": count, "size": size, "multiple": multiple}.items():
        if value < 1:
            raise InvalidArgument(name, value, "at least 1")
    _check_seed(seed)
    rng = np.random.default_rng(seed)
    photographs: dict[str, list[Iterator[SubImage]]] = defaultdict(list)
    for i in rng.permutation(len(images.items)):
        item = images.items[i]
        squares = _squares(item, count, size, seed, multiple, min_std)
        photographs[images.source(item.key)].append(squares)
    drawn = list(islice(in_turn(map(in_turn, photographs.values())), count))
    if len(drawn) < count:
        raise DataError(
            f"image set {images.name}: its {len(images)} images contain {len(drawn)} different "
            f"squares of {size} pixels (corners at multiples of {multiple}, standard deviation "
            f"at least {min_std} grey levels); expected {count}: more or larger images, or a "
            "smaller size or count of squares"
        )
    return drawn


def in_turn(lists: Iterable[Iterable[T]]) -> Iterator[T]:
    """The first element of each of `lists`, then the second of each, and so on."""
    waiting = [iter(each) for each in lists]
    while waiting:
        left = []
        for each in waiting:
            for one in islice(each, 1):
                yield one
                left.append(each)
        waiting = left


def by_photograph(images: ImageSet, items: Iterable[ImageItem]) -> list[ImageItem]:
    """`items` reordered: one image of every photograph, then the second ones, and so on."""
    photographs: dict[str, list[ImageItem]] = defaultdict(list)
    for item in items:
        photographs[images.source(item.key)].append(item)
    return list(in_turn(photographs.values()))


def _squares(
    item: ImageItem, count: int, size: int, seed: int, multiple: int, min_std: float
) -> Iterator[SubImage]:
    """The squares of one image, in a random order that depends on its key and the seed only."""
    height, width = item.size()
    if min(height, width) < size:
        return
    rows, columns = (height - size) // multiple + 1, (width - size) // multiple + 1
    if min_std > 0:
        flat = _standard_deviations(decoded(item), size)[::multiple, ::multiple] < min_std
        corners = np.flatnonzero(~flat)
    else:
        corners = np.arange(rows * columns)
    rng = np.random.default_rng((seed, zlib.crc32(item.key.encode())))
    chosen = rng.permutation(corners)[:count].tolist()  # the list, not the image, stays in memory
    for corner in chosen:
        y, x = divmod(corner, columns)
        yield SubImage(item.key, y * multiple, x * multiple, size)


def _standard_deviations(image: NDArray[np.uint8], size: int) -> NDArray[np.float64]:
    """Standard deviation of (R + G + B) / 3 in each square, by corner; from summed-area tables."""
    grey = image.sum(axis=2, dtype=np.int64)

    def square_sums(values: NDArray[np.int64]) -> NDArray[np.int64]:
        table = np.pad(values, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
        rows = table[size:] - table[:-size]
        return rows[:, size:] - rows[:, :-size]

    mean = square_sums(grey) / size**2
    variance = square_sums(grey**2) / size**2 - mean**2
    return np.sqrt(variance.clip(min=0)) / 3


def composite_groups(
    n_foregrounds: int = 150,
    n_backgrounds: int = 150,
    groups: int = 100,
    per_group: int = 100,
    seed: int = 0,
    eligible: Sequence[Sequence[int]] | None = None,
) -> tuple[Group, ...]:
    """The paper's groups: `groups` foregrounds with `per_group` backgrounds each, own included.

    The paper selected from all 22,500 pairs by hand; here `seed` draws the foregrounds that are
    kept (in ascending order) and the foreign backgrounds of each (ascending, all different).
    `eligible` lists the permitted backgrounds of each foreground, such as those of other
    photographs.

    Raises InvalidArgument if a number is out of range, or a foreground has too few backgrounds.
    """
    if not 1 <= groups <= n_foregrounds:
        raise InvalidArgument("groups", groups, f"1 to n_foregrounds ({n_foregrounds})")
    if not 1 <= per_group <= n_backgrounds + 1:
        raise InvalidArgument("per_group", per_group, f"1 to n_backgrounds + 1 ({n_backgrounds})")
    _check_seed(seed)
    choices: Sequence[Sequence[int]] = [range(n_backgrounds)] * n_foregrounds
    if eligible is not None:
        choices = eligible
        fewest = min(len(choice) for choice in choices)
        if fewest < per_group - 1:
            raise InvalidArgument("per_group", per_group, f"at most {fewest + 1}, as many may meet")
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.choice(n_foregrounds, groups, replace=False)).tolist()

    def foreign(foreground: int) -> tuple[int, ...]:
        drawn = rng.choice(choices[foreground], per_group - 1, replace=False)
        return tuple(np.sort(drawn).tolist())

    return tuple(Group(foreground, foreign(foreground)) for foreground in kept)


def load_sub_image(images: ImageSet, sub: SubImage) -> NDArray[np.uint8]:
    """Pixels (size,size,3) uint8 of a sub-image; the last few decoded images are cached."""
    return _cut(decoded(images[sub.item]), sub)


def _cut(image: NDArray[np.uint8], sub: SubImage) -> NDArray[np.uint8]:
    bottom, right = sub.y + sub.size, sub.x + sub.size
    if min(sub.y, sub.x) < 0 or bottom > image.shape[0] or right > image.shape[1]:
        raise DataError(f"{sub}: outside its image of {image.shape[0]}x{image.shape[1]} pixels")
    return image[sub.y : bottom, sub.x : right].copy()


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise InvalidArgument("seed", seed, "0 or more")
