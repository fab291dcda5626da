"""Estimators: what the gradients along a path make of the objective's rise.

Both are complete: each node's shares of the pixels add up to the rise over its cell, the first to
the error of the quadrature, the second to rounding wherever the gradient is not 0.
"""

import torch
from torch import Tensor

from fastbg.attribution.quadrature import Cells
from fastbg.errors import InvalidArgument

PATH, IDGI = "path", "idgi"
ESTIMATORS = (PATH, IDGI)


def check_estimator(estimator: str) -> str:
    """`estimator`, or InvalidArgument."""
    if estimator not in ESTIMATORS:
        raise InvalidArgument("estimator", repr(estimator), f"one of {ESTIMATORS}")
    return estimator


def check_covers(cells: Cells, method: str) -> None:
    """InvalidArgument for a rule whose cells do not cover the path: IDGI needs its rises."""
    if cells.pointwise:
        expected = "a rule whose cells cover the path, for the estimator 'idgi'"
        raise InvalidArgument("method", repr(method), expected)


def idgi(gradients: Tensor, rises: Tensor) -> Tensor:
    """Important direction gradient integration (IDGI; Yang, Wang and Bilgic, CVPR 2023, Alg. 1).

    Of each step only the part along the gradient changes the objective; the rest is noise of the
    explanation. So the rise d of the objective over a cell is shared out by the squared gradient g
    at its node: ``A[i] = sum over nodes of d * g[i]^2 / sum over j of g[j]^2``. A node without a
    gradient has no shares.

    Args:
        gradients: (K,C,h,w) at the nodes.
        rises: (K) of the objective over the cells, float64.

    Returns:
        (C,h,w) float64.
    """
    squares = gradients.double().square()  # those of small float32 gradients would be 0
    lengths = squares.sum((1, 2, 3))
    weights = torch.where(lengths > 0, rises.to(lengths) / lengths.clamp(min=1e-300), 0)
    return torch.einsum("kchw,k->chw", squares, weights)
