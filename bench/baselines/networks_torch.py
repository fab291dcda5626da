"""The same networks, every layer PyTorch's own: what the baselines run."""

import copy

from torch import Tensor

from fastbg.backends.torch_reference.conv import conv3x3
from fastbg.models.conv import Conv3x3
from fastbg.models.network import Network


class TorchConv3x3(Conv3x3):
    """`Conv3x3` as torch.nn has it."""

    def forward(
        self,
        x: Tensor,
        *,
        relu: bool = False,
        residual: Tensor | None = None,
        residual_scale: float = 1.0,
        upscale: int = 1,
    ) -> Tensor:
        """conv2d, then relu, pixel_shuffle, sum."""
        return conv3x3(x, self.weight, self.bias, residual, residual_scale, relu, upscale)


def in_torch(net: Network) -> Network:
    """A copy of `net` without fastbg's kernels."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, Conv3x3):
            module.__class__ = TorchConv3x3
    return net
