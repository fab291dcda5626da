"""Opens the files and folders given to commands; errors name the argument."""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastbg.data.images import ImageSet, open_folder, read_image
from fastbg.data.readable import open_readable
from fastbg.errors import DataError, InvalidArgument
from fastbg.printable import named, printable
from fastbg.working_folder import is_removed


def open_images(arguments: argparse.Namespace, lr_scale: int | None = None) -> ImageSet:
    """The HR images of ``--data``, all of them readable; raises DataError."""
    try:
        images = open_readable(
            arguments.data,
            lr_name=arguments.lr_name,
            skip_bad=arguments.skip_bad,
            lr_scale=lr_scale,
        )
    except DataError as error:
        raise DataError(f"--data: {error}") from error
    except InvalidArgument as error:
        raise in_options(error, lr_name="--lr-name") from error
    check_lr_name(arguments.lr_name, images)
    return images


def in_options(error: InvalidArgument, **options: str) -> InvalidArgument:
    """The error with the name of the command line's option for the argument that it names."""
    return InvalidArgument(options.get(error.argument, error.argument), *error.parts[1:])


def check_lr_name(template: str | None, images: ImageSet) -> None:
    """Raises InvalidArgument for a template of LR names that no file of `images` has."""
    if template is not None and not any(item.lr_paths for item in images.items):
        expected = f"the LR names of {images.name}; no file there is named so beside its HR image"
        raise InvalidArgument("--lr-name", repr(template), expected)


def open_low(path: Path) -> ImageSet:
    """The LR images of ``--lr``; raises DataError."""
    try:
        return open_folder(path)
    except DataError as error:
        raise DataError(f"--lr: {error}") from error


def open_image(argument: str, path: str) -> NDArray[np.uint8]:
    """RGB pixels (h,w,3) of one image file; raises InvalidArgument."""
    if Path(path).is_dir():
        raise InvalidArgument(argument, path, "an image file; this is a folder")
    try:
        return read_image(path)
    except DataError as error:
        cause = str(error).removeprefix(f"{printable(path)}: ")
        raise InvalidArgument(argument, path, f"an image file; it {cause}") from error


def check_folder(argument: str, path: Path) -> None:
    """Raises InvalidArgument if the file `path` cannot be created: its name, or no such folder."""
    try:
        is_folder, has_folder = path.is_dir(), path.parent.is_dir()
    except OSError as error:  # such as a name that is too long
        expected = f"a file that can be written: {error.strerror}"
        raise InvalidArgument(argument, path, expected) from error
    if is_folder:
        raise InvalidArgument(argument, path, "a file; this is a folder")
    if not has_folder:
        raise InvalidArgument(argument, path, "a file in a folder that exists")
    if not path.exists() or path.is_file():  # not /dev/stdout
        check_writable(argument, path, path.parent)


def check_writable(argument: str, path: Path, folder: Path) -> None:
    """Raises InvalidArgument, before any work, if no file can be made in the existing `folder`."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if is_removed():  # the working folder, which the command then says
            raise
        expected = f"a path where files can be written: {error.strerror}"
        raise InvalidArgument(argument, path, expected) from error


def check_ending(option: str, path: Path, *endings: str) -> None:
    """Raises InvalidArgument for a file of another kind, which would be overwritten."""
    if path.suffix.lower() not in endings:
        raise InvalidArgument(option, path, f"a file that ends with {' or '.join(endings)}")


def check_apart(option: str, path: Path, data: Path) -> None:
    """Raises InvalidArgument for a folder inside of the images' own, where it would be read."""
    if path.resolve().is_relative_to(data.resolve()):
        raise InvalidArgument(
            option, path, f"a folder outside of {printable(data)}, whose images are read"
        )


def file_name(text: str) -> str:
    """`text`, such as a network's name, as part of a file's name."""
    safe = "".join(c if c.isalnum() or c in "-." else "_" for c in text).lstrip(".") or "_"
    return named(safe)
