"""The registry of experiments: those of the paper, and our own."""

import difflib

from fastbg.errors import InvalidArgument
from fastbg.experiments.composites import Composites
from fastbg.experiments.diffusion import Diffusion
from fastbg.experiments.effect import Effect
from fastbg.experiments.experiment import Experiment
from fastbg.experiments.faithfulness import Faithfulness
from fastbg.experiments.gram import Gram
from fastbg.experiments.inward import Inward
from fastbg.experiments.mosaic import Mosaic
from fastbg.experiments.ring import Ring
from fastbg.experiments.seam import Seam
from fastbg.experiments.slicing import Slicing
from fastbg.experiments.surroundings import Surroundings
from fastbg.experiments.swap import Swap
from fastbg.experiments.table1 import Table1

# In the order of the report.
EXPERIMENTS: dict[str, type[Experiment]] = {
    e.name: e
    for e in (
        Surroundings,
        Slicing,
        Composites,
        Table1,
        Swap,
        Seam,
        Ring,
        Inward,
        Gram,
        Mosaic,
        Effect,
        Faithfulness,
        Diffusion,
    )
}


def experiment_type(name: str) -> type[Experiment]:
    """The experiment with this name; InvalidArgument, which lists all names, if there is none."""
    if name not in EXPERIMENTS:
        near = difflib.get_close_matches(name, EXPERIMENTS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InvalidArgument("experiment", repr(name), f"one of {', '.join(EXPERIMENTS)}{hint}")
    return EXPERIMENTS[name]
