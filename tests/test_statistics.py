"""Intervals and verdicts."""

import math

import numpy as np
import pytest

from fastbg.errors import InvalidArgument
from fastbg.statistics import (
    Interval,
    Outcome,
    bootstrap_mean,
    bootstrap_share,
    never_seen,
    share_limit,
)


def test_bootstrap_of_independent_values_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    interval = bootstrap_mean(values)
    half = 1.96 * values.std() / math.sqrt(values.size)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_repeating_each_cluster_does_not_narrow_the_interval() -> None:
    """Ten crops of one photograph are no ten photographs."""
    values = np.random.default_rng(2).normal(size=20)
    once = bootstrap_mean(values)
    tenfold = bootstrap_mean(np.repeat(values, 10), np.repeat(np.arange(20), 10).tolist())
    naive = bootstrap_mean(np.repeat(values, 10))
    assert tenfold == pytest.approx(once)
    assert naive.high - naive.low < 0.5 * (once.high - once.low)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_mean(rng.exponential(size=60), resamples=800)[1:]
        covered += low <= 1.0 <= high
    assert 0.89 <= covered / 300 <= 0.98


def test_the_seed_decides_the_interval() -> None:
    values = np.arange(30.0)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_one_photograph_gives_no_interval() -> None:
    interval = bootstrap_mean([1.0, 2.0], ["a", "a"])
    assert interval == (1.5, -math.inf, math.inf)
    assert interval.compare(0.0) is Outcome.UNDECIDED
    assert "no interval" in interval.text()


@pytest.mark.parametrize(
    ("interval", "outcome"),
    [
        (Interval(0.3, 0.2, 0.4), Outcome.HOLDS),
        (Interval(0.05, 0.01, 0.09), Outcome.FAILS),
        (Interval(0.1, 0.05, 0.2), Outcome.UNDECIDED),
        (Interval(0.1, 0.1, 0.2), Outcome.UNDECIDED),
    ],
)
def test_compare(interval: Interval, outcome: Outcome) -> None:
    assert interval.compare(0.1) is outcome


def test_never_seen_needs_enough_trials() -> None:
    assert share_limit(30) == pytest.approx(3 / 30, rel=0.05)  # the rule of three
    assert never_seen(1, 1000, 0.1) is Outcome.FAILS
    assert never_seen(0, 7, 0.1) is Outcome.UNDECIDED
    assert never_seen(0, 29, 0.1) is Outcome.HOLDS


@pytest.mark.parametrize(
    ("values", "keywords", "argument"),
    [
        ([], {}, "values"),
        ([[1.0]], {}, "values"),
        ([1.0], {"level": 1.0}, "level"),
        ([1.0, 2.0], {"clusters": ["a"]}, "clusters"),
    ],
)
def test_bad_arguments_are_named(values: list, keywords: dict, argument: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        bootstrap_mean(values, **keywords)
    assert caught.value.argument == argument


def test_a_share_that_nobody_contradicts_still_has_an_interval() -> None:
    photographs = ["a", "a", "b", "c"]
    unseen = share_limit(3)
    assert bootstrap_share([True] * 4, photographs) == (1, 1 - unseen, 1)
    assert bootstrap_share([False] * 4, photographs) == (0, 0, unseen)
    mixed = [True, False, False, True]
    assert bootstrap_share(mixed, photographs) == bootstrap_mean(mixed, photographs)


def test_one_exception_does_not_narrow_the_interval_of_a_share() -> None:
    """39 of 40 in four photographs are no stronger evidence than 40 of 40."""
    photographs = [i % 4 for i in range(40)]
    all_but_one = bootstrap_share([True] * 39 + [False], photographs)
    assert all_but_one.value == 0.975
    assert all_but_one.low <= bootstrap_share([True] * 40, photographs).low
    assert bootstrap_share([True, False], [0, 0]) == (0.5, 0.0, 1.0)
