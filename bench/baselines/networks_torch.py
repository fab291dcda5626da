"""The same networks, every layer PyTorch's own: what the baselines run."""

import copy

from fastbg.models.conv import Conv3x3
from fastbg.models.network import Network
from fastbg.models.swinir import Block


def in_torch(net: Network) -> Network:
    """A copy of `net` without fastbg's kernels."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, Conv3x3 | Block):
            module.fused = False
    return net
