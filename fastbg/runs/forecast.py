"""Progress of a run and the time that is left: first estimated, then from measured times."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

Key: TypeAlias = tuple[str, str]  # experiment, network


@dataclass
class Part:
    """One network in one experiment."""

    guess: float  # seconds of what the run folder lacks, before anything is measured
    seconds: float = 0.0  # that it took so far
    share: float = 0.0  # of it that is done

    @property
    def factor(self) -> float | None:
        """How many times as long as guessed it takes; None before it is known."""
        return self.seconds / (self.guess * self.share) if self.guess and self.share else None


class Forecast:
    """Of a run's parts: whoever is measured corrects what is expected of the others.

    A part takes as many times its guess as the same experiment did with another network, times
    how much longer this network took elsewhere; where the experiment is new, as all that is
    measured did.
    """

    def __init__(self, guesses: Mapping[Key, float]) -> None:
        self.parts = {key: Part(guess) for key, guess in guesses.items()}
        self._share = 0.0

    def note(self, key: Key, seconds: float, share: float) -> None:
        """A part has been running for `seconds`, and `share` of it is done."""
        self.parts[key].seconds = seconds
        self.parts[key].share = share

    @property
    def known(self) -> bool:
        """Whether anything is measured, or there is nothing to measure."""
        return not self.remaining_guess or any(p.factor is not None for p in self.parts.values())

    @property
    def remaining_guess(self) -> float:
        """Seconds left, as guessed at first."""
        return sum(part.guess * (1 - part.share) for part in self.parts.values())

    def remaining(self, since: float = 0.0) -> float:
        """Seconds left, `since` seconds after the last note."""
        left = sum(
            part.guess * (1 - part.share) * self.factor(key)
            for key, part in self.parts.items()
            if part.guess and part.share < 1
        )
        return max(left - since, left / 2)

    def share(self, since: float = 0.0) -> float:
        """Done, of the time that all takes, 0 to 1; never less than it was."""
        spent = since + sum(part.seconds for part in self.parts.values())
        left = self.remaining(since)
        self._share = max(self._share, spent / (spent + left) if spent + left else 1.0)
        return self._share

    def factor(self, key: Key) -> float:
        """How many times as long as guessed a part takes."""
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
        """How many times as long as with `other` experiments take with `net`."""
        ratios = []
        for (experiment, label), part in self.parts.items():
            if label == net and part.factor is not None:
                beside = self.parts.get((experiment, other))
                if beside is not None and beside.factor:
                    ratios.append(part.factor / beside.factor)
        return statistics.median(ratios) if ratios else 1.0
