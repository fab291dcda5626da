"""Opens image folders: recognises the layouts of common SR data sets, refuses ambiguous ones.

The names of folders and files (`fastbg.data.layouts`) mark an image as HR, as LR, or not at all. If
some are marked HR, those are the HR images; if only LR images are marked, all others are HR.
Anything else is an error that names what was found.
"""

import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from fastbg.data import layouts
from fastbg.data.files import SUFFIXES, image_size, read_image
from fastbg.data.layouts import Name
from fastbg.data.pairs import Low, paired
from fastbg.data.sets import ImageItem, ImageSet
from fastbg.errors import DataError
from fastbg.given_path import path_of
from fastbg.printable import printable

__all__ = ["ImageItem", "ImageSet", "image_size", "open_folder", "read_image"]

OST_CLASSES = ("animal", "building", "grass", "mountain", "plant", "sky", "water")
_LOOKED_FOR = (
    "DIV2K_<split>_HR/ (with DIV2K_<split>_LR_bicubic/X4/), HR/ or GT/ (with LR/, LQ/ or "
    "LR_bicubic/X4/), GTmod12/ (with LRbicx4/), image_SRF_4/*_HR.png, *_HR.png (with *_LR4.png), "
    "the class folders of OutdoorSceneTrain_v2, and "
    + ", ".join("*" + suffix for suffix in SUFFIXES)
    + " in any subfolder"
)


@dataclass(frozen=True)
class _File:
    """An image file, and its role by the names of its folders and itself."""

    path: Path
    folder: Path | None = None  # the folder whose name gives the role; None: the file's own name
    name: Name | None = None  # the meaning of that name; None: no role


def open_folder(path: str | os.PathLike[str], lr_name: str | None = None) -> ImageSet:
    """Find the HR images of a folder, or of a data set inside it, without opening any.

    The layouts of these data sets are recognised, together with their LR images:

    - DIV2K, Flickr2K: `DIV2K_valid_HR/0801.png` with `DIV2K_valid_LR_bicubic/X4/0801x4.png`;
    - benchmark folders: `HR/img_001.png` with `LR_bicubic/X4/img_001x4.png`, BasicSR's
      `GTmod12/baby.png` with `LRbicx4/baby.png`, RCAN's `HR/Set5/x4/baby_HR_x4.png`,
      `image_SRF_4/img_001_SRF_4_HR.png` with `..._LR.png`;
    - RealSR: `Canon_001_HR.png` with `Canon_001_LR4.png` in one folder; REDS: `train_sharp/` with
      `train_sharp_bicubic/X4/`;
    - any `HR/`, `GT/`, `HQ/` or `target/` with `LR/`, `LQ/` or `input/` of the same file names;
    - OST: a folder for each texture class, which becomes the image's class; images in other
      folders are photographs without a class.

    Without such names, all images in the folder and its subfolders are taken. If a data set has HR
    copies for several scales, those for x4 are taken, or else those for the largest scale.

    Args:
        path: folder.
        lr_name: names of the LR files if they follow no pattern above: "{}" is the HR file's name,
            "{scale}" the scale, such as "{}_bicLRx{scale}".

    Returns:
        An `ImageSet` with the images sorted by key.

    Raises:
        DataError: no such folder; no image in it; several data sets; a data set beside other
            images; two LR images for one HR image; a broken link.
        InvalidArgument: a bad `lr_name`; a `path` that is none.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from pathlib import Path
        >>> from fastbg.data.images import open_folder
        >>> Path("photos").mkdir()
        >>> Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save("photos/black.png")
        >>> [item.key for item in open_folder("photos").items]
        ['black.png']
    """
    given = path_of("path", path)
    try:
        is_folder, there = given.is_dir(), given.exists()
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise DataError(f"{printable(given)}: cannot be opened: {error.strerror}") from error
    if not is_folder:
        problem = "is a file" if there else "no such folder"
        raise DataError(f"{printable(given)}: {problem}; expected a folder of images")
    if lr_name is not None:
        layouts.template_pattern(lr_name)
    try:
        root = given.resolve()
    except FileNotFoundError as error:  # the working folder was removed
        raise DataError(f"{printable(given)}: cannot be opened: {error.strerror}") from error
    files = [_classified(file, root) for file in _images(root)]
    if not files:
        raise DataError(f"{printable(given)}: contains no images; looked for {_LOOKED_FOR}")
    files = _sure(files)
    high = [file for file in files if file.name is not None and file.name.role == "hr"]
    low = [file for file in files if file.name is not None and file.name.role == "lr"]
    plain = [file for file in files if file.name is None]
    if not high and not low:
        # The folder DIV2K_valid_LR_bicubic/X4 itself names only a scale.
        above = layouts.folder_name(root.parent.name) if layouts.scale_of([root.name]) else None
        low_folder = above is not None and above.role == "lr"
        return replace(_plain_set(root, plain, lr_name), low=low_folder)
    if not high and not plain:
        return replace(_image_set(root.name, root, [file.path for file in low]), low=True)
    if not high:
        return _with_low(root.name, _common_folder(plain), plain, low, lr_name)
    return _recognised(given, root, high, plain, low, lr_name)


