"""Checks that all images of a set can be read, before work begins."""

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from fastbg.data.files import read_image
from fastbg.data.images import open_folder
from fastbg.data.sets import ImageItem, ImageSet
from fastbg.errors import DataError

LOG = logging.getLogger(__name__)
SHOWN = 10  # files named in an error


def readable(
    images: ImageSet,
    *,
    skip_bad: bool = False,
    lr_scale: int | None = None,
    say: Callable[[str], None] = LOG.warning,
) -> ImageSet:
    """`images`, after every file was decoded once; with `skip_bad` without unreadable ones.

    With `lr_scale` the set's own LR files at that scale are decoded, too. `say` gets a text about
    images that are left out. Raises DataError, naming files and reasons, if an image is unreadable
    and `skip_bad` is not set, or if none is readable.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reasons = list(pool.map(lambda item: _reason(item, lr_scale), images.items))
    bad = [reason for reason in reasons if reason]
    if not bad:
        return images
    listed = "\n".join(f"  {reason}" for reason in bad[:SHOWN])
    more = f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    if not skip_bad or len(bad) == len(images):
        hint = "" if skip_bad else "; --skip-bad leaves them out"
        raise DataError(
            f"image set {images.name}: {len(bad)} of {len(images)} images cannot be read{hint}:\n"
            f"{listed}{more}"
        )
    say(f"left out, as they cannot be read, {len(bad)} of {len(images)} images:\n{listed}{more}")
    good = [item for item, reason in zip(images.items, reasons, strict=True) if not reason]
    return replace(images, items=tuple(good))


def open_readable(
    path: str | os.PathLike[str],
    *,
    lr_name: str | None = None,
    skip_bad: bool = False,
    lr_scale: int | None = None,
) -> ImageSet:
    """The HR images of a folder, all of them `readable`; errors as `open_folder`, and for LR."""
    images = open_folder(path, lr_name)
    images.refuse_low()
    return readable(images, skip_bad=skip_bad, lr_scale=lr_scale)


def _reason(item: ImageItem, lr_scale: int | None) -> str:
    """The reason why the item cannot be used; empty if it can."""
    try:
        read_image(item.path)
        if lr_scale is not None:
            item.load_lr(lr_scale)
    except DataError as error:
        return str(error)
    return ""
