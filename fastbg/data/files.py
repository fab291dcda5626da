"""Reads image files as 8-bit RGB; errors name the file."""

import os
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fastbg.data.deep import read_deep_png, read_deep_tiff, to_8_bit
from fastbg.errors import DataError
from fastbg.given_path import path_of
from fastbg.printable import printable

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_EXIF_ORIENTATION = 0x0112
# Exceptions of Pillow on damaged files, besides OSError.
_PILLOW_ERRORS = (SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_OPENING = threading.Lock()  # warning filters are shared by all threads of the process


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """RGB pixels (h,w,3) uint8 of an image file.

    Grey is repeated over the channels, alpha is dropped, palettes are resolved, 16 bits per channel
    are scaled to 8. The EXIF orientation of JPEG, TIFF and WebP files is applied; PNG pixels are
    taken as stored.

    Raises DataError, naming the file and the cause, for a file that is missing, no image, cut off,
    animated, with more than 178 million pixels (Pillow's limit), or with floating-point or 32-bit
    pixels.
    """
    with _opened(path_of("path", path)) as image:
        # Further images in a JPEG (MPO) are previews.
        if image.format not in ("JPEG", "MPO") and getattr(image, "n_frames", 1) > 1:
            raise DataError(
                f"{printable(path)}: contains {getattr(image, 'n_frames', 1)} images; expected one"
            )
        if is_deep(image):
            return _read_deep(path, image)
        if image.format != "PNG":
            image = ImageOps.exif_transpose(image)
        if image.mode in ("P", "PA"):
            image = image.convert(
                "RGBA"
            )  # Pillow warns if transparent palettes become RGB directly
        return np.array(image.convert("RGB"), dtype=np.uint8)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of `read_image(path)`, from the file's header; DataError as there."""
    with _opened(path_of("path", path)) as image:
        if image.format == "PNG" or image.getexif().get(_EXIF_ORIENTATION, 1) == 1:
            return image.height, image.width
        if image.format == "TIFF":  # some Pillow releases rotate on opening, others on loading
            image = ImageOps.exif_transpose(image)
            return image.height, image.width
        turned = image.getexif().get(_EXIF_ORIENTATION, 1) in range(5, 9)
        return (image.width, image.height) if turned else (image.height, image.width)


def is_deep(image: Image.Image) -> bool:
    """Whether the file behind `image`, not loaded yet, has more than 8 bits per channel."""
    # Pillow opens 16-bit colour as mode RGB and silently drops the low byte; only the decoder's raw
    # mode shows the depth.
    raw_modes = [str(tile[3]) for tile in getattr(image, "tile", [])]
    return image.mode.startswith(("I", "F")) or any(";16" in raw for raw in raw_modes)


def _read_deep(path: str | os.PathLike[str], image: Image.Image) -> NDArray[np.uint8]:
    if image.format == "PNG" and image.mode in ("I", "I;16", "I;16B"):
        values = np.array(image).astype(np.uint16)
        return to_8_bit(values)[..., None].repeat(3, 2)
    if image.format == "PNG":
        return read_deep_png(path)
    turned = image.getexif().get(_EXIF_ORIENTATION, 1) != 1
    if image.format == "TIFF" and not turned and not image.mode.startswith("F"):
        return read_deep_tiff(path)
    raise DataError(
        f"{printable(path)}: has more than 8 bits per channel (mode "
        f"{image.mode}{', turned' if turned else ''}); expected 8, or 16 in a PNG or TIFF file"
    )


def _mode(path: str | os.PathLike[str]) -> int:
    """Mode of a file (`st_mode`); checked before opening, as opening a pipe would block."""
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        cause = str(getattr(error, "strerror", None) or error)
        raise DataError(f"{printable(path)}: cannot be read as an image: {cause}") from error


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """The Pillow image of a file; every failure of Pillow inside the block becomes a DataError."""
    mode = _mode(path)
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(f"{printable(path)}: is no regular file; expected an image")
    try:
        with _OPENING, warnings.catch_warnings():
            # Pillow warns above a size and refuses twice that size; the warning is ignored.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path)
        with opened as image:
            yield image
    except (OSError, *_PILLOW_ERRORS) as error:
        if isinstance(error, UnidentifiedImageError):
            cause = "not an image, or cut off within its header"
        else:
            cause = str(getattr(error, "strerror", None) or error)
        raise DataError(f"{printable(path)}: cannot be read as an image: {cause}") from error
