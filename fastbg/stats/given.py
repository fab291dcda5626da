"""Values and photographs that callers give: real numbers, and names that are equal or not.

NumPy would make numbers of dates and texts, forget imaginary parts and masks, and take two NaN for
two photographs, which narrows an interval.
"""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbg.errors import InvalidArgument

Floats = NDArray[np.float64]


def grouped(
    values: ArrayLike, clusters: Sequence[object] | None
) -> tuple[Floats, NDArray[np.intp], Floats]:
    """Checked values (n), the cluster of each (n), and how many values each cluster has."""
    data = numbers("values", values)
    if data.ndim != 1 or not data.size:
        raise InvalidArgument("values", f"shape {data.shape}", "shape (n,), n >= 1")
    if not np.isfinite(data).all():
        bad = int(np.flatnonzero(~np.isfinite(data))[0])
        raise InvalidArgument("values", f"{data[bad]} at {bad}", "finite numbers")
    labels = range(data.size) if clusters is None else names(clusters)
    if len(labels) != data.size:
        raise InvalidArgument("clusters", f"{len(labels)} labels", f"one for each of {data.size}")
    index = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    member = np.array([index[label] for label in labels], dtype=np.intp)
    return data, member, np.bincount(member).astype(np.float64)


def numbers(name: str, values: ArrayLike) -> Floats:
    """`values` in double precision; InvalidArgument for what is no real number, or masked."""
    try:
        given = np.asanyarray(values)
        if np.ma.is_masked(given):
            raise InvalidArgument(name, "masked values", "real numbers")
        if not _are_real(given):
            raise InvalidArgument(name, f"dtype {given.dtype}", "real numbers")
        return np.asarray(given, dtype=np.float64)
    except InvalidArgument:
        raise
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InvalidArgument(name, f"{type(values).__name__} ({error})", "real numbers") from error


def _are_real(given: NDArray[Any]) -> bool:
    if given.dtype.kind == "O":  # such as fractions; None becomes NaN
        return not any(isinstance(value, (str, bytes, complex)) for value in given.flat)
    return given.dtype.kind in "biuf"


def names(clusters: Sequence[object]) -> list[object]:
    """The clusters' labels; InvalidArgument for NaN, which equals no other, and for no names."""
    try:
        labels = list(clusters)
        dict.fromkeys(labels)  # TypeError for a label that cannot be told from others
        odd = [i for i, label in enumerate(labels) if label != label]
    except (TypeError, ValueError) as error:
        raise InvalidArgument("clusters", str(error), "a name or number for each value") from error
    if odd:
        told = f"{labels[odd[0]]} at {odd[0]}"
        raise InvalidArgument("clusters", told, "a name or number for each value")
    return labels


def truth(name: str, values: ArrayLike) -> NDArray[Any]:
    """`values` as 0 and 1; InvalidArgument for others."""
    data = numbers(name, values)
    other = np.asarray(values)[(data != 0) & (data != 1)]
    if other.size:
        raise InvalidArgument(name, other[0], "true and false, or 1 and 0")
    return data


def check_level(level: float) -> None:
    """InvalidArgument unless 0 < level < 1."""
    if not isinstance(level, Real) or not 0 < level < 1:
        raise InvalidArgument("level", level, "0 < level < 1")
