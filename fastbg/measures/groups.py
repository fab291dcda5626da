"""Means over groups of pixels, with the same bits in every run on every device."""

import torch
from torch import Tensor


def means_by(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Mean of `values` (B,H,W) over the pixels of each group 0 .. groups-1 in `group` (H,W).

    (B,groups) float64; 0 for a group without pixels. Pixels with another group number are ignored.
    Groups are summed one by one, as `index_add_` on GPUs adds in an arbitrary order.
    """
    flat, index = values.double().flatten(1), group.flatten()
    means = []
    for number in range(groups):
        belongs = index == number
        total = torch.where(belongs, flat, 0.0).sum(1)
        means.append(total / belongs.sum().clamp(min=1))
    return torch.stack(means, 1)
