"""The built-in images: seven photographs and textures that lie in scikit-image's wheel."""

from importlib.resources import files
from pathlib import Path

from fastbg.data.images import ImageItem, ImageSet
from fastbg.errors import DataError

_TEXTURES = {"brick": "building", "grass": "grass", "gravel": "gravel"}
_FILES = (
    "astronaut.png",
    "brick.png",
    "chelsea.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "rocket.jpg",
)


def builtin_images() -> ImageSet:
    """Seven images of 300 to 640 pixels a side; the grey textures become RGB when loaded.

    The textures have a class, the photographs none. They are read from the installed package:
    `skimage.data.brick()` and the others may look in a cache of downloads first. Raises DataError
    if the package lacks one of them.
    """
    folder = Path(str(files("skimage"))) / "data"
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        names = ", ".join(missing)
        raise DataError(f"{folder}: lacks {names}; reinstall scikit-image from a wheel")
    items = tuple(ImageItem(Path(f).stem, folder / f) for f in _FILES)
    return ImageSet("builtin", items, _TEXTURES)
