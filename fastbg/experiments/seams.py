"""Seams as an option: with which of them composites are measured, and how columns are named.

A seam is "hard" (cut and pasted) or the decay length of a bridge in HR pixels, as `composite`
takes it. What is measured with a hard seam has its plain name, what is measured with a bridge a
suffix: "psnr_32" and "psnr_32_seam_4".
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

from fastbg.errors import InvalidArgument
from fastbg.experiments.experiment import Measured
from fastbg.experiments.options import Options, option

Seam: TypeAlias = str | float
HARD = "hard"
_MARK = "_seam_"


@dataclass(frozen=True)
class SeamedOptions(Options):
    """Composites with the seams asked for; each is measured."""

    seam: str = option(
        "hard,4",
        "how foreign content meets the rim: hard (cut and pasted), or the decay length of a bridge "
        "in HR pixels; several, separated by commas, are all measured",
    )

    earlier: ClassVar[Mapping[str, object]] = {"seam": HARD}

    def seams(self, owner: str) -> tuple[Seam, ...]:
        """The seams of the option, hard first, then bridges by length.

        Raises InvalidArgument naming `owner`.seam.
        """
        try:
            found: list[Seam] = [
                HARD if part.strip() == HARD else float(part) for part in self.seam.split(",")
            ]
        except ValueError:
            found = []
        lengths = [seam for seam in found if isinstance(seam, float)]
        labels = {column("", seam) for seam in found}  # two of one label would share a column
        good = all(0 < length < math.inf for length in lengths) and len(labels) == len(found)
        if not found or not good:
            expected = "hard or decay lengths in HR pixels, above 0, each once, such as hard,4"
            raise InvalidArgument(f"{owner}.seam", repr(self.seam), expected)
        return (*(seam for seam in found if seam == HARD), *sorted(lengths))

    def check(self, owner: str) -> None:
        """Also the seams."""
        super().check(owner)
        self.seams(owner)


def column(name: str, seam: Seam) -> str:
    """The name of a column that is measured with `seam`."""
    return name if isinstance(seam, str) else f"{name}{_MARK}{seam:g}"


def title(seam: Seam) -> str:
    """A seam as tables and verdicts name it: "hard seam", "bridged over 4 pixels"."""
    return "hard seam" if isinstance(seam, str) else f"bridged over {seam:g} pixels"


def select_seam(measured: Measured, seam: Seam, shared: Callable[[str], bool]) -> Measured:
    """The records that were measured with `seam`, renamed as if no other seam had been measured.

    Column "psnr_seam_4" becomes "psnr" for the seam 4. Columns without a suffix belong to the hard
    seam, except those for whose name `shared` is true: they do not depend on the seam and are kept
    for each.
    """
    suffix = column("", seam)
    columns = {}
    for name, values in measured.columns.items():
        plain = _MARK not in name
        if plain and (not suffix or shared(name)):
            columns[name] = values
        elif suffix and name.endswith(suffix):
            columns[name.removesuffix(suffix)] = values
    return replace(measured, columns=columns)


def pixels(seam: Seam, scale: int) -> Seam:
    """`seam` of images whose pixels are `scale` HR pixels wide, as `composite` takes it."""
    return seam if isinstance(seam, str) else seam / scale
