"""Opens a folder of images, or the built-in ones."""

import os

from fastbg.data.builtin import builtin_images
from fastbg.data.images import open_folder
from fastbg.data.sets import ImageSet


def open_images(path: str | os.PathLike[str] | None = None, lr_name: str | None = None) -> ImageSet:
    """The images of a folder; without `path` the built-in 24 photographs and 45 textures.

    Each of its `items` has a `key` and `load()`, which returns RGB pixels (h,w,3) uint8, and the
    data set's own LR images, if any. Arguments and errors as in `fastbg.data.images.open_folder`.
    """
    return builtin_images() if path is None else open_folder(path, lr_name)
