"""Intervals and verdicts: how sure a number is, and what follows from it."""

import enum
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbg.errors import InvalidArgument

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


class Outcome(str, enum.Enum):
    """What a test says about a claim of the paper on the data at hand."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNDECIDED = "undecided here"

    @property
    def opposite(self) -> "Outcome":
        """What the same numbers say about the contrary claim."""
        if self is Outcome.UNDECIDED:
            return self
        return Outcome.FAILS if self is Outcome.HOLDS else Outcome.HOLDS


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def compare(self, threshold: float) -> Outcome:
        """HOLDS if the whole interval lies above `threshold`, FAILS if all of it lies below."""
        if self.low > threshold:
            return Outcome.HOLDS
        if self.high < threshold:
            return Outcome.FAILS
        return Outcome.UNDECIDED

    def percent(self) -> "Interval":
        """A share as percentage."""
        return Interval(*(100 * v for v in self))

    def text(self, digits: int = 1, signed: bool = False) -> str:
        """ "41.3 (33.3 to 49.3)"."""
        form = f"{'+' if signed else ''}.{digits}f"
        if not np.isfinite([self.low, self.high]).all():
            return f"{self.value:{form}} (no interval from one photograph)"
        return f"{self.value:{form}} ({self.low:{form}} to {self.high:{form}})"


def bootstrap_mean(
    values: ArrayLike,
    clusters: Sequence[object] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Mean of `values` (n) with its percentile-bootstrap interval.

    Values of one cluster (sub-images of one photograph) are not independent: with `clusters` (n),
    whole clusters are drawn. A pair's difference as value makes this the paired bootstrap. Not
    finite without at least two clusters: one photograph says nothing about others.

    Raises InvalidArgument if `values` is empty or not one-dimensional, or `level` is not in (0,1).
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not data.size:
        raise InvalidArgument("values", f"shape {data.shape}", "shape (n,), n >= 1")
    if not 0 < level < 1:
        raise InvalidArgument("level", level, "0 < level < 1")
    labels = list(range(data.size)) if clusters is None else list(clusters)
    if len(labels) != data.size:
        raise InvalidArgument("clusters", f"{len(labels)} labels", f"one for each of {data.size}")

    member, drawn = draw_clusters(labels, resamples, seed)
    total = np.bincount(member, weights=data)  # [clusters]
    count = np.bincount(member).astype(np.float64)
    return percentile_interval(float(data.mean()), (drawn @ total) / (drawn @ count), drawn, level)


def draw_clusters(
    labels: Sequence[object], resamples: int = 10_000, seed: int = 0
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Cluster (n) of each label, and how often each resample draws each cluster: (resamples,C)."""
    index = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    member = np.array([index[label] for label in labels], dtype=np.intp)
    return member, _draws(len(index), resamples, seed)


@lru_cache(maxsize=4)  # a report asks for the same few again; 800 photographs take 64 MB
def _draws(clusters: int, resamples: int, seed: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)
    drawn.flags.writeable = False
    return drawn


def percentile_interval(
    value: float,
    resampled: NDArray[np.float64],
    drawn: NDArray[np.int64],
    level: float = 0.95,
) -> Interval:
    """`value` with the percentiles of its resamples, by `draw_clusters`' second result."""
    if drawn.shape[1] < 2:  # one photograph says nothing about others
        return Interval(value, -np.inf, np.inf)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def share_limit(total: int, level: float = 0.95) -> float:
    """Largest share that an event may have and still not be seen in `total` trials.

    Upper end of the one-sided exact binomial interval ("rule of three": about 3 / total).
    """
    if total < 1:
        raise InvalidArgument("total", total, "at least one trial")
    return float(1 - (1 - level) ** (1 / total))


def bootstrap_share(happened: ArrayLike, clusters: Sequence[object], *, seed: int = 0) -> Interval:
    """Share of the values (n) that are true, as `bootstrap_mean` gives it.

    Resamples of few clusters agree too well, and altogether where all or none are true. So the
    interval never excludes what that number of clusters could not, if they all agreed
    (`share_limit`): four photographs rule out no share between 47 and 53 %.
    """
    share = bootstrap_mean(happened, clusters, seed=seed)
    unseen = share_limit(len(set(clusters)))
    low, high = min(share.low, 1 - unseen), max(share.high, unseen)
    return Interval(share.value, max(low, 0.0), min(high, 1.0))


def never_seen(events: int, total: int, tolerated: float) -> Outcome:
    """Whether "it never happens" holds, after `events` of `total` trials showed it.

    FAILS once it was seen; HOLDS when so many trials went by that its share is below `tolerated`
    at 95 %; UNDECIDED before.
    """
    if events:
        return Outcome.FAILS
    return Outcome.HOLDS if share_limit(total) < tolerated else Outcome.UNDECIDED
