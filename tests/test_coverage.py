"""Intervals hold the truth as often as they say: simulated, photographs as clusters.

Bounds are those that the documentation states; 1,500 samples each have a standard error of 0.6
percentage points.
"""

from collections.abc import Callable

import numpy as np
import pytest

from fastbg.stats.correlation import (
    FEW,
    NEAR_ONE,
    caution,
    partial_spearman,
    pooled_kendall,
    pooled_spearman,
)
from fastbg.stats.intervals import (
    Interval,
    Outcome,
    mean_interval,
    share_difference,
    share_interval,
)

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


FEW_WITH_MOST = {
    "one with 80 %": lambda count: np.append(np.ones(count - 1, dtype=int), 4 * (count - 1)),
    "one with 95 %": lambda count: np.append(np.ones(count - 1, dtype=int), 19 * (count - 1)),
    "two with half": lambda count: np.append(np.full(count - 2, 2), [count - 2] * 2),
    "two with 80 %": lambda count: np.append(np.ones(count - 2, dtype=int), [2 * (count - 2)] * 2),
    "two of 20": lambda count: np.append(np.ones(count - 2, dtype=int), [20, 20]),
    "five with 80 %": lambda count: np.append(np.full(count - 5, 5), [4 * (count - 5)] * 5),
    "each a third smaller": lambda count: np.maximum(1, 100 * (2 / 3) ** np.arange(count)),
}


def covered_where_few_hold_most(law: str, shape: str, photographs: int, within: float) -> float:
    """`within`: standard deviation of a photograph's values, in units of that of photographs."""
    sizes = FEW_WITH_MOST[shape](photographs).astype(int)
    member = members(sizes)

    def make(rng: np.random.Generator) -> Interval:
        # An interval depends on its photographs' means alone: only they are drawn.
        means = DRAWS[law](rng, photographs)
        means = means + within * rng.normal(size=photographs) / np.sqrt(sizes)
        return mean_interval(means[member], member.tolist())

    return covered(0.0, make, 500)


@pytest.mark.parametrize("within", [0.1, 5.0])
@pytest.mark.parametrize("photographs", [6, 24, 60])
@pytest.mark.parametrize("shape", FEW_WITH_MOST)
def test_means_where_few_photographs_hold_most_items(
    shape: str, photographs: int, within: float
) -> None:
    """Nothing tells what a photograph's items share: the worst case covers, others more often."""
    assert covered_where_few_hold_most("normal", shape, photographs, within) >= 0.93


@pytest.mark.parametrize("law", ["exponential", "lognormal"])
@pytest.mark.parametrize("shape", FEW_WITH_MOST)
def test_skewed_means_where_few_photographs_hold_most_items(shape: str, law: str) -> None:
    assert covered_where_few_hold_most(law, shape, 24, 0.3) >= 0.82


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


def near_one(rng: np.random.Generator, count: int, centre: float, spread: float) -> np.ndarray:
    """(count,3) correlations: three a photograph, normal in Fisher's z."""
    own = spread * rng.normal(size=(count, 1))
    return np.tanh(centre + own + spread / 2 * rng.normal(size=(count, 3)))


@pytest.mark.parametrize(
    ("centre", "spread", "photographs", "least"),
    [
        *((1.83, 0.5, 4, 0.89), (1.83, 0.5, 7, 0.89), (1.83, 0.5, 24, 0.92)),
        *((2.6, 0.7, 4, 0.82), (2.6, 0.7, 7, 0.82), (2.6, 0.7, 24, 0.87)),
    ],
)
def test_mean_correlations_near_one(
    centre: float, spread: float, photographs: int, least: float
) -> None:
    """Below 95 %, as `caution` says; Fisher's z is no remedy with more photographs."""
    truth = float(near_one(np.random.default_rng(7), 200_000, centre, spread).mean())
    assert truth > NEAR_ONE
    member = np.repeat(np.arange(photographs), 3)

    def plain(rng: np.random.Generator) -> Interval:
        rho = near_one(rng, photographs, centre, spread)
        return mean_interval(rho.ravel(), member).clipped(-1, 1)

    def fisher(rng: np.random.Generator) -> Interval:
        z = mean_interval(np.arctanh(near_one(rng, photographs, centre, spread).mean(1)))
        return Interval(*np.tanh([z.value, z.low, z.high]).tolist(), z.photographs)

    found = covered(truth, plain, SAMPLES)
    assert least <= found < 0.95
    if photographs > 4:
        assert covered(truth, fisher, SAMPLES) < found
    said = caution([plain(np.random.default_rng(0)), 3, "text"])
    assert ("84 to 92 %" in said) is (photographs < FEW)


