"""Kernel density picture of an attribution map, as in the LAM paper, without its O(n^2) cost."""

import numpy as np
from numpy.typing import NDArray

from fastbg.errors import InvalidArgument

Array = NDArray[np.float64]


def kde_density(weights: NDArray[np.floating]) -> Array:
    """Weighted Gaussian kernel density of the pixel positions, divided by its maximum: (h,w).

    Equals ``scipy.stats.gaussian_kde`` evaluated on the pixel grid (Scott's rule, covariance of the
    weighted positions). As data and evaluation points lie on the same grid, the sum over all pairs
    is a convolution, computed by FFT.

    Args:
        weights: (h,w), not negative; the pixels with weight must not all lie on a straight line.

    Raises:
        InvalidArgument: wrong shape, negative or no weights, or all on a straight line.
    """
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim != 2 or not np.isfinite(w).all() or (w < 0).any() or not w.sum() > 0:
        raise InvalidArgument("weights", f"shape {w.shape}", "an (h, w) map >= 0, not all zero")
    w = w / w.sum()
    height, width = w.shape
    y, x = np.mgrid[:height, :width].reshape(2, -1).astype(np.float64)
    flat = w.ravel()
    precision = np.linalg.inv(_kernel_covariance(x, y, flat))

    size = (
        2 * height,
        2 * width,
    )  # large enough that the circular convolution does not wrap around
    dy, dx = (np.fft.fftfreq(n, 1 / n) for n in size)
    dy = dy[:, None]
    distance = precision[0, 0] * dx**2 + 2 * precision[0, 1] * dx * dy + precision[1, 1] * dy**2
    spectrum = np.fft.rfft2(w, size) * np.fft.rfft2(np.exp(-0.5 * distance))
    density = np.fft.irfft2(spectrum, size)[:height, :width].clip(0)
    result: Array = density / density.max()
    return result


def _kernel_covariance(x: Array, y: Array, weights: Array) -> Array:
    """Covariance of the positions times Scott's factor squared, as scipy computes them."""
    spread = 1 - np.square(weights).sum()  # the unbiased covariance's denominator
    points = np.stack((x, y))
    centred = points - (points @ weights)[:, None]
    covariance: Array = (centred * weights) @ centred.T / max(spread, np.finfo(float).tiny)
    if not np.linalg.det(covariance) > 1e-12 * covariance.trace() ** 2:
        raise InvalidArgument("weights", "mass on one point or line", "a two-dimensional spread")
    effective = 1 / np.square(weights).sum()
    return covariance * effective ** (-2 / 6)
