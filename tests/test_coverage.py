"""Intervals hold the truth as often as they say: simulated, photographs as clusters.

Bounds are those that the documentation states; 1,500 samples each have a standard error of 0.6
percentage points.
"""

from collections.abc import Callable

import numpy as np
import pytest

from fastbg.stats.correlation import pooled_kendall, pooled_spearman
from fastbg.stats.intervals import Interval, mean_interval, share_difference, share_interval

SAMPLES = 1_500
PHOTOGRAPHS = [3, 4, 7, 24, 60]
SIZES = {
    "equal": lambda count: np.full(count, 5),
    "unequal": lambda count: 1 + np.arange(count),
    "one with half of all": lambda count: np.append(np.full(count - 1, 3), 3 * (count - 1)),
}
DRAWS = {
    "normal": lambda rng, count: rng.normal(size=count),
    "exponential": lambda rng, count: rng.exponential(size=count) - 1,
    "lognormal": lambda rng, count: np.exp(rng.normal(size=count)) - np.exp(0.5),
}


def covered(truth: float, make: Callable[[np.random.Generator], Interval], samples: int) -> float:
    """Share of the intervals that hold `truth`."""
    rng = np.random.default_rng(20)
    intervals = (make(rng) for _ in range(samples))
    return sum(i.low <= truth <= i.high for i in intervals) / samples


def members(sizes: np.ndarray) -> np.ndarray:
    """The photograph of each item."""
    return np.repeat(np.arange(len(sizes)), sizes)


@pytest.mark.parametrize("within", [0.3, 3.0])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("photographs", PHOTOGRAPHS)
def test_means_of_normal_photographs(photographs: int, shape: str, within: float) -> None:
    """As differences of pairs are means, this is the paired interval too."""
    member = members(SIZES[shape](photographs))

    def make(rng: np.random.Generator) -> Interval:
        between = rng.normal(size=photographs)
        return mean_interval(
            between[member] + within * rng.normal(size=member.size), member.tolist()
        )

    assert 0.93 <= covered(0.0, make, SAMPLES) <= 0.985


@pytest.mark.parametrize("law", ["exponential", "lognormal"])
@pytest.mark.parametrize("shape", ["equal", "unequal"])
def test_means_of_skewed_photographs(law: str, shape: str) -> None:
    member = members(SIZES[shape](24))

    def make(rng: np.random.Generator) -> Interval:
        between = DRAWS[law](rng, 24)
        return mean_interval(between[member] + 0.3 * rng.normal(size=member.size), member.tolist())

    assert 0.90 <= covered(0.0, make, SAMPLES) <= 0.98


@pytest.mark.parametrize("alike", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("photographs", PHOTOGRAPHS)
def test_shares(photographs: int, share: float, alike: float) -> None:
    """`alike`: correlation within a photograph. Exact intervals of few trials cover more often."""
    member = members(np.full(photographs, 5))

    def make(rng: np.random.Generator) -> Interval:
        if alike == 0:
            each = np.full(photographs, share)
        elif alike == 1:
            each = (rng.random(photographs) < share).astype(float)
        else:
            strength = (1 - alike) / alike
            each = rng.beta(share * strength, (1 - share) * strength, photographs)
        return share_interval(rng.random(member.size) < each[member], member.tolist())

    assert covered(share, make, 400) >= 0.93


@pytest.mark.parametrize("photographs", [24, 60])
@pytest.mark.parametrize("shape", ["two with most", "each a third smaller"])
def test_means_where_few_photographs_hold_most_items(shape: str, photographs: int) -> None:
    """Effectively two to five photographs, and nothing says which: some coverage is lost."""
    if shape == "two with most":
        sizes = np.append(np.ones(photographs - 2, dtype=int), [20, 20])
    else:
        sizes = np.maximum(1, (100 * (2 / 3) ** np.arange(photographs)).astype(int))
    member = members(sizes)

    def make(rng: np.random.Generator) -> Interval:
        between = rng.normal(size=photographs)
        return mean_interval(between[member] + 0.3 * rng.normal(size=member.size), member.tolist())

    assert 0.90 <= covered(0.0, make, SAMPLES) <= 0.98


@pytest.mark.parametrize("alike", [0.0, 1.0])
@pytest.mark.parametrize(
    ("more", "less"), [(0.5, 0.5), (0.1, 0.1), (0.05, 0.0), (0.3, 0.05), (0.95, 0.02)]
)
@pytest.mark.parametrize("photographs", [4, 7, 24, 60])
def test_differences_of_shares(photographs: int, more: float, less: float, alike: float) -> None:
    """`more` is the share true in the first alone, `less` in the second alone."""
    member = members(np.full(photographs, 3))

    def make(rng: np.random.Generator) -> Interval:
        chance = rng.random(photographs)[member] if alike else rng.random(member.size)
        first, second = chance < more, (more <= chance) & (chance < more + less)
        return share_difference(first, second, member.tolist())

    assert covered(more - less, make, 300) >= 0.93


@pytest.mark.parametrize("rho", [0.0, 0.7, 0.99])
@pytest.mark.parametrize("photographs", [4, 5, 7, 24])
def test_rank_correlations_of_single_values(photographs: int, rho: float) -> None:
    """Few of them are often in perfect order by chance."""

    def make(rng: np.random.Generator) -> Interval:
        x, y = rng.normal(size=(2, photographs, 1))
        return pooled_kendall(x, rho * x + np.sqrt(1 - rho**2) * y, range(photographs))

    assert covered(2 / np.pi * np.arcsin(rho), make, 400) >= 0.93


@pytest.mark.parametrize("alike", [0.1, 0.8])
@pytest.mark.parametrize("rho", [0.0, 0.7])
@pytest.mark.parametrize("photographs", [4, 7, 24])
@pytest.mark.parametrize(
    ("measure", "truth"),
    [
        (pooled_spearman, lambda rho: 6 / np.pi * np.arcsin(rho / 2)),
        (pooled_kendall, lambda rho: 2 / np.pi * np.arcsin(rho)),
    ],
)
def test_rank_correlations(
    measure: Callable[..., Interval],
    truth: Callable[[float], float],
    photographs: int,
    rho: float,
    alike: float,
) -> None:
    """Normal pairs of correlation `rho`, five values a foreground, two foregrounds a photograph."""
    member = np.repeat(np.arange(photographs), 2)

    def pair(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        x, y = rng.normal(size=(2, *shape))
        return x, rho * x + np.sqrt(1 - rho**2) * y

    def make(rng: np.random.Generator) -> Interval:
        between = pair(rng, (photographs, 1))
        inside = pair(rng, (2 * photographs, 5))
        x, y = (
            np.sqrt(alike) * b[member] + np.sqrt(1 - alike) * w
            for b, w in zip(between, inside, strict=True)
        )
        return measure(x, y, member.tolist())

    assert covered(truth(rho), make, 400) >= 0.92
