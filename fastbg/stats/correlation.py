"""Rank correlations within groups and across them; photographs are the clusters."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from fastbg.errors import InvalidArgument
from fastbg.stats.intervals import Interval, mean_interval, share_limit

Rows = NDArray[np.float64]  # (n,K): K values of each of n groups

CERTAIN = 1 - 1e-6
"""Larger correlations are replaced by it, as Fisher's transform of 1 is infinite."""

NO_SPREAD = 1e-9
"""Below this width all clusters have the same influence, and the interval is not valid."""

# With a share u of disagreeing pairs, tau is 1 - 2 u, and rho at least 1 - 3 u (Daniels 1950).
TAU_SLOPE, RHO_SLOPE = 2, 3

NEAR_ONE, FEW = 0.9, 12
"""Mean correlations beyond the first, of fewer photographs than the second, get `caution`."""


def caution(cells: Iterable[object]) -> str:
    """A sentence for the reader if one of the mean rank correlations among `cells` needs it.

    Near 1 they pile up below their limit, and few photographs do not show how far the rest of them
    is. Fisher's transform of each photograph's mean is no remedy: its mean is that of another
    quantity, so that coverage falls as photographs are added (tests/test_coverage.py).
    """
    means = [cell for cell in cells if isinstance(cell, Interval)]
    if not any(abs(mean.value) > NEAR_ONE and mean.photographs < FEW for mean in means):
        return ""
    return (
        " Mean rank correlations beyond 0.9 of fewer than 12 photographs: their intervals are too "
        "narrow. Of simulated ones of 4 and 7 photographs 84 to 92 % hold the true mean, and half "
        "or fewer where one photograph in ten is far below the others."
    )


def spearman(x: Rows, y: Rows) -> NDArray[np.float64]:
    """Spearman's rho of each row (n); 0 where all values of a row are equal."""
    return centred_correlation(*(_centred(rankdata(values, axis=1)) for values in (x, y)))


def centred_correlation(a: Rows, b: Rows) -> NDArray[np.float64]:
    """Correlation of each pair of rows (n), which have mean 0; 0 where one is constant.

    NaN where a row holds NaN.
    """
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), scale, out=np.zeros(len(a)), where=scale != 0)


def partial_spearman(x: Rows, y: Rows, given: Rows) -> NDArray[np.float64]:
    """Spearman's rho of x and y in each row (n), with `given` held fixed.

    The correlation of the residuals of both ranks after linear regression on the ranks of `given`;
    0 where the residuals of one are all 0.
    """
    xy, xz, yz = spearman(x, y), spearman(x, given), spearman(y, given)
    left = (1 - xz**2) * (1 - yz**2)
    known = left > NO_SPREAD
    rho = np.divide(xy - xz * yz, np.sqrt(np.where(known, left, 1)), where=known, out=0 * xy)
    return np.clip(rho, -1, 1)


def kendall(x: Rows, y: Rows) -> NDArray[np.float64]:
    """Kendall's tau-a of each row (n): ties count as neither agreement nor disagreement.

    NaN where a row holds NaN, which has no order.
    """
    pairs = x.shape[1] * (x.shape[1] - 1)
    found = [_agreement(a, b, a, b).sum() for a, b in zip(x, y, strict=True)]
    unknown = (np.isnan(x) | np.isnan(y)).any(axis=1)
    return np.where(unknown, np.nan, np.array(found) / max(pairs, 1))


def pooled_spearman(x: Rows, y: Rows, clusters: Sequence[object]) -> Interval:
    """Spearman's rho of all n*K values; `clusters` (n) names the photograph of each row.

    The interval is that of the mean influence of each value on rho: the contribution of its own
    ranks and its effect on the ranks of the others. Raises InvalidArgument for NaN, which has no
    rank, and for `x` and `y` of different shapes.
    """
    _check_ranked(x, y)
    a, b = (_centred_ranks(values) for values in (x, y))
    scale = np.sqrt((a * a).mean() * (b * b).mean())
    if scale == 0:  # all values equal on one side: no order to agree with
        return _correlation(0.0, np.zeros(x.shape), clusters, RHO_SLOPE)
    rho = float((a * b).mean() / scale)
    influence = (a * b + _above(x, b) + _above(y, a)) / scale
    return _correlation(rho, influence.reshape(x.shape) - influence.mean(), clusters, RHO_SLOPE)


