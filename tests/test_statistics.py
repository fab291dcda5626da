"""Intervals and verdicts."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy import optimize, stats

from fastbg.errors import InvalidArgument
from fastbg.stats.correlation import kendall, pooled_kendall, pooled_spearman, spearman
from fastbg.stats.critical import critical_value
from fastbg.stats.intervals import (
    Interval,
    Outcome,
    all_of,
    bootstrap_mean,
    mean_interval,
    never_seen,
    share_difference,
    share_interval,
    share_limit,
)


def test_mean_of_independent_values_has_students_interval() -> None:
    values = np.random.default_rng(1).exponential(size=12)
    values = np.concatenate([values, -values])  # no skewness
    interval = mean_interval(values)
    expected = stats.t.interval(0.95, 23, loc=values.mean(), scale=stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected)
    assert interval.value == pytest.approx(values.mean(), abs=1e-15)
    assert interval.photographs == 24


def test_the_ends_reach_as_far_as_halls_correction_for_skewness() -> None:
    values = np.array([0.0, 0, 0, 0, 0, 0, 0, 0, 0, 10])
    interval = mean_interval(values)
    half = stats.t.ppf(0.975, 9) * stats.sem(values)
    part = values - 1
    skewness = (part**3).sum() / (part**2).sum() ** 1.5
    root = np.cbrt(1 + skewness * (-stats.t.ppf(0.975, 9) - skewness / 6))
    assert interval.low == pytest.approx(1 - half)
    assert interval.high == pytest.approx(1 - 3 / skewness * (root - 1) * stats.sem(values))
    assert interval.high > 1 + 1.5 * half
    mirrored = mean_interval(-values)
    assert (mirrored.low, mirrored.high) == pytest.approx((-interval.high, -interval.low))


def test_unequal_clusters_by_hand() -> None:
    """Clusters of 3, 1 and 2 values; each one's part weighed with 1 / (1 - its share)."""
    values, clusters = [1.0, 2, 3, 6, 0, 1], ["a", "a", "a", "b", "c", "c"]
    mean = 13 / 6
    parts = np.array([6 - 3 * mean, 6 - mean, 1 - 2 * mean]) / 6
    error = math.sqrt(
        parts[0] ** 2 / (1 - 1 / 2) + parts[1] ** 2 / (1 - 1 / 6) + parts[2] ** 2 / (1 - 1 / 3)
    )
    interval = mean_interval(values, clusters, level=0.9)
    assert interval.value == pytest.approx(mean)
    below, above = (mean - interval.low) / error, (interval.high - mean) / error
    assert min(below, above) == pytest.approx(critical_value(np.array([3.0, 1, 2]), 0.9))


def test_the_former_name_warns_and_gives_the_same() -> None:
    with pytest.warns(DeprecationWarning, match="mean_interval"):
        former = bootstrap_mean([1.0, 2, 4], ["a", "a", "b"], level=0.8, seed=3)
    assert former == mean_interval([1.0, 2, 4], ["a", "a", "b"], level=0.8)


def test_one_photograph_gives_no_interval() -> None:
    interval = mean_interval([1.0, 2.0], ["a", "a"])
    assert interval == Interval(1.5, -math.inf, math.inf, 1)
    assert interval.compare(0.0) is Outcome.TOO_FEW
    assert "no interval" in interval.text()


def test_two_photographs_give_an_interval() -> None:
    """Student's t with one degree of freedom; of a share, one trial in effect."""
    interval = mean_interval([1.0, 3.0], ["a", "b"])
    assert (interval.low, interval.high) == pytest.approx(stats.t.interval(0.95, 1, 2, 1))
    share = share_interval([True, False], ["a", "b"])
    ends = stats.beta.ppf(0.025, 0.5, 1.5), stats.beta.ppf(0.975, 1.5, 0.5)
    assert (share.low, share.high) == pytest.approx(ends)


def test_values_of_any_type_are_averaged_in_double_precision() -> None:
    single = np.random.default_rng(4).normal(1000, 1, size=30).astype(np.float32)
    assert mean_interval(single) == mean_interval(single.astype(np.float64))


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert mean_interval([2.0] * 6) == Interval(2.0, 2.0, 2.0, 6)


