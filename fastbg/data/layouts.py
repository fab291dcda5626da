"""Recognises HR and LR images and their scale by the names of folders and files.

The names are those of DIV2K, Flickr2K, BasicSR, RealSR, REDS, the benchmark folders of RCAN and
SwinIR, and plain HR and LR folders. No file is opened.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from fastbg.errors import InvalidArgument

_ANY_SET = r"(?:(?P<set>.+)[_-])?"
_PARTS = r"(?:[_-](?:sub|crops?|images))?"
HR_FOLDERS = (
    rf"{_ANY_SET}(?:HR|GT|HQ|GTmod\d*|ground_?truth|target|original){_PARTS}",
    r"(?P<set>(?:train|val|valid|test)_sharp)",  # REDS
    r"image_SRF_(?P<scale>\d)",
    r"(?P<set>sharp|clean)",  # of deblurring and denoising: beside images that are not
)
LR_FOLDERS = (
    rf"{_ANY_SET}(?:LR|LQ)(?:[_-]?(?P<kind>[a-z]+?))?(?:[_-]?x(?P<scale>\d))?{_PARTS}",
    rf"x(?P<scale>\d){_PARTS}",
    r"(?P<set>(?:train|val|valid|test)_sharp)_(?P<kind>bicubic)",
    r"(?P<set>input|low|low_?res(?:olution)?)",
)
# Names that count only if their counterpart exists.
UNSURE = re.compile(
    r"target|original|sharp|clean|input|low|low_?res(?:olution)?|x\d", re.IGNORECASE
)

HR_FILES = (r"(?P<key>.+)_SRF_(?P<scale>\d)_HR", r"(?P<key>.+)_(?:HR|GT|HQ)(?:_x(?P<scale>\d))?")
LR_FILES = (
    r"(?P<key>.+)_SRF_(?P<scale>\d)_LR",
    r"(?P<key>.+)_(?:LR|LQ)(?:BI|BD|DN|bic)?(?:_?x?(?P<scale>\d))?",
    r"(?P<key>.+)_bicLRx(?P<scale>\d)",
)
# "babyx4", and DIV2K's tracks mild, difficult, wild. Photographs may have such names, too, so they
# count only for files in an LR folder or beside their HR image.
LR_SUFFIX = r"(?P<key>.+?)_?x(?P<scale>\d)(?:[mdw]\d?)?"

_IGNORED = re.compile(
    r"\..*|__MACOSX|@eaDir|#recycle|\$RECYCLE\.BIN|lost\+found|System Volume Information",
    re.IGNORECASE,
)


def ignored(name: str) -> bool:
    """Whether to ignore a file or folder: hidden, or made by the system or an archive."""
    return _IGNORED.fullmatch(name) is not None


@dataclass(frozen=True)
class Name:
    """The meaning of a folder's or file's name."""

    role: str  # "hr" or "lr"
    key: str  # the name without the part that marks the role
    scale: int | None = None
    kind: str = ""  # of LR: "bicubic", "unknown", "mild" ...


def folder_name(name: str) -> Name | None:
    """The meaning of a folder's name; None if it has none."""
    for role, patterns in (("hr", HR_FOLDERS), ("lr", LR_FOLDERS)):
        for pattern in patterns:
            if found := re.fullmatch(pattern, name, re.IGNORECASE):
                parts = found.groupdict()
                return Name(role, parts.get("set") or "", _scale(parts), parts.get("kind") or "")
    return None


def marked(stem: str) -> Name | None:
    """The meaning of a file's stem if it is certain, as for "baby_HR", "baby_LR4"; else None."""
    for role, patterns in (("hr", HR_FILES), ("lr", LR_FILES)):
        for pattern in patterns:
            if found := re.fullmatch(pattern, stem, re.IGNORECASE):
                return _name(role, found)
    return None


def lr_readings(stem: str, template: str | None = None) -> Iterator[Name]:
    """All HR names to which an LR file with this stem may belong, the longest first.

    With a `template` such as "{}_bicLRx{scale}", only its reading.
    """
    if template is not None:
        if found := re.fullmatch(template_pattern(template), stem):
            yield _name("lr", found)
        return
    yield Name("lr", stem)
    for pattern in (*LR_FILES, LR_SUFFIX):
        if found := re.fullmatch(pattern, stem, re.IGNORECASE):
            yield _name("lr", found)


def hr_key(stem: str) -> str:
    """An HR file's stem without a marker such as "_HR"."""
    name = marked(stem)
    return name.key if name is not None and name.role == "hr" else stem


def template_pattern(template: str) -> str:
    """The regular expression of a template of LR names; raises InvalidArgument."""
    if template.count("{}") != 1 or template.count("{scale}") > 1:
        expected = "the HR name as {} once and {scale} at most once, such as {}_bicLRx{scale}"
        raise InvalidArgument("lr_name", repr(template), expected)
    stem = PurePath(template).stem if PurePath(template).suffix else template
    pattern = re.escape(stem).replace(re.escape("{}"), "(?P<key>.+)")
    return pattern.replace(re.escape("{scale}"), r"(?P<scale>\d+)")


def without_scales(folders: Sequence[str]) -> tuple[str, ...]:
    """`folders` without those that name a scale ("X4", "x4_sub", "4")."""
    return tuple(f for f in folders if not re.fullmatch(r"x?\d(?:_sub)?", f, re.IGNORECASE))


def scale_of(folders: Sequence[str]) -> int | None:
    """The scale named by one of `folders`; None if there is none."""
    for folder in folders:
        if found := re.fullmatch(r"x?(\d)(?:_sub)?", folder, re.IGNORECASE):
            return int(found[1])
    return None


def _name(role: str, found: re.Match[str]) -> Name:
    parts = found.groupdict()
    return Name(role, parts["key"], _scale(parts))


def _scale(parts: dict[str, str | None]) -> int | None:
    text = parts.get("scale")
    return None if text is None else int(text)