def _classified(file: Path, root: Path) -> _File:
    """A file with its role by the folders below `root`, otherwise by its own name.

    The outermost folder with an unambiguous name decides; ambiguous names such as "original" count
    only if there is none.
    """
    folders = file.relative_to(root).parts[:-1]
    unsure = None
    for depth in range(len(folders) + 1):
        folder = root.joinpath(*folders[:depth])
        name = layouts.folder_name(folder.name)
        if name is None or _by_files(folder.name):
            continue
        if layouts.UNSURE.fullmatch(folder.name) is None:
            return _File(file, folder, name)
        unsure = unsure or _File(file, folder, name)
    return unsure or _File(file, None, layouts.marked(file.stem))


def _by_files(folder: str) -> bool:
    """Whether a folder contains HR and LR files, so that file names decide."""
    return re.fullmatch(r"image_SRF_\d", folder, re.IGNORECASE) is not None


def _sure(files: Sequence[_File]) -> list[_File]:
    """Drop roles by names such as "input" or "X4" if their counterpart is missing."""
    roles = {
        file.name.role
        for file in files
        if file.name and not (file.folder and layouts.UNSURE.fullmatch(file.folder.name))
    }
    if roles:
        return list(files)
    names = {file.name.role for file in files if file.name}
    plain = any(file.name is None for file in files)
    return list(files) if len(names) + plain > 1 else [_File(file.path) for file in files]


def _recognised(
    given: Path,
    root: Path,
    high: Sequence[_File],
    plain: Sequence[_File],
    low: Sequence[_File],
    lr_name: str | None,
) -> ImageSet:
    """The one data set whose HR images are `high`."""
    homes: dict[tuple[Path, str], list[_File]] = defaultdict(list)
    for file in high:
        homes[_home(file)].append(file)
    chosen = _of_one_scale(homes)
    names = sorted({_set_name(home, file) for (home, _), (file, *_) in chosen.items()})
    if len(chosen) > 1:
        raise DataError(
            f"{printable(given)}: contains several data sets ({', '.join(names)}); name one"
        )
    ((home, _), files) = next(iter(chosen.items()))
    strange = [f.path for f in plain if not _by_files(f.path.parent.name)]
    if strange:
        raise DataError(
            f"{printable(given)}: contains {names[0]} and other images "
            f"({printable(strange[0].name)}); name one of them"
        )
    _refuse_low_among_high(files, lr_name)
    beside = _beside(home, root)
    own = [f for f in (*low, *beside) if _belongs(f, files[0])]
    return _with_low(names[0], home, files, own, lr_name)