def test_no_caution_where_none_is_needed() -> None:
    assert caution([Interval(0.5, 0.4, 0.6, 4), Interval(0.95, 0.9, 1.0, 12), 0.99]) == ""
    assert caution([Interval(-0.95, -1.0, -0.9, 5)])


@pytest.mark.parametrize("strength", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("backgrounds", [5, 30])
@pytest.mark.parametrize("photographs", [5, 12, 24])
def test_mean_partial_correlations(photographs: int, backgrounds: int, strength: float) -> None:
    """As experiment gram's report averages them: one rho a foreground, two a photograph.

    Both follow a third, and one the other by a `strength` that differs from photograph to
    photograph. The truth is the mean over many photographs, at so many backgrounds each.
    """

    def correlations(rng: np.random.Generator, count: int) -> np.ndarray:
        own = strength * rng.exponential(size=(count, 1, 1)) * np.ones((count, 2, 1))
        given, x, y = rng.normal(size=(3, 2 * count, backgrounds))
        x += given
        return partial_spearman(x, y + given + own.reshape(-1, 1) * x, given)

    def make(rng: np.random.Generator) -> Interval:
        return mean_interval(correlations(rng, photographs), np.arange(2 * photographs) // 2)

    truth = float(correlations(np.random.default_rng(7), 20_000).mean())
    # Five photographs of much different strength, whose correlations pile up below 1, cover 90 %.
    assert covered(truth, make, 400) >= (0.93 if photographs > 5 else 0.89)


@pytest.mark.parametrize("photographs", [6, 12, 24])
@pytest.mark.parametrize("removed", [0.5, 0.9])
def test_the_share_of_a_loss_that_is_removed(photographs: int, removed: float) -> None:
    """C11's test: the mean of what is left of each loss, less half of the loss.

    Losses are lognormal, of three foregrounds a photograph; shares differ among both.
    """
    member = np.arange(3 * photographs) // 3

    def more(rng: np.random.Generator, count: int = photographs) -> np.ndarray:
        loss = np.repeat(rng.lognormal(0, 0.8, count), 3) * rng.lognormal(0, 0.3, 3 * count)
        shares = removed + 0.25 * np.repeat(rng.normal(size=count), 3)
        shares += 0.2 * rng.normal(size=3 * count)
        return 0.5 * loss - (1 - shares) * loss

    def make(rng: np.random.Generator) -> Interval:
        return mean_interval(more(rng), member)

    truth = float(more(np.random.default_rng(3), 100_000).mean())
    assert covered(truth, make, 500) >= (0.93 if removed == 0.5 else 0.88)
    if removed == 0.5:  # neither verdict is true
        rng = np.random.default_rng(5)
        verdicts = [make(rng).compare(0.0) for _ in range(500)]
        assert verdicts.count(Outcome.HOLDS) <= 20
        assert verdicts.count(Outcome.FAILS) <= 20


@pytest.mark.parametrize("photographs", [4, 7, 20, 24])
def test_paired_differences_of_diffusion_indices(photographs: int) -> None:
    """Of two networks on the same windows, one to five of a photograph; an index ends at 100."""

    def pairs(rng: np.random.Generator, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        member = members(sizes)
        both = rng.lognormal(2, 0.6, len(sizes))[member]
        own = rng.lognormal(0, 0.3, (2, len(sizes)))[:, member]
        one, other = both * own * rng.lognormal(0.05, 0.3, (2, member.size))
        return np.minimum(one, 100) - np.minimum(1.2 * other, 100), member

    truth = float(pairs(np.random.default_rng(7), np.ones(400_000, dtype=int))[0].mean())
    sizes = 1 + np.arange(photographs) % 5
    assert covered(truth, lambda rng: mean_interval(*pairs(rng, sizes)), 500) >= 0.92


@pytest.mark.parametrize("photographs", [4, 7, 20, 24])
@pytest.mark.parametrize("idle", [0.0, 0.5, 0.9])
def test_paired_differences_of_shares_of_which_some_are_zero(idle: float, photographs: int) -> None:
    """C10: attribution's share of the foreign pixels minus that of their causal effect."""

    def pairs(rng: np.random.Generator, count: int = photographs) -> np.ndarray:
        effect = np.where(rng.random(count) < idle, 0.0, rng.beta(0.6, 6, count))
        return rng.beta(1.2, 8, count) - effect

    truth = float(pairs(np.random.default_rng(7), 400_000).mean())
    assert covered(truth, lambda rng: mean_interval(pairs(rng)).clipped(-1, 1), 500) >= 0.92
