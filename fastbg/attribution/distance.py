"""Distance of LR pixels from a window, which any map depends on.

Near pixels matter more in every network, even a random one. Controls and comparisons *at equal
distance* exclude this effect: they use rings around the window, one LR pixel wide.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from fastbg.geometry import Box

Floats = NDArray[np.float64]


def window_distance(box: Box, scale: int, height: int, width: int) -> Floats:
    """Distance (h,w), in LR pixels, of each LR pixel's middle to the middle of the window `box`."""
    y, x = np.mgrid[:height, :width] + 0.5
    middle = [(a + b) / 2 / scale for a, b in ((box.y0, box.y1), (box.x0, box.x1))]
    distance: Floats = np.hypot(y - middle[0], x - middle[1])
    return distance


def rings(distance: Floats) -> NDArray[np.int64]:
    """Number of the ring that each pixel lies in; shaped as `distance`."""
    return distance.astype(np.int64)


def shuffled_in_rings(values: Floats, ring: NDArray[np.int64], mixer: Floats) -> Floats:
    """`values` (n) exchanged among the pixels of each ring, in the order of `mixer` (n)."""
    mixed = np.empty_like(values)
    mixed[np.lexsort((mixer, ring))] = values[np.argsort(ring, kind="stable")]
    return mixed


def ranks_in_rings(values: Floats, ring: NDArray[np.int64]) -> Floats:
    """Rank (n) of each pixel in its ring, from -1/2 to 1/2 around its mean."""
    ranks = np.zeros(values.shape)
    for number in np.unique(ring):
        inside = ring == number
        found = rankdata(values[inside])
        ranks[inside] = (found - found.mean()) / len(found)
    return ranks
