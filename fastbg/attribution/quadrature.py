"""Quadrature rules along a path: where gradients are taken, and by which steps they are multiplied.

A path runs over positions t from 0 (the baseline) to 1 (the image). Each rule is a list of cells:
the gradient at `node` is multiplied by ``weight * (x(end) - x(start))``, and the products are
added.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastbg.errors import InvalidArgument
from fastbg.models.arguments import check_whole

Array = NDArray[np.float64]

# Half-width in t of the cells that approximate a derivative. Kernel differences are computed in
# float64: neither cancellation nor curvature within a cell is visible in float32.
DERIVATIVE_CELL = 1e-5


@dataclass(frozen=True)
class Cells:
    """K cells of a quadrature rule; arrays (K) of positions in [0,1].

    Attributes:
        node: where the gradient is taken.
        start, end: ends of the step by which the gradient is multiplied.
        weight: factor of the step.
        pointwise: the cells are tiny and approximate the path's derivative at their node; otherwise
            they cover the path.
    """

    node: Array
    start: Array
    end: Array
    weight: Array
    pointwise: bool = False

    def __len__(self) -> int:
        return len(self.node)

    def __getitem__(self, index: slice | NDArray[np.bool_]) -> "Cells":
        node, start, end, weight = (
            array[index] for array in (self.node, self.start, self.end, self.weight)
        )
        return Cells(node, start, end, weight, self.pointwise)


def riemann_right(n: int, at_length: Callable[[Array], Array]) -> Cells:
    """n equal cells with the gradient at the end of each, as in the published LAM code."""
    t = np.linspace(0, 1, n + 1)
    return Cells(t[1:], t[:-1], t[1:], np.ones(n))


def riemann_left(n: int, at_length: Callable[[Array], Array]) -> Cells:
    """n equal cells with the gradient at the start of each (Captum's rule of this name)."""
    t = np.linspace(0, 1, n + 1)
    return Cells(t[:-1], t[:-1], t[1:], np.ones(n))


def riemann_trapezoid(n: int, at_length: Callable[[Array], Array]) -> Cells:
    """n equidistant nodes from the baseline to the image (Captum's rule of this name)."""
    if n < 2:
        raise InvalidArgument("n_steps", n, "at least 2 for riemann_trapezoid")
    t = np.linspace(0, 1, n)
    start = np.concatenate((t[:1], t[:-1]))
    return Cells(t, start, np.concatenate((t[1:], t[-1:])), np.full(n, 0.5))


def gausslegendre(n: int, at_length: Callable[[Array], Array]) -> Cells:
    """n Gauss-Legendre nodes; the gradient is multiplied by the path's derivative there."""
    x, w = np.polynomial.legendre.leggauss(n)
    t = (x + 1) / 2
    half = np.minimum(DERIVATIVE_CELL, np.minimum(t, 1 - t) / 2)
    return Cells(t, t - half, t + half, w / 2 / (2 * half), pointwise=True)


def arc_midpoint(n: int, at_length: Callable[[Array], Array]) -> Cells:
    """n cells of equal arc length, with the gradient in the middle of each.

    On LAM's blur path no node is spent where the kernel hardly changes (sigma below 0.2).
    """
    borders = at_length(np.linspace(0, 1, n + 1))
    return Cells(at_length((np.arange(n) + 0.5) / n), borders[:-1], borders[1:], np.ones(n))


METHODS: dict[str, Callable[[int, Callable[[Array], Array]], Cells]] = {
    "riemann_right": riemann_right,
    "riemann_left": riemann_left,
    "riemann_trapezoid": riemann_trapezoid,
    "gausslegendre": gausslegendre,
    "arc_midpoint": arc_midpoint,
}


def quadrature(method: str, n_steps: int, at_length: Callable[[Array], Array]) -> Cells:
    """The cells of `method`; `at_length` gives the position at a fraction of the arc length."""
    if method not in METHODS:
        raise InvalidArgument("method", repr(method), f"one of {tuple(METHODS)}")
    return METHODS[method](check_whole("n_steps", n_steps), at_length)
