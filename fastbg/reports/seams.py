"""Shared by the reports of experiments with several seams: the seam in a verdict."""

from collections.abc import Sequence
from dataclasses import replace

from fastbg.experiments.seams import Seam, title
from fastbg.reports.content import Verdict

NOTE = (
    "Bridged: foreign pixels are blended into the border colours of the adjacent image, with this "
    "decay length in HR pixels."
)


def with_seam(verdicts: Sequence[Verdict], seam: Seam) -> list[Verdict]:
    """The verdicts, each naming its seam."""
    return [
        replace(verdict, about=", ".join(filter(None, (verdict.about, title(seam)))))
        for verdict in verdicts
    ]