@pytest.mark.parametrize("photographs", [1, 2, 3, 4])
def test_no_verdict_from_less_than_five_photographs(photographs: int) -> None:
    sure = Interval(1.0, 0.9, 1.1, photographs)
    assert sure.compare(0.0) is sure.opposite.compare(0.0) is Outcome.TOO_FEW
    assert sure.within(2.0) is sure.judge(above=0, below=0) is Outcome.TOO_FEW
    for seen in (True, False):
        found = never_seen([seen] * 100, [i % photographs for i in range(100)], 0.5)
        assert found is Outcome.TOO_FEW
        assert found.opposite is Outcome.TOO_FEW
    parts = [Outcome.HOLDS, Outcome.FAILS, Outcome.UNDECIDED]
    assert all_of([*parts, Outcome.TOO_FEW]) is Outcome.TOO_FEW
    assert all_of(parts) is Outcome.FAILS
    assert all_of(parts[::2]) is Outcome.UNDECIDED
    assert all_of(parts[:1]) is Outcome.HOLDS


def test_within() -> None:
    assert Interval(0, -0.2, 0.2, 9).within(0.3) is Outcome.HOLDS
    assert Interval(0, -0.2, 0.3, 9).within(0.3) is Outcome.UNDECIDED
    assert Interval(0.5, 0.4, 0.6, 9).within(0.3) is Outcome.FAILS
    assert Interval(-0.5, -0.6, -0.4, 9).within(0.3) is Outcome.FAILS
    for touching in (Interval(-0.4, -0.5, -0.3, 9), Interval(0.4, 0.3, 0.5, 9)):
        assert touching.within(0.3) is Outcome.UNDECIDED
    assert Interval(-0.2, -0.3, 0, 9).within(0.3) is Outcome.UNDECIDED


@pytest.mark.parametrize(
    ("interval", "outcome"),
    [
        (Interval(0.3, 0.2, 0.4, 5), Outcome.HOLDS),
        (Interval(0.05, 0.01, 0.09, 5), Outcome.FAILS),
        (Interval(0.1, 0.05, 0.2, 5), Outcome.UNDECIDED),
        (Interval(0.1, 0.1, 0.2, 5), Outcome.UNDECIDED),
        (Interval(0.1, 0.0, 0.1, 5), Outcome.UNDECIDED),
    ],
)
def test_compare(interval: Interval, outcome: Outcome) -> None:
    assert interval.compare(0.1) is outcome


