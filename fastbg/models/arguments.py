"""Checks of the networks' keywords, which come from callers or from files."""

import math
from numbers import Integral, Real
from typing import Any

from fastbg.errors import InvalidArgument

MOST = 1 << 20  # layers, channels or pixels
LARGEST = 1e6  # of an image range or a factor: beyond it float32 has no digits left for an image


def check_whole(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int of at least `least` and at most MOST; InvalidArgument."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not least <= value <= MOST:
        raise InvalidArgument(name, _shown(value), f"a whole number from {least} to {MOST:,}")
    return int(value)


def check_number(name: str, value: Any, least: float = -LARGEST) -> float:
    """`value` as a float between `least` and LARGEST; InvalidArgument."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not real or not least <= value <= LARGEST or math.isnan(value):
        raise InvalidArgument(name, _shown(value), f"a number from {least:g} to {LARGEST:g}")
    return float(value)


def check_mean(value: Any) -> tuple[float, ...]:
    """`value` as one number for each of R, G, B; InvalidArgument."""
    values = _listed("mean", value, "one number for each of R, G, B")
    if len(values) != 3:
        raise InvalidArgument("mean", _shown(value), "one number for each of R, G, B")
    return tuple(check_number("mean", v) for v in values)


def check_wholes(name: str, value: Any) -> tuple[int, ...]:
    """`value` as a tuple of whole numbers of at least 1, at least one of them; InvalidArgument."""
    values = _listed(name, value, "whole numbers of at least 1")
    if not values:
        raise InvalidArgument(name, _shown(value), "at least one whole number")
    return tuple(check_whole(name, v) for v in values)


def _listed(name: str, value: Any, expected: str) -> list[Any]:
    if isinstance(value, str | bytes | dict):
        raise InvalidArgument(name, _shown(value), expected)
    try:
        return [*value]
    except TypeError as error:
        raise InvalidArgument(name, _shown(value), expected) from error


def _shown(value: Any) -> str:
    """`value` as short text."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of 5,000 digits; lists in lists
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
