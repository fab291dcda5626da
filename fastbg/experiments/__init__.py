"""The paper's tables, figures and sections, one file each; a new one adds a line here."""

from fastbg.errors import InvalidArgument
from fastbg.experiments.experiment import Experiment
from fastbg.experiments.inward import Inward
from fastbg.experiments.ring import Ring
from fastbg.experiments.slicing import Slicing
from fastbg.experiments.surroundings import Surroundings
from fastbg.experiments.table1 import Table1

# In the order of the report.
EXPERIMENTS: dict[str, type[Experiment]] = {
    e.name: e for e in (Surroundings, Slicing, Table1, Ring, Inward)
}


def experiment_type(name: str) -> type[Experiment]:
    """The experiment of that name; InvalidArgument lists all names for one that is none."""
    if name not in EXPERIMENTS:
        raise InvalidArgument("experiment", repr(name), f"one of {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]
