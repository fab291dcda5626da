"""Means over fewer replacements, by regression on what is known about all replacements.

A block's effect is a mean over the pool of replacements. How far a replacement's brightness and
pixels are from the block's, and the slopes of its brightness, explain part of the spread of the
losses, and the means of these numbers over the pool are known without the network. The regression
estimator of survey statistics (Cochran, Sampling Techniques, 1977, chapter 7) is the loss that a
linear function fitted to the draws has there. Its standard error is that of the residuals, so
fewer draws are needed.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Values = NDArray[np.float64]

LUMA = (0.299, 0.587, 0.114)  # BT.601
# accuracy="published": draws come in rounds of 6, after a first one of 12, until the standard error
# is at most 0.0025 dB or a tenth of the effect (bench/bench_effect_draws.py).
ROUND, ENOUGH, ENOUGH_OF_EFFECT = 6, 0.0025, 0.1
LEAST = 12  # draws; with fewer a fitted function is too uncertain, and the plain mean is taken
FEATURES = 4  # numbers that describe a replacement
POPULATION = 4096  # replacements at most that stand for the pool


class Mean(NamedTuple):
    """A mean and its standard error."""

    value: float
    error: float


def rounds(count: int) -> list[int]:
    """Numbers of draws, at most `count`, after which a block may have enough."""
    return [*range(LEAST, count, ROUND), count]


def is_enough(mean: Mean, baseline: float) -> bool:
    """Whether a block's mean PSNR is as accurate as accuracy="published" asks."""
    return mean.error <= max(ENOUGH, ENOUGH_OF_EFFECT * abs(baseline - mean.value))


def plain_mean(values: Values) -> Mean:
    """Of (n): the error is NaN for a single value."""
    n = len(values)
    error = values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return Mean(float(values.mean()), float(error))


class Regression:
    """Estimates the means of blocks of one image.

    Attributes:
        image: (h,w,3) in [0,1].
        population: (M,b,b,3) uint8, replacements from the pool that all blocks' are drawn from.
    """

    def __init__(self, image: Values, coarse: NDArray[np.uint8]) -> None:
        """`coarse` (rows,columns,C,b,b,3): the coarse replacements of all blocks."""
        self.image = image
        drawn = coarse.reshape(-1, *coarse.shape[3:])
        self.population = drawn[:: -(-len(drawn) // POPULATION)]
        self._side = coarse.shape[-2]
        self._expected: dict[tuple[int, int], tuple[Values, Values]] = {}

    @classmethod
    def of(cls, image: Tensor, coarse: NDArray[np.uint8]) -> "Regression":
        """For an image (3,h,w) in [0,1]."""
        return cls(image.detach().double().cpu().permute(1, 2, 0).numpy(), coarse)

    def mean(self, place: tuple[int, int], replacements: NDArray[np.uint8], values: Values) -> Mean:
        """The mean of a block's `values` (n) under its `replacements` (n,b,b,3).

        The plain mean for fewer than `LEAST` values, and where the replacements do not differ.
        """
        n = len(values)
        if n < LEAST:
            return plain_mean(values)
        expected, uncertain = self._expected_of(place)
        terms = np.column_stack([np.ones(n), self._features(place, replacements) - expected])
        slopes, _, rank, _ = np.linalg.lstsq(terms, values, rcond=1e-9)
        residuals = values - terms @ slopes
        variance = residuals @ residuals / (n - rank)
        spread = np.linalg.pinv(terms.T @ terms, rcond=1e-12)[0, 0]
        error = np.sqrt(variance * spread + slopes[1:] @ uncertain @ slopes[1:])
        return Mean(float(slopes[0]), float(error))

    def _expected_of(self, place: tuple[int, int]) -> tuple[Values, Values]:
        """Mean features over the population, and the covariance of that mean."""
        if place not in self._expected:
            features = self._features(place, self.population)
            covariance = np.zeros((FEATURES, FEATURES))
            if len(features) > 1:
                covariance = np.cov(features.T)
            self._expected[place] = features.mean(0), covariance / len(features)
        return self._expected[place]

    def _features(self, place: tuple[int, int], replacements: NDArray[np.uint8]) -> Values:
        """(n,FEATURES): change of mean luma, RMS change of the pixels, slopes of the new luma."""
        y, x = (self._side * index for index in place)
        block = self.image[y : y + self._side, x : x + self._side]
        rows, columns, _ = block.shape
        drawn = replacements[:, :rows, :columns] / 255
        change, luma = drawn - block, drawn @ np.array(LUMA)
        down, across = (np.arange(size) - (size - 1) / 2 for size in (rows, columns))
        distance = np.sqrt(np.square(change).mean((1, 2, 3)))
        slopes = luma.mean(2) @ down, luma.mean(1) @ across
        return np.column_stack([change.mean((1, 2)) @ np.array(LUMA), distance, *slopes])
