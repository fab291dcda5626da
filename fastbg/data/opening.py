"""The images that a user names, or those that come with fastbg."""

import os

from fastbg.data.builtin import builtin_images
from fastbg.data.images import open_folder
from fastbg.data.sets import ImageSet


def open_images(path: str | os.PathLike[str] | None = None, lr_name: str | None = None) -> ImageSet:
    """The images of a folder; without `path` the 24 photographs and 45 textures of fastbg.

    Each of its `items` has a `key` and `load()`, RGB pixels (h,w,3) of 8 bits; a data set's own LR
    images come with it. Arguments and errors are `fastbg.data.images.open_folder`'s.
    """
    return builtin_images() if path is None else open_folder(path, lr_name)
