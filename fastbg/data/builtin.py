"""The built-in images: 24 photographs and 45 textures in OST's seven classes.

The photographs are crops of Kodak's; the textures are crops of 33 CC0 and CC-BY photographs. Nine
of these gave two or three textures, and three pairs overlap, so intervals use the original
photograph, not the texture, as cluster. assets/images/manifest.json lists origin, crop, licence
and, if known, author of each image; CREDITS.md in the same folder has the credits.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastbg.data.sets import ImageItem, ImageSet
from fastbg.errors import DataError
from fastbg.printable import printable

IMAGES = Path(__file__).parents[1] / "assets" / "images"
_DIGEST = "sha256_of_pixels"
_EXAMPLES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


@dataclass(frozen=True)
class BuiltinItem(ImageItem):
    """A built-in image; its pixels are checked against the manifest."""

    digest: str = ""  # SHA-256 of its RGB bytes

    def load(self) -> NDArray[np.uint8]:
        """HR pixels (h,w,3); DataError if the file was damaged or changed."""
        pixels = super().load()
        if hashlib.sha256(pixels.tobytes()).hexdigest() != self.digest:
            raise DataError(
                f"{printable(self.path)}: is not the image that fastbg ships; reinstall fastbg"
            )
        return pixels


@cache
def builtin_images() -> ImageSet:
    """The built-in images: 24 photographs of 320x320 pixels and 45 textures of 256x256, lossless.

    Returns:
        An `ImageSet`. `classes` has the class of each texture, `origins` the photograph that each
        image was cut from (57 different ones).

    Raises:
        DataError: an image or the manifest is missing or damaged.

    Example:
        >>> from fastbg.data.builtin import builtin_images
        >>> images = builtin_images()
        >>> len(images), images.classes["grass/lawn"]
        (69, 'grass')
        >>> images["photographs/kodim08"].load().shape
        (320, 320, 3)
    """
    try:
        entries = json.loads((IMAGES / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{IMAGES}: its manifest cannot be read ({error}); reinstall fastbg"
        ) from error
    missing = [entry["file"] for entry in entries if not (IMAGES / entry["file"]).is_file()]
    if missing:
        raise DataError(f"{IMAGES}: lacks {', '.join(missing[:4])}; reinstall fastbg")
    items = [BuiltinItem(_key(e["file"]), IMAGES / e["file"], (), e[_DIGEST]) for e in entries]
    classes = {i.key: i.path.parent.name for i in items if i.path.parent.name != "photographs"}
    origins = {_key(entry["file"]): entry["origin"] for entry in entries}
    return ImageSet("builtin", tuple(items), classes, origins=origins)


def _key(file: str) -> str:
    return Path(file).with_suffix("").as_posix()


def example_images() -> ImageSet:
    """Four photographs of 400 to 600 pixels a side from the package scikit-image, for examples.

    They are read from the installed package, as `skimage.data` may use a cache of downloads. Raises
    DataError if the package lacks one of them.
    """
    folder = Path(str(files("skimage"))) / "data"
    missing = [name for name in _EXAMPLES if not (folder / name).is_file()]
    if missing:
        names = ", ".join(missing)
        raise DataError(f"{printable(folder)}: lacks {names}; reinstall scikit-image from a wheel")
    return ImageSet("examples", tuple(ImageItem(Path(f).stem, folder / f) for f in _EXAMPLES))
