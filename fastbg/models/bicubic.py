"""Bicubic enlargement, the baseline of the tables."""

import numpy as np
import torch
from torch import Tensor

from fastbg.filters.bicubic import cubic
from fastbg.filters.constants import on_device
from fastbg.models.network import Network
from fastbg.models.window import Stage
from fastbg.precision import in_network_precision


class Bicubic(Network):
    """MATLAB's ``imresize`` by an integer factor: Keys' cubic with a = -0.5, mirrored borders."""

    architecture = "bicubic"

    def __init__(self, scale: int = 4) -> None:
        super().__init__(scale, 1.0, (0.0, 0.0, 0.0))

    def stages(self) -> list[Stage]:
        """Four taps an axis."""
        return [Stage(2, self.scale)]

    @in_network_precision
    def forward(self, x: Tensor) -> Tensor:
        """`x` (B,3,h,w) enlarged to (B,3,s*h,s*w), not clamped."""
        rows, columns = (on_device(self.matrix(n), x.device, x.dtype) for n in x.shape[-2:])
        return torch.einsum("ih,bchw,jw->bcij", rows, x, columns)

    def matrix(self, size: int) -> Tensor:
        """Weights (s * size, size) along an axis of `size` pixels, float64."""
        place = (np.arange(size * self.scale) + 0.5) / self.scale - 0.5
        index = np.floor(place).astype(np.int64)[:, None] + np.arange(-1, 3)
        weight = cubic(place[:, None] - index)
        mirrored = index % (2 * size)  # the border pixel twice
        mirrored = np.where(mirrored < size, mirrored, 2 * size - 1 - mirrored)
        matrix = np.zeros((len(place), size))
        np.add.at(matrix, (np.arange(len(place))[:, None], mirrored), weight)
        return torch.from_numpy(matrix)
