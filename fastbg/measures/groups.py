"""Means over groups of pixels, with the same bits in every run on every device."""

import torch
from torch import Tensor


def means_by(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Mean of `values` (B,H,W) over the pixels of each group 0 .. groups-1 in `group` (H,W).

    (B,groups) float64; 0 for a group without pixels. Pixels of other groups count nowhere. A group
    after the other, as `index_add_` on GPUs adds in whatever order its threads come.
    """
    flat, index = values.double().flatten(1), group.flatten()
    means = []
    for number in range(groups):
        belongs = index == number
        total = torch.where(belongs, flat, 0.0).sum(1)
        means.append(total / belongs.sum().clamp(min=1))
    return torch.stack(means, 1)
