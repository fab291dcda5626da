"""Pairs LR images with HR images by their names."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from fastbg.data import layouts
from fastbg.data.sets import ANY_SCALE, ImageItem, ImageSet
from fastbg.errors import DataError
from fastbg.printable import printable

Low = tuple[Path, Path, int | None]  # an LR file, the folder its names start from, their scale


def paired(images: ImageSet, low: Sequence[Low], lr_name: str | None = None) -> ImageSet:
    """`images` with their LR files `low`, which are not empty.

    If one is missing at a scale, loading it raises DataError.

    Raises DataError if two LR files of one scale belong to one HR image.
    """
    by_scale = matches(images, low, lr_name)
    if not by_scale:
        name = low[0][0].name
        return replace(
            images, lr_source=f"none, as none is named like an HR image ({printable(name)})"
        )
    items = []
    for item in images.items:
        paths = []
        for scale, found in sorted(by_scale.items()):
            path = found.get(item.key) or _expected(item, scale, next(iter(found.values())))
            paths.append((scale, path))
        items.append(replace(item, lr_paths=tuple(paths)))
    used = {path for found in by_scale.values() for path in found.values()}
    folders = sorted({top.name for path, top, _ in low if path in used})
    return replace(images, items=tuple(items), lr_source=", ".join(map(printable, folders)))


def matches(
    images: ImageSet, low: Iterable[Low], lr_name: str | None = None
) -> dict[int, dict[str, Path]]:
    """LR files by scale (or ANY_SCALE) and key of the HR image.

    Raises DataError if two LR files belong to one HR image and scale.
    """
    keys = {_hr_key(item): item.key for item in images.items}
    by_stem: dict[str, list[str]] = {}
    for (_, stem), own in keys.items():
        by_stem.setdefault(stem, []).append(own)
    found: dict[int, dict[str, Path]] = {}
    for path, top, scale in low:
        inside = path.relative_to(top).parts[:-1]
        folders = tuple(
            _composed(part)
            for part in layouts.without_scales(inside)
            # RCAN's LR/LRBI/Set5/x4 belongs to its HR/Set5/x4.
            if printable(part).lower() != images.name.lower() and layouts.folder_name(part) is None
        )
        for reading in layouts.lr_readings(_composed(path.stem), lr_name):
            key: str | None = keys.get((folders, reading.key))
            if key is None and len(by_stem.get(reading.key, ())) == 1 and not folders:
                key = by_stem[reading.key][0]
            if key is not None:
                told = reading.scale or scale or layouts.scale_of(inside) or ANY_SCALE
                already = found.setdefault(told, {}).setdefault(key, path)
                _refuse_two(key, already, path)
                break
    anywhere = found.get(ANY_SCALE, {})
    for of_scale in found.values():
        for key in anywhere.keys() & of_scale.keys():
            _refuse_two(key, anywhere[key], of_scale[key])
    return found


def _refuse_two(key: str, one: Path, other: Path) -> None:
    if one != other:
        raise DataError(
            f"{printable(one)} and {printable(other)} are both named like the LR image of {key}; "
            "expected one"
        )


def counterparts(
    images: ImageSet, lr: ImageSet, scale: int, lr_name: str | None = None
) -> dict[str, Path]:
    """For each of `images`, by key, the image of `lr` that belongs to it.

    Raises DataError, naming the first few, if an image has none or two at `scale`.
    """
    low = [(item.path, _top(item), None) for item in lr.items]
    by_scale = matches(images, low, lr_name)
    found = by_scale.get(ANY_SCALE, {}) | by_scale.get(scale, {})
    missing = [item.key for item in images.items if item.key not in found]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        others = sorted(s for s in by_scale if s not in (ANY_SCALE, scale))
        hint = f"; it has LR images x{', x'.join(map(str, others))}" if others else ""
        raise DataError(
            f"image set {lr.name}: has no LR image x{scale} named like {', '.join(missing[:3])}"
            f"{more}{hint}; set other names by --lr-name, such as '{{}}_bicLRx{{scale}}'"
        )
    return found


def _hr_key(item: ImageItem) -> tuple[tuple[str, ...], str]:
    folders = layouts.without_scales(tuple(item.key.split("/")[:-1]))
    return tuple(map(_composed, folders)), layouts.hr_key(_composed(item.path.stem))


def _composed(name: str) -> str:
    """`name` as it is compared: some systems write an accent as a character of its own."""
    return unicodedata.normalize("NFC", printable(name))


def _top(item: ImageItem) -> Path:
    """The folder from which an item's key starts."""
    return item.path.parents[item.key.count("/")]


def _expected(item: ImageItem, scale: int, like: Path) -> Path:
    """The expected path of the missing LR file of `item`, beside `like`."""
    mark = f"x{scale}" if like.stem.endswith(f"x{scale}") else ""
    return like.parent / f"{layouts.hr_key(item.path.stem)}{mark}{item.path.suffix}"
