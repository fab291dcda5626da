"""Reads images of 16 bits per channel, scaled to 8: v of 65535 becomes v / 257, rounded.

Pillow reads grey images of 16 bits, but silently drops the low byte of colour images. Colour PNG
files are therefore decoded here, TIFF files by tifffile.
"""

import os
import struct
import zlib

import numpy as np
import tifffile
from numpy.typing import NDArray

from fastbg.errors import DataError
from fastbg.printable import printable

_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # of PNG's colour types


def to_8_bit(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """16-bit `values` as 8 bit."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def read_deep_png(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """RGB pixels (h,w,3) uint8 of a PNG file with 16 bits per channel; alpha is dropped.

    Raises DataError for a file that is interlaced, damaged or cut off.
    """
    with open(path, "rb") as file:
        data = file.read()
    width, height, _, kind, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    if interlaced:
        raise DataError(f"{printable(path)}: is interlaced, with 16 bits per channel; save it anew")
    channels = _CHANNELS[kind]
    try:
        packed = zlib.decompress(b"".join(_chunks(data)))
        rows = np.frombuffer(packed, np.uint8, height * (1 + 2 * channels * width))
    except (zlib.error, struct.error, ValueError) as error:
        raise DataError(f"{printable(path)}: cannot be read as an image: {error}") from error
    whole = _unfiltered(rows.reshape(height, -1), 2 * channels)
    pixels = to_8_bit(whole.view(">u2").astype(np.uint16)).reshape(height, width, channels)
    return np.ascontiguousarray(pixels[..., :3] if channels > 2 else pixels[..., :1].repeat(3, 2))


def read_deep_tiff(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """RGB pixels (h,w,3) uint8 of a TIFF file with 16 bits per channel; DataError for others."""
    try:
        values = tifffile.imread(path)
    except Exception as error:  # tifffile raises any type for damaged files
        raise DataError(f"{printable(path)}: cannot be read as an image: {error}") from error
    if values.dtype != np.uint16 or values.ndim not in (2, 3) or values.shape[2:] not in _SHAPES:
        raise DataError(
            f"{printable(path)}: has {values.dtype} of shape {values.shape}; expected one grey or "
            "RGB image of 8 or 16 bits per channel"
        )
    grey = values.ndim == 2
    return to_8_bit(values[..., None].repeat(3, 2) if grey else values[..., :3])


_SHAPES = ((), (3,), (4,))


def _chunks(data: bytes) -> list[bytes]:
    """The IDAT chunks of a PNG file."""
    found, place = [], 8
    while place + 8 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        check = data[place + 8 + length : place + 12 + length]
        if len(check) < 4 or struct.unpack(">I", check)[0] != zlib.crc32(kind + body):
            raise ValueError(f"its {kind!r} chunk is damaged or cut off")
        if kind == b"IDAT":
            found.append(body)
        place += 12 + length
    return found


def _unfiltered(rows: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Undo PNG's filters: (h,n) bytes from `rows` (h, 1 + n) with pixels of `step` bytes."""
    out = np.zeros((len(rows) + 1, rows.shape[1] - 1), np.uint8)
    for y, row in enumerate(rows):
        kind, line, above = row[0], row[1:], out[y]
        if kind > 4:
            raise DataError(f"a PNG filter {kind} does not exist")
        if kind in (0, 2):
            out[y + 1] = line if kind == 0 else line + above
        elif kind == 1:
            out[y + 1] = line.reshape(-1, step).cumsum(0, dtype=np.uint8).ravel()
        else:
            out[y + 1] = _sequential(kind, line.tolist(), above.tolist(), step)
    return out[1:]


def _sequential(kind: int, line: list[int], above: list[int], step: int) -> list[int]:
    """Undo PNG's filters 3 (average) and 4 (Paeth), in which a byte depends on the one before."""
    out = [0] * step + line
    over = [0] * step + above
    for i in range(step, len(out)):
        a, b = out[i - step], over[i]
        if kind == 3:
            guess = (a + b) // 2
        else:
            c = over[i - step]
            p, q, r = abs(b - c), abs(a - c), abs(a + b - 2 * c)
            guess = a if p <= q and p <= r else b if q <= r else c
        out[i] = (out[i] + guess) & 255
    return out[step:]
