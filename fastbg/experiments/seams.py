"""The option `seam`: the seams of measured composites, and the names of their columns.

A seam is "hard" (cut and pasted) or the decay length of a bridge in HR pixels, as for `composite`.
Columns of a hard seam have a plain name such as "psnr_32"; those of a bridge have a suffix:
"psnr_32_seam_4".
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from fastbg.errors import InvalidArgument
from fastbg.experiments.experiment import Measured
from fastbg.experiments.options import Options, option

Seam: TypeAlias = str | float
HARD = "hard"
_MARK = "_seam_"


@dataclass(frozen=True)
class SeamedOptions(Options):
    """Options of experiments that measure composites with several seams."""

    seam: str = option(
        "hard,4",
        "seams to measure, separated by commas: hard (cut and pasted), or a decay length in HR "
        "pixels (bridged: blended into the border colours)",
        before=HARD,
    )

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
        """Also check the seams."""
        super().check(owner)
        self.seams(owner)


def column(name: str, seam: Seam) -> str:
    """The name of the column `name` for `seam`."""
    return name if isinstance(seam, str) else f"{name}{_MARK}{seam:g}"


def title(seam: Seam) -> str:
    """Name of a seam in tables and verdicts, such as "hard seam" or "bridged over 4 pixels"."""
    return "hard seam" if isinstance(seam, str) else f"bridged over {seam:g} pixels"


def select_seam(measured: Measured, seam: Seam, shared: Callable[[str], bool]) -> Measured:
    """The records of `seam`, with the seam left out of the column names.

    For the seam 4, column "psnr_seam_4" becomes "psnr". Columns without a suffix belong to the hard
    seam; those whose name satisfies `shared` do not depend on the seam and are kept for every seam.
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
    """`seam` in pixels of an image whose pixels are `scale` HR pixels wide, for `composite`."""
    return seam if isinstance(seam, str) else seam / scale
