"""Replacements for the blocks of an image: drawn with a seed, saved, and reused.

Networks can only be compared under the same interventions. A draw therefore depends only on the
seed, the block and the stage, not on which blocks are measured, in which order or how many at once.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastbg.attribution.archive import read_arrays
from fastbg.data.builtin import builtin_images
from fastbg.data.degradation import crop_to_multiple, downsample
from fastbg.data.images import open_folder
from fastbg.errors import DataError, InvalidArgument
from fastbg.filters.dtypes import as_uint8
from fastbg.given_path import file_to_write
from fastbg.models.arguments import check_whole
from fastbg.printable import printable
from fastbg.writing import replacing

Pixels = NDArray[np.uint8]
COARSE, FINE = 0, 1  # the stage's number in the seed of a draw
_ARRAYS = ("coarse_blocks", "fine_index", "fine_blocks", "images_sha256")  # in files


@dataclass(frozen=True)
class Interventions:
    """Replacements for the blocks of an image: C for each, and F more for those in `fine_index`.

    Attributes:
        coarse: (rows, columns, C, b, b, 3) uint8, RGB. For a smaller block at the image's border,
            the upper left part is used.
        fine_index: (m, 2) row and column of the blocks that have F more.
        fine: (m, F, b, b, 3) uint8.
        images: `image_digest` of each image that they were drawn for, sorted.
            `CausalEffectMap.effect` refuses other images. Empty: unknown, any image is accepted.
    """

    coarse: Pixels
    fine_index: NDArray[np.integer]
    fine: Pixels
    images: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("coarse", "fine_index", "fine"):
            if not isinstance(getattr(self, name), np.ndarray):
                got = type(getattr(self, name)).__name__
                raise InvalidArgument(f"interventions.{name}", got, "a NumPy array")
        side = self.coarse.shape[3] if self.coarse.ndim == 6 else 0
        wanted = {
            "coarse": (self.coarse, 6, (side, side, 3), "(rows, columns, C, b, b, 3)"),
            "fine": (self.fine, 5, (side, side, 3), f"(m, F, {side}, {side}, 3)"),
        }
        for name, (array, rank, ending, shape) in wanted.items():
            if array.dtype != np.uint8 or array.ndim != rank or array.shape[-3:] != ending:
                got = f"{array.dtype} of shape {array.shape}"
                raise InvalidArgument(f"interventions.{name}", got, f"uint8 {shape}")
        index = self.fine_index
        if index.shape != (len(self.fine), 2) or index.dtype.kind not in "iu":
            got = f"{index.dtype} of shape {index.shape}"
            raise InvalidArgument(
                "interventions.fine_index", got, f"integers ({len(self.fine)}, 2)"
            )
        rows, columns = self.coarse.shape[:2]
        if len(index) and not ((index >= 0) & (index < (rows, columns))).all():
            got = f"blocks from {index.min(0).tolist()} to {index.max(0).tolist()}"
            raise InvalidArgument(
                "interventions.fine_index", got, f"blocks of a grid of {rows}x{columns}"
            )
        if len(np.unique(index, axis=0)) != len(index):
            raise InvalidArgument("interventions.fine_index", "a block twice", "each block once")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the interventions to a .npz file, whatever its suffix; `load` reads it."""
        with replacing(file_to_write("path", path)) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **self.arrays())  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Interventions":
        """Read a file that `save` wrote. Raises DataError for any other file."""
        arrays = read_arrays(path)
        try:
            return cls.from_arrays(arrays)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{printable(path)}: holds no interventions ({error})") from error

    def arrays(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """The arrays to store in a file, by name; each name starts with `prefix`."""
        values = (self.coarse, self.fine_index, self.fine, np.array(self.images, dtype=np.str_))
        return {prefix + name: value for name, value in zip(_ARRAYS, values, strict=True)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> "Interventions":
        """The inverse of `arrays`; KeyError if one is missing, ValueError if it is none."""
        coarse, index, fine, images = (arrays[prefix + name] for name in _ARRAYS)
        if images.dtype.kind != "U" or images.ndim != 1:
            raise ValueError(f"images are {images.dtype} {images.shape}, expected names")
        return cls(coarse, index, fine, tuple(map(str, images)))

    def fine_of(self, row: int, column: int) -> Pixels | None:
        """Fine replacements (F, b, b, 3) of a block; None if it has none."""
        found = np.flatnonzero((self.fine_index == (row, column)).all(1))
        return self.fine[found[0]] if len(found) else None

    def agrees(self, other: "Interventions") -> bool:
        """Whether coarse replacements are equal, and fine ones of blocks that have them in both."""
        if not np.array_equal(self.coarse, other.coarse):
            return False
        theirs = [other.fine_of(*place) for place in self.fine_index]
        pairs = zip(self.fine, theirs, strict=True)
        return all(b is None or np.array_equal(a, b) for a, b in pairs)


def image_digest(image: Tensor) -> str:
    """SHA-256 of an image (3,h,w) in [0,1] as 8-bit grey levels."""
    levels = as_uint8(image).cpu().contiguous()
    digest = sha256(f"{tuple(levels.shape)}\n".encode())
    digest.update(levels.numpy().tobytes())
    return digest.hexdigest()


class Pool:
    """Source of replacements: b x b crops of some images, each image equally likely."""

    def __init__(self, images: Sequence[Pixels], seed: int) -> None:
        self.images, self.seed = images, seed

    def draw(self, row: int, column: int, stage: int, count: int, side: int) -> Pixels:
        """`count` replacements (count, side, side, 3) for a block."""
        rng = np.random.default_rng((self.seed, stage, row, column))
        chosen = rng.integers(len(self.images), size=count)
        places = rng.random((count, 2))
        drawn = np.empty((count, side, side, 3), np.uint8)
        for n, (number, place) in enumerate(zip(chosen, places, strict=True)):
            image = self.images[number]
            y, x = (int(u * (size - side + 1)) for u, size in zip(place, image.shape, strict=False))
            drawn[n] = image[y : y + side, x : x + side]
        return drawn


def pool_of(
    patches: NDArray[np.uint8] | str | os.PathLike[str] | None, side: int, scale: int, seed: int
) -> Pool:
    """The pool for the argument `patches` of `fastbg.CausalEffectMap`."""
    if patches is None:
        images: Sequence[Pixels] = _low_photographs(scale)
    elif isinstance(patches, np.ndarray):
        if patches.dtype != np.uint8 or patches.ndim != 4 or patches.shape[-1] != 3:
            got = f"{patches.dtype} of shape {patches.shape}"
            raise InvalidArgument("patches", got, "uint8 (N, k, k, 3)")
        images = list(patches)
    elif isinstance(patches, str | os.PathLike):
        try:
            images = [item.load() for item in open_folder(patches).items]
        except DataError as error:
            raise InvalidArgument("patches", patches, f"a folder of images; {error}") from error
    else:
        got = type(patches).__name__
        raise InvalidArgument("patches", got, "an array (N, k, k, 3) uint8, a folder or None")
    smallest = min((min(image.shape[:2]) for image in images), default=0)
    if smallest < side:
        got = f"{len(images)} of at least {smallest} pixels a side" if images else "none"
        raise InvalidArgument("patches", got, f"each at least {side}x{side}, the size of a block")
    return Pool(images, seed)


@cache
def _low_photographs(scale: int) -> tuple[Pixels, ...]:
    """LR versions of the built-in photographs, as the input of a network of `scale`."""
    photographs = [i.load() for i in builtin_images().items if i.path.parent.name == "photographs"]
    cropped = [crop_to_multiple(image, scale) for image in photographs]
    return tuple(image if scale == 1 else downsample(image, scale) for image in cropped)


def published_patches(patches: Pixels, block: int, *, bgr: bool = False) -> Pixels:
    """Patches (N,k,k,3) uint8 as the public code puts them into an image: (N,block,block,3).

    It reduces 8 x 8 HR pixels by OpenCV's ``INTER_CUBIC``: a = -0.75, no anti-aliasing, replicated
    border; equal to OpenCV 5.0 but for a grey level in 0.2 % of the values. With `bgr` red and
    blue are swapped, as the public code does by oversight.
    """
    if patches.dtype != np.uint8 or patches.ndim != 4 or patches.shape[1] != patches.shape[2]:
        got = f"{patches.dtype} of shape {patches.shape}"
        raise InvalidArgument("patches", got, "uint8 (N, k, k, 3)")
    weights = _cubic_rows(patches.shape[1], check_whole("block", block))
    small = np.einsum("ik,nklc,jl->nijc", weights, patches.astype(np.float64), weights)
    levels: Pixels = np.floor(small + 0.5).clip(0, 255).astype(np.uint8)
    return levels[..., ::-1].copy() if bgr else levels


def _cubic_rows(size: int, wanted: int) -> NDArray[np.float64]:
    """Matrix (wanted, size) of the interpolation of `published_patches` along one axis."""
    a = -0.75
    weights = np.zeros((wanted, size))
    for i in range(wanted):
        centre = (i + 0.5) * size / wanted - 0.5
        first = int(np.floor(centre)) - 1
        for tap in range(first, first + 4):
            t = abs(centre - tap)
            near = ((a + 2) * t - (a + 3)) * t * t + 1
            far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
            weights[i, min(max(tap, 0), size - 1)] += near if t <= 1 else far
    return weights
