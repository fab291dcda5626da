"""Checks that the arrays of a file form a causal effect map: fields, types, shapes, values."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbg.attribution.blocks import BlockGrid
from fastbg.attribution.interventions import Interventions
from fastbg.attribution.window_measure import METRICS
from fastbg.vocabulary import PRECISIONS

NOT_RECORDED = "not recorded"  # precision of maps saved before it was stored

Arrays = Mapping[str, NDArray[Any]]

# Permitted `dtype.kind` of each array, and its number of dimensions after those of the pairs.
_TABLES = {
    "baseline": ("f", 0),
    "coarse_values": ("f", 3),
    "fine_values": ("f", 3),
    "own": ("b", 2),
    "windows": ("iu", 1),
    "images": ("f", 3),
}
_SINGLE = {"scale": "iu", "block": "iu", "metric": "U", "tolerance": "fi", "reuse_coarse": "b"}


def check_map(arrays: Arrays, interventions: Interventions) -> None:
    """Raises ValueError naming the first invalid field; KeyError for a missing field.

    `interventions` are those of the same file, already checked.
    """
    for name, kinds in _SINGLE.items():
        _require(name, arrays[name], arrays[name].shape == () and arrays[name].dtype.kind in kinds)
    _check_single(arrays)
    pairs = arrays["baseline"].shape
    for name, (kinds, rank) in _TABLES.items():
        array = arrays[name]
        fits = array.dtype.kind in kinds and array.ndim == len(pairs) + rank
        _require(name, array, fits and array.shape[: len(pairs)] == pairs)
    _check_tables(arrays, interventions)


def recorded_precision(arrays: Arrays) -> str:
    """The precision that a file names. Raises ValueError for one that fastbg does not know."""
    if "precision" not in arrays:
        return NOT_RECORDED
    value = arrays["precision"]
    kind = value.item() if value.shape == () else None
    _require("precision", value if kind is None else kind, kind in (*PRECISIONS, NOT_RECORDED))
    return str(kind)


def recorded_regression(arrays: Arrays) -> bool:
    """Whether means are regression estimates; not in files from before that was stored.

    Raises ValueError for anything but a boolean.
    """
    value = arrays.get("regression", np.array(False))
    _require("regression", value, value.shape == () and value.dtype.kind == "b")
    return bool(value)


def _check_single(arrays: Arrays) -> None:
    values = {name: arrays[name].item() for name in _SINGLE}
    good = {
        "scale": values["scale"] >= 1,
        "block": values["block"] >= 1,
        "metric": values["metric"] in METRICS,
        "tolerance": 0 <= values["tolerance"] < np.inf,
    }
    for name, fits in good.items():
        _require(name, values[name], fits)


def _check_tables(arrays: Arrays, interventions: Interventions) -> None:
    """Checks that all tables have the same grid of blocks, and that windows lie in the images."""
    images, windows = arrays["images"], arrays["windows"]
    channels, height, width = images.shape[-3:]
    block, scale = int(arrays["block"]), int(arrays["scale"])
    rows, columns = grid = BlockGrid(block, height, width).shape
    for name in ("coarse_values", "fine_values", "own"):
        array = arrays[name]
        placed = array.shape[-2:] if name == "own" else array.shape[-3:-1]
        _require(name, array, placed == grid)
    coarse, fine = (arrays[f"{name}_values"].shape[-1] for name in ("coarse", "fine"))
    wanted = rows, columns, coarse, block, block, 3
    _require("interventions", interventions.coarse, interventions.coarse.shape == wanted)
    drawn = interventions.fine
    _require("interventions", drawn, not len(drawn) or drawn.shape[1] == fine)
    _require("baseline", arrays["baseline"], bool(np.isfinite(arrays["baseline"]).all()))
    unit = channels == 3 and bool(((images >= 0) & (images <= 1)).all())
    _require("images", images, unit and images.size > 0)
    _require("windows", windows, windows.shape[-1] in (3, 4))
    _require("windows", windows.tolist(), windows_inside(windows, scale * height, scale * width))
    for name in ("coarse_values", "fine_values"):
        _require(name, arrays[name], not bool(np.isinf(arrays[name]).any()))


def windows_inside(windows: NDArray[Any], height: int, width: int) -> bool:
    """Whether windows, (...,3) y, x, size or (...,4) boxes, are not empty and in the SR image."""
    start, end = windows[..., :2], windows[..., 2:]
    if windows.shape[-1] == 3:
        end = start + end
    return bool(((start >= 0) & (start < end) & (end <= (height, width))).all())


def _require(name: str, value: object, fits: bool) -> None:
    if not fits:
        told = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else repr(value)
        raise ValueError(f"{name} is {told}, which no causal effect map has")
