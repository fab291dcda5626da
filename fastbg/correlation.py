"""Rank correlations within groups and across them, with intervals that draw whole photographs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from fastbg.statistics import Interval, draw_clusters, percentile_interval

Rows = NDArray[np.float64]  # (n,K): K values of each of n groups


def spearman(x: Rows, y: Rows) -> NDArray[np.float64]:
    """Spearman's rho of each row (n); 0 where all values of a row are equal."""
    a, b = (_centred(rankdata(values, axis=1)) for values in (x, y))
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), scale, out=np.zeros(len(a)), where=scale > 0)


def kendall(x: Rows, y: Rows) -> NDArray[np.float64]:
    """Kendall's tau-a of each row (n): equal values count as neither agreement nor its opposite."""
    pairs = x.shape[1] * (x.shape[1] - 1)
    found = [_agreement(a, b, a, b).sum() for a, b in zip(x, y, strict=True)]
    return np.array(found) / max(pairs, 1)


def pooled_spearman(x: Rows, y: Rows, clusters: Sequence[object], seed: int = 0) -> Interval:
    """Spearman's rho of all n*K values, its interval over whole clusters.

    The ranks are those of the full sample in every resample.
    """
    a, b = (rankdata(values).reshape(values.shape) for values in (x, y))
    member, drawn = draw_clusters(clusters, seed=seed)
    moments = np.stack([np.ones_like(a), a, b, a * a, b * b, a * b]).sum(axis=2)  # [6,n]
    each = np.stack([np.bincount(member, weights=moment) for moment in moments], axis=1)  # [C,6]

    def rho(total: Rows) -> Rows:
        n, sa, sb, saa, sbb, sab = total.T
        scale = np.sqrt((n * saa - sa * sa).clip(0) * (n * sbb - sb * sb).clip(0))
        return np.divide(n * sab - sa * sb, scale, out=np.zeros(len(n)), where=scale > 0)

    whole = float(rho(each.sum(axis=0, keepdims=True))[0])
    return percentile_interval(whole, rho(drawn.astype(np.float64) @ each), drawn)


def pooled_kendall(x: Rows, y: Rows, clusters: Sequence[object], seed: int = 0) -> Interval:
    """Kendall's tau-a of all n*K values, its interval over whole clusters."""
    member, drawn = draw_clusters(clusters, seed=seed)
    groups = drawn.shape[1]
    agreement, pairs = np.zeros((groups, groups)), np.zeros((groups, groups))
    for g in range(groups):
        own = member == g
        table = _agreement(x[own].ravel(), y[own].ravel(), x.ravel(), y.ravel())
        agreement[g] = np.bincount(member.repeat(x.shape[1]), table.sum(axis=0), groups)
        pairs[g] = own.sum() * x.shape[1] * np.bincount(member, minlength=groups) * x.shape[1]
        pairs[g, g] -= own.sum() * x.shape[1]  # a value with itself
    tau = _form(drawn, agreement) / np.maximum(_form(drawn, pairs), 1)
    return percentile_interval(agreement.sum() / max(pairs.sum(), 1), tau, drawn)


def _centred(values: Rows) -> Rows:
    return values - values.mean(axis=1, keepdims=True)


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


def _form(weights: NDArray[np.int64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """w M w of each row w."""
    return ((weights @ matrix) * weights).sum(axis=1)
