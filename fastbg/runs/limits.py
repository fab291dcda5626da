"""Limits the number of items that a run measures."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastbg.experiments.experiment import Experiment
from fastbg.experiments.study import Item
from fastbg.runs.estimate import pixels

QUICK = 3.0  # seconds for one network in one experiment, estimated by the experiment's `cost`


@dataclass(frozen=True)
class Limits:
    """`--limit` and `--quick`: both keep the first items of a plan.

    Neither depends on the machine's speed, so a run has the same items everywhere.
    """

    items: int | None = None
    quick: bool = False

    def cut(self, experiment: Experiment, plan: Sequence[Item]) -> list[Item]:
        """The items of `plan` to measure, at least one."""
        return list(plan[: self.items][: self.affordable(experiment, plan)])

    def affordable(self, experiment: Experiment, plan: Sequence[Item]) -> int:
        """Number of items that take at most QUICK seconds in this experiment and its base."""
        if not self.quick or not plan:
            return len(plan)
        users = [each for each in (experiment, experiment.base) if each is not None]
        each = pixels(plan) / 1e6 / len(plan)
        return max(1, min(int(QUICK / (user.cost * each)) for user in users))
