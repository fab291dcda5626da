"""The shape that every experiment's part of the report has: summarise and draw.

Both see only what the run store holds, so that a report can be made again without images and
networks.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastbg.experiments.experiment import Measured
from fastbg.reports.content import Chart, Gallery, Strip, Table, Verdict


@dataclasses.dataclass(frozen=True)
class Summary:
    """Numbers of an experiment, for all networks together."""

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
        strip: Callable[[Measured, int], Strip],
        title: str,
        caption: str,
    ) -> list[Gallery]:
        """A gallery for each network: `strip` of each of its cases that has pictures.

        `title` stands before the network's label.
        """
        galleries = []
        for number, result in enumerate(results):
            strips = [
                strip(result, i)
                for i in self.experiment.cases(result)
                if all(
                    (result.items[i].key, name) in result.pictures for name in self.experiment.shown
                )
            ]
            if strips:
                name = f"{self.experiment.name}_cases_{number + 1}"
                galleries.append(Gallery(name, f"{title} {result.net.label}", caption, strips))
        return galleries
