"""Images with stable keys, read lazily, each with the LR images that belong to it."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbg.data.digests import digests, file_state
from fastbg.data.files import image_size, read_image
from fastbg.errors import DataError
from fastbg.printable import printable

ANY_SCALE = 0
"""Used as scale of LR images whose names contain none."""


def check_lr_size(
    path: str | os.PathLike[str],
    lr: Sequence[int],
    hr: Sequence[int],
    scale: int,
    hr_path: str | os.PathLike[str],
) -> None:
    """DataError unless each side of `lr` is that of `hr` divided by `scale`, rounded up or down."""
    if any(small not in (n // scale, -(-n // scale)) for small, n in zip(lr, hr, strict=True)):
        factor = hr[0] / lr[0] if lr[0] else 0
        hint = (
            f", it fits x{factor:.0f}" if factor == hr[1] / max(lr[1], 1) == round(factor) else ""
        )
        raise DataError(
            f"{printable(path)}: is {lr[0]}x{lr[1]}; expected 1/{scale} of {hr[0]}x{hr[1]}, the "
            f"size of {printable(hr_path)}{hint}"
        )


@dataclass(frozen=True)
class ImageItem:
    """One HR image of a set, with its LR files."""

    key: str  # path inside the set, with '/' between folders: the same on every machine
    path: Path
    lr_paths: tuple[tuple[int, Path], ...] = ()  # (scale or ANY_SCALE, file)

    def size(self) -> tuple[int, int]:
        """Height and width in HR pixels, from the file's header."""
        return image_size(self.path)

    def load(self) -> NDArray[np.uint8]:
        """HR pixels (h,w,3); DataError as `read_image`."""
        return read_image(self.path)

    def lr_path(self, scale: int) -> Path | None:
        """The data set's own LR file at `scale`; None if there is none."""
        paths = dict(self.lr_paths)
        return paths.get(scale, paths.get(ANY_SCALE))

    def load_lr(self, scale: int) -> NDArray[np.uint8] | None:
        """The data set's own LR image (h/scale,w/scale,3) uint8; None if it has none at `scale`.

        Raises DataError if the data set has LR images at `scale`, but this one is missing,
        unreadable or not of the HR size divided by `scale` (rounded up or down).
        """
        path = self.lr_path(scale)
        if path is None:
            return None
        lr = read_image(path)
        check_lr_size(path, lr.shape[:2], self.size(), scale, self.path)
        return lr


class Decoded:
    """The images that were used last, decoded: at most `most` bytes of them, and at least one."""

    def __init__(self, most: int) -> None:
        self._most, self._bytes, self._lock = most, 0, Lock()
        self._kept: OrderedDict[Hashable, NDArray[np.uint8]] = OrderedDict()

    def get(self, key: Hashable, load: Callable[[], Any]) -> NDArray[np.uint8]:
        """What `load()` gave for `key`. Threads may decode several images at once."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        image: NDArray[np.uint8] = load()
        with self._lock:
            if key not in self._kept:  # no other thread was faster
                self._kept[key] = image
                self._bytes += image.nbytes
            while self._bytes > self._most and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return image

    def clear(self) -> None:
        """Forget all images."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0


# About 16 images of DIV2K, or all of the built-in set.
KEPT = Decoded(128 << 20)


def decoded(item: ImageItem) -> NDArray[np.uint8]:
    """`item.load()`, read-only; the last images are kept, until their files change."""
    return KEPT.get((item, file_state(item.path)), item.load)


def decoded_lr(item: ImageItem, scale: int) -> NDArray[np.uint8] | None:
    """`item.load_lr(scale)`, read-only; kept as those of `decoded` are."""
    path = item.lr_path(scale)
    if path is None:
        return None
    return KEPT.get((item, scale, file_state(path)), lambda: item.load_lr(scale))


@dataclass(frozen=True)
class ImageSet:
    """Images with stable keys, sorted by key; an image is read when its `load` is called.

    Attributes:
        name: of the data set.
        items: the images.
        classes: texture class by key, where it is known.
        lr_source: the folder of the set's LR images, or the reason why there are none.
        low: whether the names mark all images as LR.
        origins: the photograph that an image was cut from, by key, if it is not the image itself.
    """

    name: str
    items: tuple[ImageItem, ...]
    classes: Mapping[str, str] = field(default_factory=dict)
    lr_source: str = ""
    low: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    def __contains__(self, key: str) -> bool:
        """Whether an image has that key."""
        return key in self._by_key

    def __getitem__(self, key: str) -> ImageItem:
        """The item of that key; DataError if the set has none."""
        try:
            return self._by_key[key]
        except KeyError:
            raise DataError(f"image set {self.name}: has no image {key!r}") from None

    def source(self, key: str) -> str:
        """The photograph that an image was cut from: its cluster in every interval."""
        return self.origins.get(key, key)

    @cached_property
    def _by_key(self) -> dict[str, ImageItem]:
        return {item.key: item for item in self.items}

    def refuse_low(self) -> None:
        """DataError if the names mark the images as LR, as these are no ground truth."""
        if self.low:
            raise DataError(
                f"image set {self.name}: is named like low-resolution images; expected HR images "
                "(LR images beside them are found, or given as --lr)"
            )

    def fingerprint(self, lr_scale: int | None = None) -> str:
        """16 hex digits that identify keys and contents of all HR files.

        With `lr_scale` also of the set's own LR files at that scale. Digests are cached in the
        user's cache folder by path, size and time, so that a file is read once.

        Raises DataError for a file that cannot be read.
        """
        files = [(item.key, item.path) for item in self.items]
        if lr_scale is not None:
            files += [
                (f"{item.key} LR", path)
                for item in self.items
                if (path := item.lr_path(lr_scale)) is not None
            ]
        known = digests([path for _, path in files])
        whole = hashlib.sha256()
        for key, path in files:
            whole.update(f"{key}\0{known[path]}\n".encode("utf-8", "surrogateescape"))
        return whole.hexdigest()[:16]