def test_never_seen_needs_enough_photographs() -> None:
    assert share_limit(30) == pytest.approx(3 / 30, rel=0.05)  # the rule of three
    assert never_seen([True] + [False] * 999, range(1000), 0.1) is Outcome.FAILS
    assert never_seen([False] * 28, range(28), 0.1) is Outcome.UNDECIDED
    assert never_seen([False] * 29, range(29), 0.1) is Outcome.HOLDS
    assert never_seen([False] * 5, range(5), 0.5) is Outcome.HOLDS
    assert never_seen([False] * 5, range(5), share_limit(5)) is Outcome.UNDECIDED
    crops = [i // 100 for i in range(700)]  # of seven photographs
    assert never_seen([False] * 700, crops, 0.1) is Outcome.UNDECIDED


@pytest.mark.parametrize(
    ("values", "keywords", "argument"),
    [
        ([], {}, "values"),
        ([[1.0]], {}, "values"),
        ([1.0], {"level": 1.0}, "level"),
        ([1.0, 2.0], {"clusters": ["a"]}, "clusters"),
        ([1.0, math.nan], {}, "values"),
        ([math.inf, 0.0], {}, "values"),
    ],
)
def test_bad_arguments_are_named(values: list, keywords: dict, argument: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        mean_interval(values, **keywords)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.ma.masked_array([1.0, 99.0], mask=[False, True]), "masked values"),
        (np.array([1, 2]) + 1j, "dtype complex128"),
        (["1", "2"], "dtype <U1"),
        ([b"1", 2], "dtype"),
        ([None, "2"], "dtype object"),
        (np.array(["2026-01-01", "NaT"], dtype="M8[D]"), r"dtype datetime64\[D\]"),
        (np.array([1, 2], dtype="m8[s]"), r"dtype timedelta64\[s\]"),
        ([[1.0], [2.0, 3.0]], "list .*inhomogeneous"),
        ([10**400, 1], "list .*too large"),
        ({"a": 1.0}, "dict"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_number_is_refused(values: ArrayLike, said: str) -> None:
    """NumPy makes numbers of most of these, in silence."""
    with pytest.raises(InvalidArgument, match=rf"^values: got {said}.*; expected real numbers$"):
        mean_interval(values, ["a", "b"])


def test_masks_that_hide_nothing_and_numbers_of_other_types_are_taken() -> None:
    expected = mean_interval([0.25, 2.0, 1.0])
    for values in (np.ma.masked_array([0.25, 2.0, 1.0]), [Fraction(1, 4), 2, True]):
        assert mean_interval(values) == expected


@pytest.mark.parametrize(
    "clusters",
    [
        [*np.array([np.nan, np.nan])],
        [math.nan, "a"],
        [*np.array(["NaT", "NaT"], dtype="M8[D]")],
        [["a"], ["a"]],
        np.zeros((2, 2)),
        7,
    ],
    ids=str,
)
def test_photographs_without_a_name_are_refused(clusters: Sequence[object]) -> None:
    """Two missing names would be two photographs, as no NaN equals another."""
    with pytest.raises(InvalidArgument, match=r"^clusters: got .*; expected a name or number"):
        mean_interval([1.0, 2.0], clusters)


@pytest.mark.parametrize("exponent", [-1070, -600, -160, 160, 600, 1019])
@pytest.mark.filterwarnings("error")
def test_intervals_of_any_magnitude_are_those_of_small_numbers(exponent: int) -> None:
    """Squares overflow beyond 1e154, and vanish below 1e-162: an interval without a width."""
    values, clusters = np.array([1.0, 9.0, 8.0, 2.0, 7.0, 7.0]), [*"aabbcc"]
    small = mean_interval(values, clusters)
    found = mean_interval(np.ldexp(values, exponent), clusters)
    for ends in ("value", "low", "high"):
        expected = np.ldexp(getattr(small, ends), exponent)
        assert getattr(found, ends) == pytest.approx(expected, rel=1e-12, abs=5e-324)
    assert found.photographs == 3


def test_ends_beyond_the_largest_number_are_not_known() -> None:
    found = mean_interval([1.7e308, -1.7e308, 1.7e308])
    assert found.value == pytest.approx(1.7e308 / 3)
    assert not found.known


def test_bad_arguments_are_told_with_their_value() -> None:
    def refuses(message: str, call: Callable[[], object]) -> None:
        with pytest.raises(InvalidArgument, match=message):
            call()

    for level in (0.0, 1.0, 1.5, math.nan):
        message = f"^level: got {level}; expected 0 < level < 1$"
        refuses(message, lambda level=level: share_interval([True, False], [0, 1], level=level))
    refuses("^clusters: got 1 labels; expected", lambda: share_interval([True, False], [0]))
    refuses("^clusters: got 5 labels; expected", lambda: never_seen([False] * 6, range(5), 0.1))
    for total in (0, math.nan):
        refuses(f"^total: got {total}; expected at least one", lambda n=total: share_limit(n))
    refuses("^level: got 2; expected", lambda: share_limit(5, 2))
    refuses("^level: got 0.9; expected", lambda: mean_interval([1.0], level="0.9"))  # type: ignore[arg-type]
    refuses("^happened: got nan; expected true", lambda: share_interval([0, math.nan], [0, 1]))
    refuses("^seen: got 0.3; expected true", lambda: never_seen([0.3] * 6, range(6), 0.1))
    refuses("^values: got nan at 1; expected finite numbers", lambda: mean_interval([0, math.nan]))
    refuses(r"^values: got shape \(0,\); expected shape", lambda: never_seen([], [], 0.1))
    refuses(
        r"^second: got shape \(2,\); expected that of first, \(1,\)",
        lambda: share_difference([True], [True, False], [0]),
    )
    refuses(
        "^happened: got 2.*; expected true and false, or 1 and 0",
        lambda: share_interval([1, 0, 2], [0, 1, 2]),
    )
    refuses("^second: got -1; expected true", lambda: share_difference([1, 0], [0, -1], [0, 1]))
    refuses("^total: got 0; expected at least one trial", lambda: share_limit(0))


def test_a_difference_of_shares_that_nobody_contradicts_still_has_an_interval() -> None:
    """Of 60 pairs in six photographs; each photograph counts as one trial."""
    photographs = [i % 6 for i in range(60)]
    unseen = 1 - 0.025 ** (1 / 6)
    yes, no = np.ones(60, dtype=bool), np.zeros(60, dtype=bool)
    for same in (yes, no):
        interval = share_difference(same, same, photographs)
        assert interval.value == 0
        assert (interval.low, interval.high) == pytest.approx((-unseen, unseen))
    always = share_difference(yes, no, photographs)
    assert (always.value, always.low, always.high) == pytest.approx((1, 1 - 2 * unseen, 1))
    never = share_difference(no, yes, photographs)
    assert (never.low, never.high) == pytest.approx((-1, 2 * unseen - 1))
    assert never.photographs == 6


def test_a_difference_of_shares_by_hand() -> None:
    """Of 100 photographs 30 for the first, 10 for the second, 60 for both or neither."""
    first = (np.arange(100) < 70).astype(int)
    second = ((np.arange(100) >= 30) & (np.arange(100) < 80)).astype(int)
    interval = share_difference(first, second, range(100), level=0.9)
    more, less = (share_interval(np.arange(100) < n, range(100), level=0.9) for n in (30, 10))
    alike = math.sqrt(0.3 * 0.1 / (0.7 * 0.9))
    down, up = (0.3 - more.low, less.high - 0.1), (more.high - 0.3, 0.1 - less.low)
    reach = [math.sqrt(p * p + q * q + 2 * alike * p * q) for p, q in (down, up)]
    assert interval.value == pytest.approx(0.2)
    assert (interval.low, interval.high) == pytest.approx((0.2 - reach[0], 0.2 + reach[1]))
    first, second = first > 0, second > 0
    assert share_difference(first, second, range(100), level=0.9) == interval
    # Without zeros one share is what the other leaves, and the interval that of one share.
    opposed = share_difference(first, ~first, range(100))
    share = share_interval(first, range(100))
    assert (opposed.low, opposed.high) == pytest.approx((2 * share.low - 1, 2 * share.high - 1))


def test_a_share_that_nobody_contradicts_still_has_an_interval() -> None:
    photographs = ["a", "a", "b", "c"]
    unseen = 1 - 0.025 ** (1 / 3)  # of Clopper and Pearson's interval, three trials
    everybody = share_interval([True] * 4, photographs)
    assert (everybody.low, everybody.high) == pytest.approx((1 - unseen, 1))
    nobody = share_interval([False] * 4, photographs)
    assert (nobody.low, nobody.high) == pytest.approx((0, unseen))
    assert share_interval([True, False], [0, 0]) == Interval(0.5, 0.0, 1.0, 1)


def test_a_share_of_single_trials_has_the_exact_binomial_interval() -> None:
    """30 of 100, one a photograph: nothing is lost to clusters."""
    share = share_interval([True] * 30 + [False] * 70, range(100))
    exact = stats.binomtest(30, 100).proportion_ci(method="exact")
    assert share.low == pytest.approx(exact.low, abs=0.002)
    assert share.high == pytest.approx(exact.high, abs=0.002)


def test_a_share_of_whole_photographs_counts_photographs() -> None:
    """Ten photographs, each of one opinion: the cluster variance is p (1 - p) / 9."""
    tenfold = share_interval([i < 30 for i in range(100)], [i // 10 for i in range(100)])
    trials = 9 * (stats.t.ppf(0.975, 99) / stats.t.ppf(0.975, 9)) ** 2
    assert tenfold.low == pytest.approx(stats.beta.ppf(0.025, 0.3 * trials, 0.7 * trials + 1))
    assert tenfold.high == pytest.approx(stats.beta.ppf(0.975, 0.3 * trials + 1, 0.7 * trials))


def test_photographs_that_all_are_divided_alike_count_their_values() -> None:
    """Half of each photograph's values: nothing lies between photographs."""
    share = share_interval([True, False] * 5, [i // 2 for i in range(10)])
    trials = 10 * (stats.t.ppf(0.975, 9) / stats.t.ppf(0.975, 4)) ** 2
    assert share.low == pytest.approx(stats.beta.ppf(0.025, trials / 2, trials / 2 + 1))


def test_one_exception_does_not_narrow_the_interval_of_a_share() -> None:
    """39 of 40 in four photographs are no stronger evidence than 40 of 40."""
    photographs = [i % 4 for i in range(40)]
    all_but_one = share_interval([True] * 39 + [False], photographs)
    assert all_but_one.value == 0.975
    assert all_but_one.low <= share_interval([True] * 40, photographs).low


def test_what_intervals_say_of_themselves() -> None:
    share = Interval(0.25, 0.125, 0.5, 7)
    assert share.percent() == Interval(25, 12.5, 50, 7)
    assert share.opposite == Interval(-0.25, -0.5, -0.125, 7)
    assert share.clipped(0.2, 0.4) == Interval(0.25, 0.2, 0.4, 7)
    assert Interval(0.3, 0.3, 0.4, 5).within(0.3) is Outcome.UNDECIDED  # touches the limit
    assert share.text(2, signed=True) == "+0.25 (+0.12 to +0.50)"
    assert Interval(0.25, 0.12, 0.5, 7).text() == "0.2 (0.1 to 0.5)"


@pytest.mark.parametrize("photographs", [2, 3, 7, 60])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_the_critical_value_of_equal_clusters_is_students(photographs: int, level: float) -> None:
    expected = stats.t.ppf((1 + level) / 2, photographs - 1)
    assert critical_value(np.full(photographs, 6.0), level) == pytest.approx(expected, rel=1e-6)


def test_the_critical_value_of_two_unequal_clusters() -> None:
    """The ratio of the mean w x + (1-w) y to x - y has a Cauchy distribution."""
    sizes = np.array([2.0, 6.0])
    w = sizes / sizes.sum()
    error = math.sqrt((w[0] * w[1]) ** 2 * (1 / w[1] + 1 / w[0]))  # of x - y = 1
    found = []
    for spread in (1 / sizes, np.ones(2), *(1 + z / sizes for z in (2, math.sqrt(12), 6))):
        covariance = w[0] * spread[0] - w[1] * spread[1]
        place = covariance / spread.sum()
        scale = math.sqrt((w**2 * spread).sum() / spread.sum() - place**2)
        cauchy = stats.cauchy(place, scale)
        # The share beyond both ends, as far as is needed for 5 %.
        found.append(optimize.brentq(lambda k, c=cauchy: c.sf(k) + c.cdf(-k) - 0.05, 0, 1e3))
    assert critical_value(sizes, 0.95) == pytest.approx(max(found) / error, rel=1e-6)


def test_the_critical_value_does_not_depend_on_the_order_or_the_unit_of_sizes() -> None:
    value = critical_value(np.array([3.0, 8, 3, 1]), 0.95)
    assert critical_value(np.array([8.0, 3, 1, 3]), 0.95) == value
    assert critical_value(np.array([30.0, 80, 30, 10]), 0.95) == pytest.approx(value, rel=1e-6)


def test_photographs_that_hold_most_values_are_few_in_effect() -> None:
    """Kish's number: 20 photographs of one value, two of 20: 60^2 / 820 = 4.4; no verdict."""
    photographs = [*range(20), *[20] * 20, *[21] * 20]
    values = 1 + 0.01 * np.random.default_rng(5).normal(size=60)
    sure = mean_interval(values, photographs)
    assert sure.photographs == 4
    assert sure.low > 0.9
    assert sure.compare(0.0) is Outcome.TOO_FEW
    shares = share_interval(values > 0, photographs), share_interval(values > 1, photographs)
    assert [share.photographs for share in shares] == [4, 4]
    # One value more for each of five photographs changes little: 5 in number, 4.7 in effect.
    assert (
        mean_interval(np.arange(13.0), [0] * 4 + [1] * 3 + [2] * 2 + [3] * 2 + [4] * 2).photographs
        == 5
    )
    assert share_difference(values > 0, values > 1, photographs).photographs == 4


def test_the_least_number_of_trials() -> None:
    assert share_limit(1) == pytest.approx(0.95)
    with pytest.raises(InvalidArgument) as caught:
        share_limit(0)
    assert caught.value.argument == "total"
    two = share_interval([True, True, False, False], [0, 0, 1, 1])
    assert two.photographs == 2
    assert 0 < two.low + 1e-9 < two.value < two.high <= 1
    assert share_interval([1, 0, 1], [0, 1, 2]).value == pytest.approx(2 / 3)


def test_correlations_of_what_has_no_order_are_refused_or_unknown() -> None:
    x, y = np.random.default_rng(0).random((2, 5, 4))
    gap = x.copy()
    gap[0, 0] = np.nan
    labels = [*"abcde"]
    for pooled in (pooled_spearman, pooled_kendall):
        for name, values in (("x", (gap, y)), ("y", (y, gap))):
            with pytest.raises(InvalidArgument, match=f"^{name}: got nan; expected numbers"):
                pooled(*values, labels)
        with pytest.raises(InvalidArgument, match=r"^y: got shape \(4, 5\); expected that of x"):
            pooled(x, y.T, labels)
    for each in (spearman, kendall):
        for found in (each(gap, y), each(y, gap)):
            np.testing.assert_array_equal(np.isnan(found), [True, False, False, False, False])
        np.testing.assert_array_equal(each(gap, y)[1:], each(x, y)[1:])
