"""RCAN with its channel weights frozen at those of one image: what reaches a window directly.

RCAN weighs channels by their means over the whole map, so that every input pixel has a say in every
output pixel. With the weights of an image held fast, what is left is a plain CNN: a change acts
through the convolutions alone, and only where they reach.
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
    """`net` as it treats `image`: for that image the same output, for others its frozen weights."""

    architecture = "rcan-direct"

    @in_precision
    @torch.no_grad()
    def __init__(self, net: RCAN, image: Tensor) -> None:
        """`image` (1,3,h,w) in [0,1].

        InvalidArgument for RCAN with local means (`pooling`), with hooks, or with other modules
        than it was made of: their effect would be missing.
        """
        super().__init__(net.scale, net.img_range, net.config["mean"])
        self.name, self.mean, self.native = f"{net.name} (direct)", net.mean, net.native
        if net.is_local(*image.shape[-2:]):
            got = f"RCAN with means over {net.config['pooling']} pixels"
            raise InvalidArgument("model", got, "one with means over the whole map: pooling 0")
        if is_altered(net):
            expected = "RCAN as fastbg makes it, without hooks, for direct paths"
            raise InvalidArgument("model", f"{net.name} with hooks or other modules", expected)
        dtype = autocast_dtype(image.dtype)  # as asked of fastbg; an autocast around does not count
        with torch.autocast(image.device.type, dtype, enabled=dtype is not None):
            weights = [*channel_weights(net, image)]
        self._links = all_links(net, iter(weights))
        self._convs = nn.ModuleList(link.conv for link in self._links)  # to be moved and found

    def stages(self) -> list[Stage]:
        """Convolutions of radius 1 all along."""
        return [Stage(1, link.upscale) for link in self._links]

    def forward(self, x: Tensor) -> Tensor:
        """SR image (B,3,s*h,s*w) of `x` (B,3,h,w)."""
        height, width = (self.scale * side for side in x.shape[-2:])
        return self.forward_window(x, (0, 0, height, width))

    @in_network_precision
    def forward_window(self, x: Tensor, window: Sequence[int]) -> Tensor:
        """`forward(x)` cut to `window`, by what it needs alone."""
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
    """Whether a module was replaced, or somebody waits for its calls."""
    links = net.links() if net.has_its_parts() else []
    ones = [conv for link in links for conv in link.attention or ()]
    plain = all(is_ordinary(link.conv) for link in links) and all(map(is_plain_1x1, ones))
    return not links or not plain or is_watched(net)


def channel_weights(net: RCAN, image: Tensor) -> Iterator[Tensor]:
    """What each block of `net` weighs its channels by for `image`, with its `res_scale`."""
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
    """The convolutions of `net` in turn, each block's second one with its channel weights.

    The weights hold `res_scale`, so that the sum of the block takes its output as it is.
    """
    return [
        link
        if link.attention is None
        else Link(weighted(link.conv, next(weights)), residual=link.residual)
        for link in net.links()
    ]


def weighted(conv: nn.Conv2d, weight: Tensor) -> nn.Conv2d:
    """`conv` whose output channels are weighed by `weight` (1,C,1,1)."""
    sizes = conv.in_channels, conv.out_channels, 3
    # Without the random weights of a new convolution: the caller's random numbers stay as they are.
    new = nn.utils.skip_init(nn.Conv2d, *sizes, padding=1, bias=conv.bias is not None)
    new.weight = nn.Parameter(conv.weight * weight.view(-1, 1, 1, 1), requires_grad=False)
    if conv.bias is not None:
        new.bias = nn.Parameter(conv.bias * weight.flatten(), requires_grad=False)
    return new
