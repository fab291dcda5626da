"""Antialiased bicubic down-sampling as two tables of taps, one per axis.

Keys' cubic with a = -0.5, stretched by the scale. `matlab` mirrors the image at its borders, as
MATLAB's ``imresize`` does; `pil` cuts the kernel there and renormalises it, as Pillow does.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fastbg.errors import InvalidArgument
from fastbg.vocabulary import KERNELS as KERNELS


@dataclass(frozen=True)
class Taps:
    """Output i of an axis is ``sum_t weight[i, t] * input[index[i, t]]``."""

    index: NDArray[np.int32]  # [n_out, T], every entry inside the input
    weight: NDArray[np.float64]  # [n_out, T], rows sum to 1


def cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' bicubic kernel with a = -0.5."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1.0
    far = -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@lru_cache(maxsize=256)
def bicubic_taps(size: int, scale: int, kernel: str = "matlab") -> Taps:
    """Taps that shrink an axis of `size` pixels by the integer `scale`; raises InvalidArgument."""
    if scale < 1:
        raise InvalidArgument("scale", scale, "an integer of at least 1")
    if kernel not in KERNELS:
        raise InvalidArgument("kernel", repr(kernel), f"one of {KERNELS}")
    if size % scale:
        raise InvalidArgument("image size", size, f"a multiple of the scale {scale}")

    centre = (np.arange(size // scale, dtype=np.float64) + 0.5) * scale - 0.5
    first = np.floor(centre - 2 * scale).astype(np.int64) + 1
    index = first[:, None] + np.arange(4 * scale)  # [n_out, T]
    weight = cubic((centre[:, None] - index) / scale)
    if kernel == "matlab":
        index = index % (2 * size)  # mirrored, the border pixel twice
        index = np.where(index < size, index, 2 * size - 1 - index)
    else:
        weight = np.where((index >= 0) & (index < size), weight, 0.0)
        index = index.clip(0, max(size - 1, 0))
    weight /= weight.sum(axis=1, keepdims=True)
    used = (weight != 0).any(axis=0) | (size == 0)  # no weight: must not spread a NaN
    return Taps(index[:, used].astype(np.int32), weight[:, used])


@lru_cache(maxsize=64)
def bicubic_matrix(size: int, scale: int, kernel: str = "matlab") -> NDArray[np.float64]:
    """The same as a dense matrix (size/scale, size)."""
    taps = bicubic_taps(size, scale, kernel)
    matrix = np.zeros((size // scale, size))
    np.add.at(matrix, (np.arange(size // scale)[:, None], taps.index), taps.weight)
    matrix.setflags(write=False)
    return matrix