def _refuse_low_among_high(high: Sequence[_File], lr_name: str | None) -> None:
    """DataError for HR folders with LR images: babyx4.png beside baby.png, or a folder LR."""
    stems = {(file.path.parent, layouts.hr_key(file.path.stem)) for file in high}
    for file in high:
        path = file.path
        if file.folder is None or layouts.hr_key(path.stem) != path.stem:  # its name marks it as HR
            continue
        readings = [n for n in layouts.lr_readings(path.stem, lr_name) if n.key != path.stem]
        if any((path.parent, name.key) in stems for name in readings) or any(
            _says_low(folder) for folder in path.relative_to(file.folder).parts[:-1]
        ):
            raise DataError(
                f"{printable(path)}: is named like an LR image, in the folder of HR images "
                f"{printable(file.folder)}; expected HR images only: move LR images to a folder "
                "named LR beside it"
            )


def _says_low(folder: str) -> bool:
    name = layouts.folder_name(folder)
    return name is not None and name.role == "lr" and not layouts.UNSURE.fullmatch(folder)


def _home(file: _File) -> tuple[Path, str]:
    """The folder from which an HR file's key starts, and its set below (RCAN: HR/Set5/x4)."""
    if file.folder is None:
        return file.path.parent, ""
    inside = file.path.relative_to(file.folder).parts[:-1]
    scales = [i for i, part in enumerate(inside) if re.fullmatch(r"[xX]\d", part)]
    return (
        (file.folder.joinpath(*inside[: scales[0] + 1]), "scale") if scales else (file.folder, "")
    )


def _of_one_scale(
    homes: dict[tuple[Path, str], list[_File]],
) -> dict[tuple[Path, str], list[_File]]:
    """Keeps HR copies for x4, else for the largest scale; prefers BasicSR's cropped copies."""
    families: dict[Path, list[tuple[Path, str]]] = defaultdict(list)
    others = {}
    for key in homes:
        home, kind = key
        if kind == "scale" or re.fullmatch(r"image_SRF_\d|GTmod\d*|original", home.name, re.I):
            families[home.parent].append(key)
        else:
            others[key] = homes[key]

    def rank(key: tuple[Path, str]) -> tuple[bool, bool, int]:
        name = key[0].name
        number = int(re.sub(r"\D", "", name) or 0)
        return name.lower() != "original", number == 4 or name.lower().startswith("gt"), number

    return others | {(best := max(keys, key=rank)): homes[best] for keys in families.values()}


def _set_name(home: Path, file: _File) -> str:
    """Name of the data set: that of its HR folder or of the parent folder."""
    if file.folder is not None and file.name is not None and file.name.key:
        return file.name.key
    if home.name.isdigit():  # RealSR: Canon/Test/4
        return "/".join(home.parts[-3:])
    # "X4" also counts as a name with a meaning: a scale.
    return home.parent.name if layouts.folder_name(home.name) else home.name


def _beside(home: Path, root: Path) -> list[_File]:
    """LR images in folders beside `home`, if the caller named the HR folder."""
    if home != root:
        return []
    found = []
    for folder in _folders(home.parent):
        name = layouts.folder_name(folder.name)
        if folder != home and name is not None and name.role == "lr":
            found += [_File(file, folder, name) for file in _images(folder)]
    return found


def _belongs(low: _File, high: _File) -> bool:
    """Whether an LR folder belongs to the HR folder's set (DIV2K_train, DIV2K_valid)."""
    if low.folder is None or high.folder is None or low.name is None or high.name is None:
        return low.folder is None and high.folder is None
    if layouts.UNSURE.fullmatch(low.folder.name) or layouts.UNSURE.fullmatch(high.folder.name):
        return True
    return low.name.key.lower() == high.name.key.lower()


def _with_low(
    name: str, home: Path, high: Sequence[_File], low: Sequence[_File], lr_name: str | None
) -> ImageSet:
    """The HR images under `home` with their LR images."""
    images = _image_set(name, home, [file.path for file in high])
    by_kind: dict[str, list[Low]] = defaultdict(list)
    for file in low:
        top = file.folder or file.path.parent
        kind = file.name.kind.lower() if file.name else ""
        by_kind[kind].append((file.path, top, file.name.scale if file.name else None))
    if not by_kind:
        return images
    bicubic = [kind for kind in by_kind if kind.startswith("bi") or kind == ""]
    chosen = bicubic if len(bicubic) == 1 else list(by_kind)
    if len(chosen) > 1:
        found = ", ".join(sorted(chosen))
        return replace(images, lr_source=f"none, as there are several ({found})")
    return paired(images, by_kind[chosen[0]], lr_name)


