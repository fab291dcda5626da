"""RCAN with its channel weights fixed at those of one image: the direct paths to a window.

RCAN weights channels by their means over the whole map, so that every input pixel influences every
output pixel. With the weights of one image fixed, it is a plain CNN: a change acts through the
convolutions alone, and only within their reach.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from fastbg.errors import InvalidArgument
from fastbg.geometry import Box
from fastbg.models.changeable import ChangeableWindow, keep_window
from fastbg.models.conv_stack import (
    Link,
    cut_window,
    is_ordinary,
    is_plain_1x1,
    link_layers,
)
from fastbg.models.network import Network, is_watched
from fastbg.models.rcan import RCAN, ChannelBlock, Group
from fastbg.models.window import Stage, check_window
from fastbg.ops.conv_stack import conv_stack
from fastbg.precision import autocast_dtype, in_network_precision, in_precision


class DirectRCAN(Network):
    """`net` with the channel weights that it has for `image`, used for all inputs."""

    architecture = "rcan-direct"

    @in_precision
    @torch.no_grad()
    def __init__(self, net: RCAN, image: Tensor) -> None:
        """`image` (1,3,h,w) in [0,1].

        InvalidArgument for RCAN with local means (`pooling`), with hooks, or with replaced modules,
        whose effect would be missing.
        """
        super().__init__(net.scale, net.img_range, net.config["mean"])
        self.name, self.mean, self.native = f"{net.name} (direct)", net.mean, net.native
        if net.is_local(*image.shape[-2:]):
            got = f"RCAN with means over {net.config['pooling']} pixels"
            raise InvalidArgument("model", got, "one with means over the whole map: pooling 0")
        if is_altered(net):
            expected = "RCAN as fastbg makes it, without hooks, for direct paths"
            raise InvalidArgument("model", f"{net.name} with hooks or other modules", expected)
        dtype = autocast_dtype(image.dtype)  # by fastbg.use_precision, not by an outer autocast
        with torch.autocast(image.device.type, dtype, enabled=dtype is not None):
            weights = [*channel_weights(net, image)]
        self._links = all_links(net, iter(weights))
        self._convs = nn.ModuleList(link.conv for link in self._links)  # to be moved and found

    def stages(self) -> list[Stage]:
        """All layers are convolutions of radius 1."""
        return [Stage(1, link.upscale) for link in self._links]

    def forward(self, x: Tensor) -> Tensor:
        """SR image (B,3,s*h,s*w) of `x` (B,3,h,w)."""
        height, width = (self.scale * side for side in x.shape[-2:])
        return self.forward_window(x, (0, 0, height, width))

    @in_network_precision
    def forward_window(self, x: Tensor, window: Sequence[int]) -> Tensor:
        """`forward(x)` cut to `window`; only what the window needs is computed."""
        height, width = x.shape[-2:]
        box = check_window(window, height * self.scale, width * self.scale)
        layers = link_layers(self._links, box, height, width, False)
        y = conv_stack(self.normalise(x), layers)
        return self.denormalise(cut_window(y, layers, box))

    @in_precision
    def keep_window(self, x: Tensor, window: Sequence[int]) -> ChangeableWindow | None:
        """See `Network.keep_window`."""
        if not self.native:
            return None
        box = check_window(window, *(self.scale * side for side in x.shape[-2:]))
        return keep_window(self, x, self._links, Box(*box), False)


def is_altered(net: RCAN) -> bool:
    """Whether a module was replaced or has hooks."""
    links = net.links() if net.has_its_parts() else []
    ones = [conv for link in links for conv in link.attention or ()]
    plain = all(is_ordinary(link.conv) for link in links) and all(map(is_plain_1x1, ones))
    return not links or not plain or is_watched(net)


def channel_weights(net: RCAN, image: Tensor) -> Iterator[Tensor]:
    """The channel weights of each block of `net` for `image`, times its `res_scale`."""
    x: Tensor = net.conv_first(net.normalise(image))
    for group in cast(list[Group], [*net.body]):
        entry = x
        for block in cast(list[ChannelBlock], [*group.blocks]):
            y = block.residue(x)
            weight = block.attention(y)
            yield weight
            x = x + y * weight
        x = group.conv(x, residual=entry)


def all_links(net: RCAN, weights: Iterator[Tensor]) -> list[Link]:
    """The convolutions of `net` in order; each block's second one includes its channel weights.

    The weights include `res_scale`, so that a block adds the convolution's output unchanged.
    """
    return [
        link
        if link.attention is None
        else Link(weighted(link.conv, next(weights)), residual=link.residual)
        for link in net.links()
    ]


def weighted(conv: nn.Conv2d, weight: Tensor) -> nn.Conv2d:
    """`conv` with its output channels multiplied by `weight` (1,C,1,1)."""
    sizes = conv.in_channels, conv.out_channels, 3
    # A new convolution would draw random weights, and change the caller's random numbers.
    new = nn.utils.skip_init(nn.Conv2d, *sizes, padding=1, bias=conv.bias is not None)
    new.weight = nn.Parameter(conv.weight * weight.view(-1, 1, 1, 1), requires_grad=False)
    if conv.bias is not None:
        new.bias = nn.Parameter(conv.bias * weight.flatten(), requires_grad=False)
    return new