def pooled_kendall(x: Rows, y: Rows, clusters: Sequence[object]) -> Interval:
    """Kendall's tau-a of all n*K values; arguments and interval as for `pooled_spearman`."""
    _check_ranked(x, y)
    flat_x, flat_y = x.ravel(), y.ravel()
    agreement = np.stack(
        [
            _agreement(a, b, flat_x, flat_y).sum(axis=1, dtype=np.float64)
            for a, b in zip(x, y, strict=True)
        ]
    )  # [n,K]: for each value, number of others in the same order minus those in the opposite
    each = agreement / max(flat_x.size - 1, 1)
    tau = float(each.mean())
    return _correlation(tau, 2 * (each - tau), clusters, TAU_SLOPE)


def _check_ranked(x: Rows, y: Rows) -> None:
    if x.shape != y.shape or not x.size:
        raise InvalidArgument("y", f"shape {y.shape}", f"that of x, {x.shape}, and not empty")
    for name, values in (("x", x), ("y", y)):
        if np.isnan(values).any():
            raise InvalidArgument(name, "nan", "numbers, which have an order")


def _correlation(value: float, influence: Rows, clusters: Sequence[object], slope: int) -> Interval:
    """`value` with the interval of its clusters' `influence` (n,K), on Fisher's scale.

    If the influence has no spread, as in perfect agreement, the interval follows from the number of
    photographs, see `_unopposed`.
    """
    held = min(max(value, -CERTAIN), CERTAIN)
    steep = 1 - held**2
    labels = [label for label in clusters for _ in range(influence.shape[1])]
    interval = mean_interval((np.arctanh(held) + influence / steep).ravel(), labels)
    photographs = interval.photographs
    if not interval.known:
        return Interval(value, -1.0, 1.0, photographs)
    if (interval.high - interval.low) * steep < NO_SPREAD:
        return _unopposed(value, photographs, slope)
    low, high = np.tanh(interval.low), np.tanh(interval.high)
    return Interval(value, min(float(low), value), max(float(high), value), photographs)


def _unopposed(value: float, photographs: int, slope: int) -> Interval:
    """Interval of a correlation of 1 or -1; for others without spread, the whole possible range.

    Disjoint pairs of photographs are independent trials, and none of them disagrees.
    """
    limit = max(-1.0, 1 - slope * share_limit(max(photographs // 2, 1), 0.975))
    if value >= CERTAIN:
        return Interval(value, limit, 1.0, photographs)
    if value <= -CERTAIN:
        return Interval(value, -1.0, -limit, photographs)
    return Interval(value, -1.0, 1.0, photographs)


def _centred(values: Rows) -> Rows:
    return values - values.mean(axis=1, keepdims=True)


def _centred_ranks(values: Rows) -> NDArray[np.float64]:
    """Ranks of all values, flat, as shares of their number and about 0."""
    ranks = rankdata(values)
    centred: NDArray[np.float64] = (ranks - ranks.mean()) / ranks.size
    return centred


def _above(values: Rows, other: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each value, the mean over all of `other` where `values` is not below it, equals half."""
    flat = values.ravel()
    order = np.argsort(flat, kind="stable")
    running = np.concatenate([[0.0], np.cumsum(other[order])])
    total, ordered = running[-1], flat[order]
    first = running[np.searchsorted(ordered, flat, "left")]
    last = running[np.searchsorted(ordered, flat, "right")]
    return (total - (first + last) / 2) / flat.size


def _agreement(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    others_x: NDArray[np.float64],
    others_y: NDArray[np.float64],
) -> NDArray[np.int8]:
    """+1 where two values (m) and (p) are ordered alike in x and y, -1 where not, else 0: (m,p)."""
    above = (x[:, None] > others_x).view(np.int8) - (x[:, None] < others_x).view(np.int8)
    over = (y[:, None] > others_y).view(np.int8) - (y[:, None] < others_y).view(np.int8)
    return above * over
