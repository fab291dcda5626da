"""Image files and image folders: read lazily, the layouts of the field's datasets recognised."""

import hashlib
import os
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fastbg.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
OST_CLASSES = ("animal", "building", "grass", "mountain", "plant", "sky", "water")
_LOOKED_FOR = (
    "DIV2K_<split>_HR/ (with DIV2K_<split>_LR_bicubic/X4/), HR/ (with LR_bicubic/X4/), "
    "image_SRF_4/*_HR.png, the class folders of OutdoorSceneTrain_v2, and "
    + ", ".join("*" + suffix for suffix in SUFFIXES)
    + " in any subfolder"
)
_EXIF_ORIENTATION = 0x0112
# What Pillow raises on damaged files, beyond OSError.
_PILLOW_ERRORS = (SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """RGB pixels (h,w,3), 8 bit, of an image file.

    Grey is repeated over the channels, alpha is dropped, palettes are looked up. The EXIF
    orientation of JPEG, TIFF and WebP files is applied; PNG pixels are taken as stored.

    Raises DataError, naming the file and the cause, for a file that is missing, no image, cut off
    before its last pixel, or of more than 8 bits per channel.
    """
    with _opened(path) as image:
        _refuse_deep_pixels(path, image)
        if image.format != "PNG":
            image = ImageOps.exif_transpose(image)
        if image.mode in ("P", "PA"):
            image = image.convert("RGBA")  # straight to RGB, Pillow warns of transparent palettes
        return np.array(image.convert("RGB"), dtype=np.uint8)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width of `read_image(path)`, from the file's header; DataError as there."""
    with _opened(path) as image:
        width, height = image.size
        turned = image.format != "PNG" and image.getexif().get(_EXIF_ORIENTATION, 1) in range(5, 9)
        return (width, height) if turned else (height, width)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """The Pillow image of a file; every failure of Pillow inside the block becomes a DataError."""
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, *_PILLOW_ERRORS) as error:
        if isinstance(error, UnidentifiedImageError):
            cause = "not an image, or cut off within its header"
        else:
            cause = str(getattr(error, "strerror", None) or error)
        raise DataError(f"{os.fspath(path)}: cannot be read as an image: {cause}") from error


def _refuse_deep_pixels(path: str | os.PathLike[str], image: Image.Image) -> None:
    # Pillow opens 16-bit colour as mode RGB and drops the low byte without a word; only the raw
    # mode of the decoder tells.
    raw_modes = [str(tile[3]) for tile in getattr(image, "tile", [])]
    if image.mode.startswith(("I", "F")) or any(";16" in raw for raw in raw_modes):
        raise DataError(
            f"{os.fspath(path)}: has more than 8 bits per channel (mode {image.mode}); "
            "expected 8 bits: convert it first"
        )


@dataclass(frozen=True)
class ImageItem:
    """One HR image of a set, and the LR files that the dataset pairs with it."""

    key: str  # path inside the set, with '/' between folders: the same on every machine
    path: Path
    lr_paths: tuple[tuple[int, Path], ...] = ()  # (scale, file)

    def size(self) -> tuple[int, int]:
        """Height and width in HR pixels, from the file's header."""
        return image_size(self.path)

    def load(self) -> NDArray[np.uint8]:
        """HR pixels (h,w,3); DataError as `read_image`."""
        return read_image(self.path)

    def load_lr(self, scale: int) -> NDArray[np.uint8] | None:
        """The dataset's own LR image (h/scale,w/scale,3), or None if it has none at `scale`.

        Raises DataError if the dataset has LR images at `scale`, but this one is missing,
        unreadable or not of the HR size divided by `scale` (rounded either way).
        """
        path = dict(self.lr_paths).get(scale)
        if path is None:
            return None
        lr = read_image(path)
        hr_size = self.size()
        for length, hr_length in zip(lr.shape[:2], hr_size, strict=True):
            if length not in (hr_length // scale, -(-hr_length // scale)):
                raise DataError(
                    f"{path}: is {lr.shape[0]}x{lr.shape[1]}; expected 1/{scale} of "
                    f"{hr_size[0]}x{hr_size[1]}, the size of {self.path}"
                )
        return lr


@dataclass(frozen=True)
class ImageSet:
    """Images with stable keys, sorted by key; nothing is read before an item's `load`."""

    name: str
    items: tuple[ImageItem, ...]
    classes: Mapping[str, str] = field(default_factory=dict)  # key -> texture class, if known

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: str) -> ImageItem:
        """The item of that key; DataError if the set has none."""
        try:
            return self._by_key[key]
        except KeyError:
            raise DataError(f"image set {self.name}: has no image {key!r}") from None

    @cached_property
    def _by_key(self) -> dict[str, ImageItem]:
        return {item.key: item for item in self.items}

    def fingerprint(self) -> str:
        """16 hex digits that change when a file is added, removed, renamed or resized in bytes."""
        digest = hashlib.sha256()
        for item in self.items:
            try:
                size = item.path.stat().st_size
            except OSError as error:
                raise DataError(f"{item.path}: cannot be read: {error.strerror}") from error
            digest.update(f"{item.key}\0{size}\n".encode())
        return digest.hexdigest()[:16]


