"""The built-in images: 24 photographs and 45 textures in OST's seven classes.

The photographs are crops of Kodak's, the textures of CC0 and CC-BY photographs;
assets/images/manifest.json has origin, licence and crop of each, and assets/images/CREDITS.md the
credits. None of them was trained on (bench/check_overlap.py).
"""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path

from fastbg.data.sets import ImageItem, ImageSet
from fastbg.errors import DataError

IMAGES = Path(__file__).parents[1] / "assets" / "images"
_EXAMPLES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


@cache
def builtin_images() -> ImageSet:
    """24 photographs of 320 x 320 pixels, and 45 textures of 256 x 256, each with its class.

    Lossless. Raises DataError if the installation lacks one of them.
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
    paths = [IMAGES / entry["file"] for entry in entries]
    items = [ImageItem(p.relative_to(IMAGES).with_suffix("").as_posix(), p) for p in paths]
    classes = {i.key: i.path.parent.name for i in items if i.path.parent.name != "photographs"}
    return ImageSet("builtin", tuple(items), classes)


def example_images() -> ImageSet:
    """Four photographs of 400 to 600 pixels a side that lie in scikit-image's wheel: for examples.

    They are read from the installed package: `skimage.data.coffee()` and the others may look in a
    cache of downloads first. Raises DataError if the package lacks one of them.
    """
    folder = Path(str(files("skimage"))) / "data"
    missing = [name for name in _EXAMPLES if not (folder / name).is_file()]
    if missing:
        names = ", ".join(missing)
        raise DataError(f"{folder}: lacks {names}; reinstall scikit-image from a wheel")
    return ImageSet("examples", tuple(ImageItem(Path(f).stem, folder / f) for f in _EXAMPLES))
