"""Confidence intervals for clustered data, and verdicts on claims.

Values from one photograph are not independent, so photographs are the clusters of every interval.
tests/test_coverage.py simulates how often the intervals contain the true value.
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, t

from fastbg import users_line
from fastbg.errors import InvalidArgument
from fastbg.stats.critical import critical_value
from fastbg.stats.given import check_level, grouped, truth

Floats = NDArray[np.float64]

_SQUARED = 150  # larger powers of two overflow, or vanish, in the cubes that skewness takes

FEWEST = 5
"""The fewest photographs for which a verdict is given."""


class Outcome(str, enum.Enum):
    """The verdict on a claim, from the data of a run."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNDECIDED = "undecided here"
    TOO_FEW = "too few photographs"

    @property
    def opposite(self) -> "Outcome":
        """The verdict on the contrary claim, from the same numbers."""
        swapped = {Outcome.HOLDS: Outcome.FAILS, Outcome.FAILS: Outcome.HOLDS}
        return swapped.get(self, self)


def all_of(outcomes: Iterable[Outcome]) -> Outcome:
    """The verdict on a claim with several parts: holds if all hold, fails if one fails."""
    found = set(outcomes)
    for outcome in (Outcome.TOO_FEW, Outcome.FAILS, Outcome.UNDECIDED):
        if outcome in found:
            return outcome
    return Outcome.HOLDS


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        value: the estimate.
        low, high: ends of the interval, in the unit of the value.
        photographs: number of photographs (clusters) that it was computed from; the effective
            number where few of them hold most of the values.
    """

    value: float
    low: float
    high: float
    photographs: int

    def compare(self, threshold: float) -> Outcome:
        """HOLDS if the whole interval lies above `threshold`, FAILS if all of it lies below.

        TOO_FEW for fewer than `FEWEST` photographs, UNDECIDED otherwise.
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
        """HOLDS if the interval lies between -`limit` and `limit`, FAILS if it lies outside."""
        if self.photographs < FEWEST:
            return Outcome.TOO_FEW
        if self.low > limit or self.high < -limit:
            return Outcome.FAILS
        inside = -limit < self.low and self.high < limit
        return Outcome.HOLDS if inside else Outcome.UNDECIDED

    @property
    def opposite(self) -> "Interval":
        """The interval of the negative value."""
        return Interval(-self.value, -self.high, -self.low, self.photographs)

    def clipped(self, low: float, high: float) -> "Interval":
        """The interval, cut to the possible range `low` to `high` of the quantity."""
        return Interval(self.value, max(self.low, low), min(self.high, high), self.photographs)

    @property
    def known(self) -> bool:
        """Whether its ends are finite; they are not for a single photograph."""
        return bool(np.isfinite([self.low, self.high]).all())

    def percent(self) -> "Interval":
        """The interval of a share, in percent."""
        return Interval(100 * self.value, 100 * self.low, 100 * self.high, self.photographs)

    def text(self, digits: int = 1, signed: bool = False) -> str:
        """As text, such as "41.3 (33.3 to 49.3)"."""
        form = f"{'+' if signed else ''}.{digits}f"
        if not self.known:
            return f"{self.value:{form}} (no interval from one photograph)"
        return f"{self.value:{form}} ({self.low:{form}} to {self.high:{form}})"


def mean_interval(
    values: ArrayLike, clusters: Sequence[object] | None = None, *, level: float = 0.95
) -> Interval:
    """Mean with a confidence interval for clustered data.

    For a paired interval, pass the differences of the pairs. The interval is Student's t on the
    bias-reduced cluster variance CR2 (Bell and McCaffrey 2002), with the exact quantile for
    clusters of unequal size (`critical_value`). If the sums of the clusters are skewed, each end is
    moved outwards to that of Hall's (1992) correction for skewness. The number of photographs is
    Kish's (1965) effective one, (sum of sizes)^2 / sum of sizes^2, rounded.

    Args:
        values: (n) finite numbers in any unit.
        clusters: (n) the photograph of each value; None: every value is a cluster of its own.
        level: coverage, in (0,1).

    Returns:
        An `Interval` in the unit of the values; its ends are infinite if there is one cluster.

    Raises:
        InvalidArgument: `values` empty, not one-dimensional, not finite, masked or no real numbers;
            `clusters` of another length, or NaN; `level` outside of (0,1).

    Example:
        >>> from fastbg.stats.intervals import mean_interval
        >>> photographs = ["a", "a", "b", "b", "c", "c", "d", "d", "e", "e"]
        >>> gain = mean_interval([0.3, 0.4, 0.1, 0.2, 0.5, 0.3, 0.2, 0.2, 0.4, 0.3], photographs)
        >>> gain.text(2, signed=True), gain.compare(0).value
        ('+0.29 (+0.12 to +0.42)', 'holds')
    """
    data, member, count = grouped(values, clusters)
    check_level(level)
    exponent = int(np.frexp(np.abs(data).max())[1])
    if abs(exponent) > _SQUARED:
        scaled = mean_interval(np.ldexp(data, -exponent), clusters, level=level)
        with np.errstate(over="ignore"):
            value, low, high = np.ldexp([scaled.value, scaled.low, scaled.high], exponent).tolist()
        return Interval(value, low, high, scaled.photographs)
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
    """Former name of `mean_interval`; nothing is drawn, so `seed` has no effect."""
    users_line.warn("bootstrap_mean is mean_interval now", DeprecationWarning)
    return mean_interval(values, clusters, level=level)