def open_folder(path: str | os.PathLike[str]) -> ImageSet:
    """The images of a folder, without opening any.

    Recognised, whether `path` is the dataset or the folder that holds it:
    - DIV2K: `DIV2K_valid_HR/0801.png`, paired with `DIV2K_valid_LR_bicubic/X4/0801x4.png`;
    - Urban100 and the like: `HR/img_001.png`, paired with `LR_bicubic/X4/img_001x4.png`, or
      `image_SRF_4/img_001_SRF_4_HR.png`, paired with `..._LR.png`;
    - OST: one folder for each texture class, which `classes` then tells; images elsewhere in it
      are photographs without a class.
    Any other folder is searched for images in all its subfolders.

    Raises DataError if there is no such folder, no image in it, or more than one dataset.
    """
    given = Path(path)
    if not given.is_dir():
        problem = "is a file" if given.exists() else "no such folder"
        raise DataError(f"{given}: {problem}; expected a folder of images")
    root = given.resolve()
    found = _dataset_holding(root) or _datasets(root)
    if not found:
        inside = {child: _datasets(child) for child in _folders(root)}
        found = [dataset for datasets in inside.values() for dataset in datasets]
        if found:
            unknown = [child for child, datasets in inside.items() if not datasets]
            if _images(root, deep=False) or any(_images(child) for child in unknown):
                names = ", ".join(dataset.name for dataset in found)
                raise DataError(f"{given}: holds {names} beside other images; name one of them")
    if len(found) > 1:
        names = ", ".join(dataset.name for dataset in found)
        raise DataError(f"{given}: holds more than one dataset ({names}); name one of them")
    images = found[0] if found else _image_set(root.name, root, _images(root))
    if not images.items:
        raise DataError(f"{given}: holds no images; looked for {_LOOKED_FOR}")
    return images


def _dataset_holding(folder: Path) -> list[ImageSet]:
    """The dataset if `folder` is the HR part of one."""
    if split := re.fullmatch(r"DIV2K_(\w+)_HR", folder.name):
        lr = folder.parent / f"DIV2K_{split[1]}_LR_bicubic"
        return [_paired(f"DIV2K_{split[1]}", folder, lr)]
    if folder.name == "HR":
        return [_paired(folder.parent.name, folder, folder.parent / "LR_bicubic")]
    if scale := re.fullmatch(r"image_SRF_(\d)", folder.name):
        return [_srf(folder, int(scale[1]))]
    return []


def _datasets(folder: Path) -> list[ImageSet]:
    """The known datasets that `folder` is, without looking deeper."""
    children = {child.name: child for child in _folders(folder)}
    for pattern in (r"HR", r"DIV2K_\w+_HR", r"image_SRF_4", r"image_SRF_\d"):
        matching = [child for name, child in children.items() if re.fullmatch(pattern, name)]
        if matching:
            return [found for child in matching for found in _dataset_holding(child)]
    textures = [child for name, child in children.items() if name.lower() in OST_CLASSES]
    if len(textures) > 1 or (textures and folder.name.startswith("OutdoorScene")):
        images = _image_set(folder.name, folder, _images(folder))
        tops = {i.key: i.key.partition("/")[0].lower() for i in images.items if "/" in i.key}
        classes = {key: top for key, top in tops.items() if top in OST_CLASSES}
        return [ImageSet(images.name, images.items, classes)] if images.items else []
    return []


def _image_set(name: str, root: Path, paths: list[Path]) -> ImageSet:
    keyed = sorted((path.relative_to(root).as_posix(), path) for path in paths)
    return ImageSet(name, tuple(ImageItem(key, path) for key, path in keyed))


def _paired(name: str, hr: Path, lr: Path) -> ImageSet:
    """The images of `hr`, each with its `X<scale>/<stem>x<scale>` file in `lr`.

    A scale that has a folder is expected to have every image: a gap is then found at loading.
    """
    by_scale = {}
    for folder in _folders(lr) if lr.is_dir() else []:
        if scale := re.fullmatch(r"X(\d)", folder.name):
            by_scale[int(scale[1])] = (folder, {path.stem: path for path in _images(folder)})

    def lr_paths(item: ImageItem) -> Iterator[tuple[int, Path]]:
        for scale, (folder, files) in sorted(by_scale.items()):
            stem = f"{item.path.stem}x{scale}"
            yield scale, files.get(stem, folder / f"{stem}{item.path.suffix}")

    items = _image_set(name, hr, _images(hr)).items
    return ImageSet(name, tuple(ImageItem(i.key, i.path, tuple(lr_paths(i))) for i in items))


def _srf(folder: Path, scale: int) -> ImageSet:
    """`img_001_SRF_4_HR.png` with `img_001_SRF_4_LR.png`; the results of methods are left out."""
    hr = [path for path in _images(folder, deep=False) if path.stem.endswith(f"_SRF_{scale}_HR")]
    items = tuple(
        ImageItem(i.key, i.path, ((scale, i.path.with_stem(i.path.stem[:-2] + "LR")),))
        for i in _image_set("", folder, hr).items
    )
    return ImageSet(folder.parent.name, items)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not _ignored(p.name))
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error


def _images(folder: Path, *, deep: bool = True) -> list[Path]:
    """Image files in `folder`; linked folders are followed, each real folder once."""

    def unreadable(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if deep and not _ignored(name))
        found += [
            Path(place, name)
            for name in files
            if not _ignored(name) and name.lower().endswith(SUFFIXES)
        ]
    return found


def _ignored(name: str) -> bool:
    """Hidden files, and what macOS leaves in archives."""
    return name.startswith((".", "__MACOSX"))
