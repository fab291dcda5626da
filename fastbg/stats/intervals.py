"""Intervals and verdicts: how sure a number is, and what follows from it.

Values of one photograph are not independent, so photographs are the clusters of every interval
here. All of them come from `mean_interval`; tests/test_coverage.py simulates how often they cover.
"""

import enum
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, t

from fastbg.errors import InvalidArgument
from fastbg.stats.critical import critical_value

Floats = NDArray[np.float64]

FEWEST = 5
"""Photographs from which on a verdict is given. Fewer are too few to speak of others."""


class Outcome(str, enum.Enum):
    """What a test says about a claim of the paper on the data at hand."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNDECIDED = "undecided here"
    TOO_FEW = "too few photographs"

    @property
    def opposite(self) -> "Outcome":
        """What the same numbers say about the contrary claim."""
        swapped = {Outcome.HOLDS: Outcome.FAILS, Outcome.FAILS: Outcome.HOLDS}
        return swapped.get(self, self)


def all_of(outcomes: Iterable[Outcome]) -> Outcome:
    """Of a claim with several parts: holds if each does, fails if one does."""
    found = set(outcomes)
    for outcome in (Outcome.TOO_FEW, Outcome.FAILS, Outcome.UNDECIDED):
        if outcome in found:
            return outcome
    return Outcome.HOLDS


@dataclass(frozen=True)
class Interval:
    """An estimate, the ends of its confidence interval, and how many photographs it comes from.

    Where few `photographs` hold most of the values, it is their effective number.
    """

    value: float
    low: float
    high: float
    photographs: int

    def compare(self, threshold: float) -> Outcome:
        """HOLDS if the whole interval lies above `threshold`, FAILS if all of it lies below.

        TOO_FEW if it comes from less than `FEWEST` photographs.
        """
        return self.judge(above=threshold, below=threshold)

    def judge(self, *, above: float, below: float) -> Outcome:
        """HOLDS if the interval lies above `above`, FAILS if it lies below `below`."""
        if self.photographs < FEWEST:
            return Outcome.TOO_FEW
        if self.low > above:
            return Outcome.HOLDS
        return Outcome.FAILS if self.high < below else Outcome.UNDECIDED

    def within(self, limit: float) -> Outcome:
        """HOLDS if the interval lies between -`limit` and `limit`, FAILS if beyond either."""
        if self.photographs < FEWEST:
            return Outcome.TOO_FEW
        if self.low > limit or self.high < -limit:
            return Outcome.FAILS
        inside = -limit < self.low and self.high < limit
        return Outcome.HOLDS if inside else Outcome.UNDECIDED

    @property
    def opposite(self) -> "Interval":
        """Of minus the value."""
        return Interval(-self.value, -self.high, -self.low, self.photographs)

    def clipped(self, low: float, high: float) -> "Interval":
        """Its ends no farther than `low` and `high`, which the quantity cannot pass."""
        return Interval(self.value, max(self.low, low), min(self.high, high), self.photographs)

    @property
    def known(self) -> bool:
        """Whether it has ends: one photograph says nothing about others."""
        return bool(np.isfinite([self.low, self.high]).all())

    def percent(self) -> "Interval":
        """A share as percentage."""
        return Interval(100 * self.value, 100 * self.low, 100 * self.high, self.photographs)

    def text(self, digits: int = 1, signed: bool = False) -> str:
        """ "41.3 (33.3 to 49.3)"."""
        form = f"{'+' if signed else ''}.{digits}f"
        if not self.known:
            return f"{self.value:{form}} (no interval from one photograph)"
        return f"{self.value:{form}} ({self.low:{form}} to {self.high:{form}})"


def mean_interval(
    values: ArrayLike, clusters: Sequence[object] | None = None, *, level: float = 0.95
) -> Interval:
    """Mean of `values` (n) over all items, with a confidence interval for clustered data.

    The difference of a pair as value makes this the paired interval. Student's t on the
    bias-reduced cluster variance CR2 (Bell and McCaffrey 2002), with the exact quantile for
    clusters of unequal size (`critical_value`); where the clusters' sums are skewed, each end
    reaches at least as far as Hall's (1992) correction for skewness puts it. Without finite ends
    if there is one cluster. The number of photographs is Kish's (1965) effective one,
    (sum of sizes)^2 / sum of sizes^2, rounded.

    Args:
        values: numbers, any unit.
        clusters: the photograph of each value; None: each value is its own.
        level: share of samples whose interval contains the population mean.

    Raises:
        InvalidArgument: `values` empty, not one-dimensional or not finite; `clusters` of another
            length; `level` not in (0,1).
    """
    data, member, count = _grouped(values, clusters)
    _check_level(level)
    mean, groups = float(data.mean()), len(count)
    if groups < 2:
        return Interval(mean, -np.inf, np.inf, groups)
    part, error = _spread(data - mean, member, count)
    below, above = _skewed_reach(part, critical_value(count, level))
    return Interval(mean, mean - below * error, mean + above * error, _effective(count))


def bootstrap_mean(
    values: ArrayLike,
    clusters: Sequence[object] | None = None,
    *,
    level: float = 0.95,
    seed: int | None = None,
) -> Interval:
    """Former name of `mean_interval`, which draws nothing: `seed` has no effect."""
    warnings.warn("bootstrap_mean is mean_interval now", DeprecationWarning, stacklevel=2)
    return mean_interval(values, clusters, level=level)


def share_interval(
    happened: ArrayLike, clusters: Sequence[object], *, level: float = 0.95
) -> Interval:
    """Share of the values (n) that are true, with an interval for clustered data.

    Clopper and Pearson's exact interval at the effective number of trials (Korn and Graubard
    1998): p (1 - p) over the cluster variance of `mean_interval`, never more than the number of
    values, and less by the squared ratio of Student's quantile to the critical value. Where all
    clusters agree, that variance is 0 and says nothing: then, and as the least that is ever
    claimed, each photograph counts as one trial.

    Raises InvalidArgument as `mean_interval`.
    """
    data, member, count = _grouped(happened, clusters)
    _check_level(level)
    share, groups, trials = float(data.mean()), len(count), data.size
    if groups < 2:
        return Interval(share, 0.0, 1.0, groups)
    alone = share_limit(groups, (1 + level) / 2)
    effective = float(groups)
    if 0 < share < 1:
        _, error = _spread(data - share, member, count)
        student = float(t.ppf((1 + level) / 2, max(trials - 1, 1)))
        shrink = (student / critical_value(count, level)) ** 2
        effective = min(share * (1 - share) / error**2 if error else trials, trials) * shrink
    seen, rest = share * effective, (1 - share) * effective
    low = float(beta.ppf((1 - level) / 2, seen, rest + 1)) if share > 0 else 0.0
    high = float(beta.ppf((1 + level) / 2, seen + 1, rest)) if share < 1 else 1.0
    return Interval(share, min(low, 1 - alone), max(high, alone), _effective(count))


def share_difference(
    first: ArrayLike, second: ArrayLike, clusters: Sequence[object], *, level: float = 0.95
) -> Interval:
    """Share of the values (n) true in `first` minus the share true in `second`, paired.

    That is the share true in `first` alone minus the share true in `second` alone, each with its
    `share_interval`; their distances to the estimate are put together as Zou and Donner (2008)
    do, with the correlation of two shares of the same trials. So it is honest where nothing or
    everything differs, in which the t interval of the differences would have no width.

    Raises InvalidArgument as `mean_interval`, and if `first` and `second` differ in length.
    """
    ours, theirs = np.asarray(first, dtype=np.bool_), np.asarray(second, dtype=np.bool_)
    if ours.shape != theirs.shape:
        raise InvalidArgument("second", f"shape {theirs.shape}", f"that of first, {ours.shape}")
    more = share_interval(ours & ~theirs, clusters, level=level)
    less = share_interval(theirs & ~ours, clusters, level=level)
    a, b = more.value, less.value
    # Where every value differs, one share is what the other leaves.
    alike = np.sqrt(a * b / ((1 - a) * (1 - b))) if a + b < 1 else 1.0

    def reach(of_more: float, of_less: float) -> float:
        return float(np.sqrt(of_more**2 + of_less**2 + 2 * alike * of_more * of_less))

    low = a - b - reach(a - more.low, less.high - b)
    high = a - b + reach(more.high - a, b - less.low)
    return Interval(a - b, low, high, more.photographs)


def share_limit(total: int, level: float = 0.95) -> float:
    """Largest share that an event may have and still not be seen in `total` trials.

    Upper end of the one-sided exact binomial interval ("rule of three": about 3 / total).
    """
    if total < 1:
        raise InvalidArgument("total", total, "at least one trial")
    return float(1 - (1 - level) ** (1 / total))


def never_seen(seen: ArrayLike, clusters: Sequence[object], tolerated: float) -> Outcome:
    """Whether "it never happens" holds, where `seen` (n) says in which trials it did.

    FAILS once it was seen; HOLDS when so many photographs went by that the share in which it
    happens is below `tolerated` at 95 %; UNDECIDED before; TOO_FEW below `FEWEST` photographs.
    """
    trials, _, count = _grouped(seen, clusters)
    photographs = len(count)
    if photographs < FEWEST:
        return Outcome.TOO_FEW
    if trials.any():
        return Outcome.FAILS
    return Outcome.HOLDS if share_limit(photographs) < tolerated else Outcome.UNDECIDED


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InvalidArgument("level", level, "0 < level < 1")


def _grouped(
    values: ArrayLike, clusters: Sequence[object] | None
) -> tuple[Floats, NDArray[np.intp], Floats]:
    """Checked values (n), the cluster of each (n), and how many values each cluster has."""
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not data.size:
        raise InvalidArgument("values", f"shape {data.shape}", "shape (n,), n >= 1")
    if not np.isfinite(data).all():
        bad = int(np.flatnonzero(~np.isfinite(data))[0])
        raise InvalidArgument("values", f"{data[bad]} at {bad}", "finite numbers")
    labels: Sequence[object] = range(data.size) if clusters is None else list(clusters)
    if len(labels) != data.size:
        raise InvalidArgument("clusters", f"{len(labels)} labels", f"one for each of {data.size}")
    index = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    member = np.array([index[label] for label in labels], dtype=np.intp)
    return data, member, np.bincount(member).astype(np.float64)


def _effective(count: Floats) -> int:
    """Kish's effective number of clusters: that of clusters of one size which tell as much."""
    return round(float(count.sum() ** 2 / (count**2).sum()))


def _spread(deviation: Floats, member: NDArray[np.intp], count: Floats) -> tuple[Floats, float]:
    """Each cluster's part (C) in the error of a mean, and the standard error of the mean.

    CR2 of a regression on a constant: a cluster with the share w of all values enters with
    1 / (1 - w).
    """
    part = np.bincount(member, weights=deviation) / count.sum()  # [C], they sum to 0
    return part, float(np.sqrt((part**2 / (1 - count / count.sum())).sum()))


def _skewed_reach(part: Floats, reach: float) -> tuple[float, float]:
    """Standard errors below and above the mean: `reach`, or Hall's where that is farther."""
    power = float((part**2).sum())
    if power == 0:
        return reach, reach
    skewness = float((part**3).sum()) / power**1.5
    if abs(skewness) < 1e-9:
        return reach, reach

    def corrected(z: float) -> float:
        return float(3 / skewness * (np.cbrt(1 + skewness * (z - skewness / 6)) - 1))

    return max(reach, corrected(reach)), max(reach, -corrected(-reach))
