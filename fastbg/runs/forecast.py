"""Progress of a run and its remaining time: first estimated, then corrected by measured times."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

Key: TypeAlias = tuple[str, str]  # experiment, network


@dataclass
class Part:
    """One network in one experiment."""

    guess: float  # first estimate, in seconds, for the items that are not stored yet
    seconds: float = 0.0  # elapsed
    share: float = 0.0  # done, 0 to 1

    @property
    def factor(self) -> float | None:
        """Measured time divided by the first estimate; None before anything is measured."""
        return self.seconds / (self.guess * self.share) if self.guess and self.share else None


class Forecast:
    """Expected times of a run's parts; measured parts correct the estimates of the others.

    A part's estimate is multiplied by two ratios of measured to estimated time: that of the same
    experiment with another network, and that of the two networks in other experiments. For a new
    experiment it is multiplied by the ratio of everything measured so far.
    """

    def __init__(self, guesses: Mapping[Key, float]) -> None:
        self.parts = {key: Part(guess) for key, guess in guesses.items()}
        self._share = 0.0

    def note(self, key: Key, seconds: float, share: float) -> None:
        """Note that a part has run for `seconds`, and `share` of it is done."""
        self.parts[key].seconds = seconds
        self.parts[key].share = share

    @property
    def known(self) -> bool:
        """Whether anything was measured, or nothing is to be measured."""
        return not self.remaining_guess or any(p.factor is not None for p in self.parts.values())

    @property
    def remaining_guess(self) -> float:
        """Remaining seconds by the first estimates."""
        return sum(part.guess * (1 - part.share) for part in self.parts.values())

    def remaining(self, since: float = 0.0) -> float:
        """Remaining seconds, `since` seconds after the last note."""
        left = sum(
            part.guess * (1 - part.share) * self.factor(key)
            for key, part in self.parts.items()
            if part.guess and part.share < 1
        )
        return max(left - since, left / 2)

    def share(self, since: float = 0.0) -> float:
        """Share of the total time that has passed, 0 to 1; never decreases."""
        spent = since + sum(part.seconds for part in self.parts.values())
        left = self.remaining(since)
        self._share = max(self._share, spent / (spent + left) if spent + left else 1.0)
        return self._share

    def factor(self, key: Key) -> float:
        """Expected time of a part divided by its first estimate."""
        own = self.parts[key].factor
        if own is not None:
            return own
        experiment, net = key
        found = {k: part.factor for k, part in self.parts.items() if part.factor is not None}
        like = [
            factor * self.slower(net, other)
            for (name, other), factor in found.items()
            if name == experiment
        ]
        if like:
            return statistics.fmean(like)
        mine = [factor for (_, other), factor in found.items() if other == net]
        return statistics.median(mine or [*found.values()] or [1.0])

    def slower(self, net: str, other: str) -> float:
        """Median ratio of the factors of `net` and `other` in the same experiments."""
        ratios = []
        for (experiment, label), part in self.parts.items():
            if label == net and part.factor is not None:
                beside = self.parts.get((experiment, other))
                if beside is not None and beside.factor:
                    ratios.append(part.factor / beside.factor)
        return statistics.median(ratios) if ratios else 1.0
