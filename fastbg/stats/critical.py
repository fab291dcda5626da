"""Critical values of t intervals for the mean of few clusters of unequal size."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

Floats = NDArray[np.float64]

# Nodes and weights on (0, pi/2) for the angle in `_missed`.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)
_SQUARED_SINES = np.sin(np.pi / 4 * (_NODES + 1)) ** 2


def critical_value(count: Floats, level: float) -> float:
    """Standard errors from a mean to the ends of its interval, for clusters of `count` (C) values.

    The standard error is CR2's, see `fastbg.stats.intervals`. The ratio of a mean's error to it has
    Student's distribution with C - 1 degrees of freedom where all clusters are of one size. Where
    they are not, its distribution for normal data is worked out as Hansen (2021) does for White's
    standard errors. It depends on how alike the values of a cluster are, which is not known, so the
    quantile is computed for five cases, and the largest is returned: independent values, equal
    values, and three correlations between.

    B. E. Hansen, "The Exact Distribution of the White t-Ratio", 2021.
    """
    sizes, many = np.unique(count, return_counts=True)
    return _critical_value(tuple(sizes.tolist()), tuple(many.tolist()), level)


@lru_cache(maxsize=1024)
def _critical_value(sizes: tuple[float, ...], many: tuple[int, ...], level: float) -> float:
    """`critical_value` of `many[i]` clusters of `sizes[i]` values."""
    size, number = np.array(sizes), np.array(many, dtype=np.float64)
    between = np.geomspace(size[0], size[-1], 3)
    # Variance of a cluster's mean: that of its values over their number, and what they share.
    spreads = [1 / size, *(1 / size + 1 / values for values in between), np.ones_like(size)]

    def excess(logarithm: float) -> float:
        reach = float(np.exp(logarithm))
        return max(_missed(size, number, spread, reach) for spread in spreads) - (1 - level)

    below, above = -1.0, 1.0
    while excess(below) < 0:
        below -= 1
    while excess(above) > 0:
        above += 1
    return float(np.exp(brentq(excess, below, above, xtol=1e-9)))


def _missed(size: Floats, number: Floats, spread: Floats, reach: float) -> float:
    """Chance that a mean's error is above `reach` standard errors.

    `spread` (K) is the variance of the mean of a cluster of `size` (K) values, of which there are
    `number` (K). The squared error less the squared reach is a quadratic form z' A z of independent
    standard normal z, so the chance is P(z' A z > 0). A has one positive eigenvalue p; with -n for
    each of the others it is P(p z0^2 > sum of n z^2), the mean of erfc(sqrt(sum of n z^2 / 2 p)).
    Craig's (1991) formula turns that mean into an integral over an angle.
    """
    weight = size / (number * size).sum()
    scale = 1 / (1 - weight)  # of CR2
    # Coordinates: the mean of all clusters of one size; and what lies across it, which only adds
    # `number` - 1 times to the variance.
    mean = np.sqrt(number * spread) * weight
    parts = weight[:, None] * (np.diag(np.sqrt(spread / number)) - mean)
    variance = parts.T @ ((number * scale)[:, None] * parts)
    eigenvalues = np.linalg.eigvalsh(np.outer(mean, mean) - reach**2 * variance)
    across = reach**2 * scale * weight**2 * spread
    negative = np.concatenate([np.maximum(-eigenvalues[:-1], 0), across]) / eigenvalues[-1]
    times = np.concatenate([np.ones(len(size) - 1), number - 1])
    logarithms = times @ np.log1p(negative[:, None] / _SQUARED_SINES)
    return float((_WEIGHTS * np.exp(-logarithms / 2)).sum() / 2)
