"""The folder of images that a command is given."""

import argparse

from fastbg.data.images import ImageSet
from fastbg.data.readable import open_readable


def open_images(arguments: argparse.Namespace, lr_scale: int | None = None) -> ImageSet:
    """The HR images of ``--data``, all of them readable; raises DataError."""
    return open_readable(
        arguments.data,
        lr_name=arguments.lr_name,
        skip_bad=arguments.skip_bad,
        lr_scale=lr_scale,
    )
