"""The base class of an experiment's part of the report: summarise and draw.

Both use only the run store, so a report can be written again without images and networks.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastbg.experiments.experiment import Measured
from fastbg.reports.content import Chart, Gallery, Strip, Table, Verdict


@dataclasses.dataclass(frozen=True)
class Summary:
    """Headlines, tables and verdicts of an experiment."""

    headlines: Mapping[str, str]  # network -> one line
    tables: Sequence[Table]
    verdicts: Sequence[Verdict]


class ExperimentReport(ABC):
    """Numbers, verdicts and figures of one experiment."""

    def __init__(self, experiment: Any) -> None:
        self.experiment = experiment
        self.options = experiment.options

    @abstractmethod
    def summarise(self, results: Sequence[Measured]) -> Summary:
        """Tables and verdicts over all networks."""

    @abstractmethod
    def draw(self, results: Sequence[Measured]) -> list[Chart | Gallery]:
        """Figures over all networks."""

    def galleries(
        self,
        results: Sequence[Measured],
        strips: Callable[[Measured, int], Sequence[Strip]],
        title: str,
        caption: str,
        needed: Sequence[str] = (),
    ) -> list[Gallery]:
        """A gallery for each network, with the `strips` of its cases.

        Cases that lack one of the pictures `needed` (default: all in `shown`) are left out. `title`
        is followed by the network's label.
        """
        needed = needed or self.experiment.shown
        galleries = []
        for number, result in enumerate(results, start=1):
            found = [
                strip
                for i in self.experiment.cases(result)
                if all((result.items[i].key, name) in result.pictures for name in needed)
                for strip in strips(result, i)
            ]
            if found:
                name = f"{self.experiment.name}_cases_{number}"
                galleries.append(Gallery(name, f"{title} {result.net.label}", caption, found))
        return galleries
