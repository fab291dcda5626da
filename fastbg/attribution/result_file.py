"""Checks that the arrays of a file form an attribution: fields, types, shapes, values."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbg.attribution import diffusion
from fastbg.attribution.effect_file import windows_inside

NEEDED = ("attribution", "images", "windows", "scale", "passes")
OPTIONAL = ("convergence_delta", "aggregation", "unexplained")  # older files lack the last two

# Permitted `dtype.kind` of each array.
_KINDS = {
    "attribution": "f",
    "images": "f",
    "windows": "iu",
    "scale": "iu",
    "passes": "iu",
    "convergence_delta": "f",
    "aggregation": "U",
    "unexplained": "b",
}


def check_result(found: Mapping[str, NDArray[Any]]) -> None:
    """Raises ValueError saying which of the arrays no result has, or which is missing."""
    for name in NEEDED:
        if name not in found:
            raise ValueError(f"no {name}")
    for name in ("scale", "passes"):
        if found[name].shape or found[name].dtype.kind not in _KINDS[name]:
            raise ValueError(f"a {name} that is no whole number")
    for name, least in {"scale": 1, "passes": 0}.items():
        if found[name] < least:
            raise ValueError(f"{name} {found[name]}, expected at least {least}")
    if "aggregation" in found and str(found["aggregation"]) not in diffusion.AGGREGATIONS:
        raise ValueError(f"the aggregation {str(found['aggregation'])[:40]!r}")
    _check_shapes(found)
    for name, array in found.items():
        kinds = _KINDS[name]
        if array.dtype.kind not in kinds:
            raise ValueError(f"{name} of type {array.dtype}")
        if kinds == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} with NaN or infinity")
    height, width = found["images"].shape[-2:]
    scale = int(found["scale"])
    if not windows_inside(found["windows"].astype(np.float64), scale * height, scale * width):
        raise ValueError(
            f"windows that are empty or not inside of {scale * height}x{scale * width}"
        )


def _check_shapes(found: Mapping[str, NDArray[Any]]) -> None:
    size = found["attribution"].shape
    if len(size) < 3:
        raise ValueError(f"attribution of shape {size}; expected (..., channels, height, width)")
    leading = size[:-3]
    expected = {"images": [size], "windows": [(*leading, 3), (*leading, 4)]}
    for name in ("convergence_delta", "unexplained"):
        if name in found:
            expected[name] = [leading]
    for name, shapes in expected.items():
        if found[name].shape not in shapes:
            wanted = " or ".join(map(str, shapes))
            raise ValueError(f"{name} of shape {found[name].shape}; expected {wanted}")