def _plain_set(root: Path, files: Sequence[_File], lr_name: str | None) -> ImageSet:
    """Images without marked names: OST's classes, HR and LR in one folder, or simply all images."""
    textures = {child.name.lower() for child in _folders(root)} & set(OST_CLASSES)
    holder = root
    if not textures:
        inside = [child for child in _folders(root) if child.name.startswith("OutdoorScene")]
        holder = inside[0] if len(inside) == 1 and len(_folders(root)) == 1 else root
        textures = {child.name.lower() for child in _folders(holder)} & set(OST_CLASSES)
    paths = [file.path for file in files]
    if len(textures) > 1 or (textures and holder.name.startswith("OutdoorScene")):
        images = _image_set(holder.name, holder, paths)
        tops = {i.key: i.key.partition("/")[0].lower() for i in images.items if "/" in i.key}
        return replace(images, classes={k: top for k, top in tops.items() if top in OST_CLASSES})
    high, low = _split_by_suffix(files, lr_name)
    if low:
        return paired(_image_set(root.name, root, high), low, lr_name)
    return _image_set(root.name, root, paths)


def _split_by_suffix(files: Sequence[_File], lr_name: str | None) -> tuple[list[Path], list[Low]]:
    """HR and LR files of one folder: with `baby.png`, `babyx4.png` is its LR image."""
    stems = {(file.path.parent, file.path.stem) for file in files}
    high, low = [], []
    for file in files:
        readings = [n for n in layouts.lr_readings(file.path.stem, lr_name) if n.scale is not None]
        found = [n for n in readings if (file.path.parent, n.key) in stems]
        if found:
            low.append((file.path, file.path.parent, found[0].scale))
        else:
            high.append(file.path)
    return high, low


def _common_folder(files: Sequence[_File]) -> Path:
    return Path(os.path.commonpath([file.path.parent for file in files]))


def _image_set(name: str, root: Path, paths: Sequence[Path]) -> ImageSet:
    keyed = sorted((printable(path.relative_to(root).as_posix()), path) for path in paths)
    for (key, one), (after, other) in pairwise(keyed):
        if key == after:  # one name is what is shown for the other
            raise DataError(f"{root}: two images are both shown as {key}: {one!r} and {other!r}")
    return ImageSet(printable(name), tuple(ImageItem(key, path) for key, path in keyed))


def _folders(folder: Path) -> list[Path]:
    try:
        children = [p for p in folder.iterdir() if not layouts.ignored(p.name) and p.is_dir()]
    except OSError as error:
        raise DataError(f"{printable(folder)}: cannot be listed: {error.strerror}") from error
    return sorted(children)


def _images(folder: Path) -> list[Path]:
    """Image files below `folder`; linked folders are followed, each real folder once.

    Pipes, sockets and devices are left out: opening one may never end.
    """

    def unreadable(error: OSError) -> None:
        raise DataError(
            f"{printable(error.filename)}: cannot be listed: {error.strerror}"
        ) from error

    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not layouts.ignored(name))
        found += list(_regular(place, sorted(files)))
    return found


def _regular(place: str, names: Sequence[str]) -> Iterator[Path]:
    """The image files among `names`."""
    for name in names:
        if layouts.ignored(name) or not name.lower().endswith(SUFFIXES):
            continue
        path = Path(place, name)
        try:
            mode = path.stat().st_mode
        except OSError as error:
            problem = "is a link to nothing" if path.is_symlink() else error.strerror
            raise DataError(f"{printable(path)}: {problem}") from error
        if stat.S_ISREG(mode):
            yield path
