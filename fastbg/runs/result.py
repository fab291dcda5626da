"""The result of `fastbg.run_experiments`: path of the report, records, verdicts."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbg.errors import InvalidArgument
from fastbg.experiments.experiment import Experiment
from fastbg.reports.content import Verdict
from fastbg.reports.sections import report_of
from fastbg.runs.records import read_run, results, stored_experiments
from fastbg.runs.store import RunStore


@dataclass(frozen=True)
class RunResult(os.PathLike[str]):
    """A run on disk, read on demand. As a path-like object, it is the path of the report."""

    path: Path
    """Of report.html."""
    experiments: Sequence[str]
    """Names of the requested experiments and of those that they use."""

    @property
    def folder(self) -> Path:
        """The run folder, with figures/, tables/ and run.sqlite."""
        return self.path.parent

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdicts on the paper's claims, in the order of the report."""
        with read_run(self.folder) as store:
            return [
                verdict
                for each in stored_experiments(store)
                if each.name in self.experiments
                for verdict in report_of(each).summarise(results(store, each)).verdicts
            ]

    def records(self, experiment: str) -> dict[str, NDArray[Any]]:
        """All numbers of an experiment as columns; n counts the items of all networks in turn.

        "network", "item" and "photograph" are strings (n); measured columns are float64 (n), or
        (n,K) for curves such as the PSNR in K backgrounds. Units are those of the report's tables:
        dB, grey levels, HR pixels. Raises InvalidArgument for an experiment without records in the
        run.
        """
        with read_run(self.folder) as store:
            found = {each.name: each for each in stored_experiments(store)}
            if experiment not in found:
                raise InvalidArgument("experiment", repr(experiment), f"one of {[*found]}")
            return columns(store, found[experiment])

    def frame(self, experiment: str) -> Any:
        """`records` as a pandas DataFrame; K values of a curve are columns NAME.0, NAME.1 ...

        Raises ImportError if pandas is not installed, InvalidArgument as `records`.
        """
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise ImportError("frame() needs pandas: pip install pandas; records() does not") from (
                error
            )
        flat: dict[str, NDArray[Any]] = {}
        for name, column in self.records(experiment).items():
            if column.ndim == 1:
                flat[name] = column
            else:
                flat |= {f"{name}.{k}": values for k, values in enumerate(column.T)}
        return pandas.DataFrame(flat)

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)


def columns(store: RunStore, experiment: Experiment) -> dict[str, NDArray[Any]]:
    """The records of all networks as columns."""
    measured = results(store, experiment)
    rows = [(each.net.label, item) for each in measured for item in each.items]
    found: dict[str, NDArray[Any]] = {
        "network": np.array([label for label, _ in rows]),
        "item": np.array([item.key for _, item in rows]),
        "photograph": np.array([item.source for _, item in rows]),
    }
    for name in measured[0].columns if measured else ():
        found[name] = np.concatenate([each.columns[name] for each in measured])
    return found
