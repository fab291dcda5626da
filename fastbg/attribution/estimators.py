"""Estimators: how attributions are computed from the gradients at the nodes of a path.

Both are complete: the attributions of all pixels over a cell add up to the objective's rise over
that cell. For "path" this holds up to the quadrature error; for "idgi" up to rounding, if the
gradient is not 0.
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
    """InvalidArgument for a rule without cells that cover the path: IDGI needs the rise of each."""
    if cells.pointwise:
        expected = "a rule whose cells cover the path, for the estimator 'idgi'"
        raise InvalidArgument("method", repr(method), expected)


def idgi(gradients: Tensor, rises: Tensor) -> Tensor:
    """Important direction gradient integration (IDGI; Yang, Wang and Bilgic, CVPR 2023, Alg. 1).

    Only the component of a step along the gradient changes the objective; the rest adds noise to
    the explanation. So the rise d of the objective over a cell is divided among the pixels in
    proportion to the squared gradient g at the cell's node:
    ``A[i] = sum over nodes of d * g[i]^2 / sum over j of g[j]^2``. A node whose gradient is 0
    everywhere contributes nothing.

    Args:
        gradients: (K,C,h,w) at the nodes.
        rises: (K) of the objective over the cells, float64.

    Returns:
        (C,h,w) float64.
    """
    squares = gradients.double().square()  # in float32 small ones would become 0
    lengths = squares.sum((1, 2, 3))
    weights = torch.where(lengths > 0, rises.to(lengths) / lengths.clamp(min=1e-300), 0)
    return torch.einsum("kchw,k->chw", squares, weights)