def share_interval(
    happened: ArrayLike, clusters: Sequence[object], *, level: float = 0.95
) -> Interval:
    """Share of true values with a confidence interval for clustered data.

    Clopper and Pearson's exact interval for the effective number of trials (Korn and Graubard
    1998): p (1 - p) divided by the cluster variance of `mean_interval`, at most the number of
    values, reduced by the squared ratio of Student's quantile to the critical value. If all values
    agree that variance is 0, and each photograph counts as one trial; the interval is never
    narrower than the one that follows from that.

    Args:
        happened: (n) true or false.
        clusters: (n) the photograph of each value.
        level: coverage, in (0,1).

    Raises:
        InvalidArgument: as for `mean_interval`; `happened` has other values than 0 and 1.
    """
    data, member, count = grouped(truth("happened", happened), clusters)
    check_level(level)
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
    """Difference of two shares in the same trials: true in `first` minus true in `second`.

    It is the share true in `first` only minus the share true in `second` only. Their
    `share_interval` are combined as by Zou and Donner (2008), with the correlation of two
    shares of the same trials. Unlike the t interval of the differences it has a width even if all
    trials agree, or all differ.

    Args:
        first, second: (n) true or false for each trial.
        clusters: (n) the photograph of each trial.
        level: coverage, in (0,1).

    Raises:
        InvalidArgument: as for `share_interval`; `first` and `second` differ in length.
    """
    ours, theirs = (
        truth(name, values).astype(np.bool_)
        for name, values in (("first", first), ("second", second))
    )
    if ours.shape != theirs.shape:
        raise InvalidArgument("second", f"shape {theirs.shape}", f"that of first, {ours.shape}")
    more = share_interval(ours & ~theirs, clusters, level=level)
    less = share_interval(theirs & ~ours, clusters, level=level)
    a, b = more.value, less.value
    # If all trials differ, the two shares add up to 1.
    alike = np.sqrt(a * b / ((1 - a) * (1 - b))) if a + b < 1 else 1.0

    def reach(of_more: float, of_less: float) -> float:
        return float(np.sqrt(of_more**2 + of_less**2 + 2 * alike * of_more * of_less))

    low = a - b - reach(a - more.low, less.high - b)
    high = a - b + reach(more.high - a, b - less.low)
    return Interval(a - b, low, high, more.photographs)


def share_limit(total: int, level: float = 0.95) -> float:
    """Upper limit, at `level`, for the share of an event that never occurred in `total` trials.

    Upper end of the one-sided exact binomial interval ("rule of three": about 3 / total).
    """
    if not total >= 1:
        raise InvalidArgument("total", total, "at least one trial")
    check_level(level)
    return float(1 - (1 - level) ** (1 / total))


def never_seen(seen: ArrayLike, clusters: Sequence[object], tolerated: float) -> Outcome:
    """The verdict on "this never happens"; `seen` (n) tells in which trials it did.

    FAILS if it was seen. HOLDS if there were enough photographs to put its share below
    `tolerated` at 95 %, UNDECIDED if not. TOO_FEW for fewer than `FEWEST` photographs.
    """
    trials, _, count = grouped(truth("seen", seen), clusters)
    photographs = len(count)
    if photographs < FEWEST:
        return Outcome.TOO_FEW
    if trials.any():
        return Outcome.FAILS
    return Outcome.HOLDS if share_limit(photographs) < tolerated else Outcome.UNDECIDED


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
