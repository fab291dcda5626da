"""The weights of a bridged seam (`composite`, `seam=tau`) by distance from the rim."""

import torch
from torch import Tensor

# Smaller weights are taken as 0: 1/1028 grey level for a step from black to white.
LEAST_WEIGHT = 2.0**-18


def decay(distance: Tensor, tau: float) -> Tensor:
    """exp(-(distance - 1) / tau) in float64; 0 where it is below LEAST_WEIGHT or distance < 1."""
    weight = torch.exp((1 - distance.double()) / tau)
    return torch.where((distance >= 1) & (weight >= LEAST_WEIGHT), weight, 0.0)


def decay_table(tau: float, size: int) -> Tensor:
    """Weights (size) float32 of the distances 1, 2, .. size, for kernels."""
    return decay(torch.arange(1, size + 1, device="cpu"), tau).float()
