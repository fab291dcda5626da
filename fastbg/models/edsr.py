"""EDSR (Lim et al., CVPRW 2017): a plain residual CNN, the paper's network without attention."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from fastbg.geometry import Box, Patch
from fastbg.models.arguments import check_number, check_whole
from fastbg.models.changeable import ChangeableWindow, keep_window
from fastbg.models.conv import Conv3x3
from fastbg.models.conv_stack import Link, run_network, tail_links
from fastbg.models.network import DIV2K_MEAN, Network, is_watched
from fastbg.models.upsampler import Upsampler
from fastbg.models.window import Stage, check_window, required_boxes, whole_map
from fastbg.precision import in_network_precision, in_precision


class ResidualBlock(nn.Module):
    """x + res_scale * conv 3x3 (ReLU (conv 3x3 (x)))."""

    def __init__(self, features: int, res_scale: float) -> None:
        super().__init__()
        self.conv1 = Conv3x3(features, features)
        self.conv2 = Conv3x3(features, features)
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x, relu=True)
        return self.conv2(y, residual=x, residual_scale=self.res_scale)


class EDSR(Network):
    """EDSR under BasicSR's key names; input and output RGB in [0,1], output not clamped.

    Baseline: 64 features, 16 blocks, `res_scale` 1. Large: 256 features, 32 blocks, 0.1.

    The modules define the network; training and tracing use them. Frozen float32 networks
    run as one `fastbg.ops.conv_stack` instead (`run_native`), unless `native` is False. A window
    then equals that of the whole image up to rounding; on CPUs, with `equal_windows`, it has the
    same bits, at about 1.5 times the cost.
    """

    architecture = "edsr"

    def __init__(
        self,
        features: int = 64,
        blocks: int = 16,
        scale: int = 4,
        res_scale: float = 1.0,
        img_range: float = 255.0,
        mean: Sequence[float] = DIV2K_MEAN,
    ) -> None:
        check_whole("features", features)
        check_whole("blocks", blocks, least=0)
        check_number("res_scale", res_scale)
        super().__init__(
            scale, img_range, mean, features=features, blocks=blocks, res_scale=res_scale
        )
        self.conv_first = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(features, res_scale) for _ in range(blocks)))
        self.conv_after_body = Conv3x3(features, features)
        self.upsample = Upsampler(features, scale)
        self.conv_last = Conv3x3(features, 3)

    def shallow(self, x: Tensor) -> Tensor:
        """First features of an image in [0,1]."""
        features: Tensor = self.conv_first(self.normalise(x))
        return features

    def to_image(self, features: Tensor) -> Tensor:
        """SR image in [0,1] of the upsampled features."""
        return self.denormalise(self.conv_last(features))

    def stages(self) -> list[Stage]:
        """All layers are convolutions of radius 1; a block has two."""
        blocks = (Stage(2) for _ in self.body)
        return [Stage(1), *blocks, Stage(1), *self.upsample.stages, Stage(1)]

    @in_network_precision
    def forward(self, x: Tensor) -> Tensor:
        """SR image (B,3,s*h,s*w) of `x` (B,3,h,w)."""
        fast = self.run_native(x)
        if fast is not None:
            return fast
        x = self.shallow(x)
        x = self.conv_after_body(self.body(x), residual=x)
        return self.to_image(self.upsample(x))

    @in_network_precision
    def forward_window(self, x: Tensor, window: Sequence[int]) -> Tensor:
        """`forward(x)` cut to `window` (y0, x0, y1, x1) in SR pixels, computing little more.

        Every layer is a convolution of radius 1, so all of them are trimmed: each block runs on
        the window's LR pixels, grown by the radius of the layers that follow. Output and gradients
        are exact.
        """
        height, width = x.shape[-2:]
        box = check_window(window, height * self.scale, width * self.scale)
        if any(map(is_watched, (self, self.body, self.upsample))):  # which are not called below
            return super().forward_window(x, box)
        fast = self.run_native(x, box)
        if fast is not None:
            return fast
        need = iter(required_boxes(box, self.stages(), height, width))

        first = deep = whole_map(x).cut(next(need)).run(self.shallow)
        for block in self.body:
            deep = deep.cut(next(need)).run(block)
        deep = deep.cut(next(need))
        joined = self.conv_after_body(deep.data, residual=first.cut(deep.box).data)
        ahead = list(need)
        up = self.upsample.run_window(Patch(joined, deep.box), ahead[:-1])
        return up.cut(ahead[-1]).run(self.to_image).cut(box).data

    def run_native(self, x: Tensor, window: Box | None = None) -> Tensor | None:
        """`forward(x)`, or its window, in one native call; None where the modules must run.

        They must run where a part is no longer what `__init__` made or has hooks, and for what
        `fastbg.ops.conv_stack.why_plain` names: gradients to parameters, tracing, torch.func,
        forward mode, autocast, other devices, dtypes and backends.
        """
        if torch.compiler.is_compiling() or not self._has_its_parts():
            return None
        return run_network(self, self.links(), x, window)

    @in_precision
    def keep_window(self, x: Tensor, window: Sequence[int]) -> ChangeableWindow | None:
        """See `Network.keep_window`; None as for `run_native`."""
        box = check_window(window, *(self.scale * side for side in x.shape[-2:]))
        if torch.compiler.is_compiling() or not self._has_its_parts():
            return None
        return keep_window(self, x, self.links(), box, self.equal_windows)

    def _has_its_parts(self) -> bool:
        """Whether the modules around the convolutions are those of `__init__`, without hooks."""
        blocks = list(self.body) if type(self.body) is nn.Sequential else [nn.Identity()]
        return (
            type(self) is EDSR
            and self.native
            and type(self.upsample) is Upsampler
            and all(type(block) is ResidualBlock for block in blocks)
            and not any(is_watched(part) for part in (self.body, *blocks, self.upsample))
        )

    def links(self) -> list[Link]:
        """The network's convolutions, in order; map 0 is the normalised image."""
        links = [Link(self.conv_first)]
        for block in cast(list[ResidualBlock], [*self.body]):
            entry = len(links)
            links.append(Link(block.conv1, relu=True))
            links.append(Link(block.conv2, residual=entry, residual_scale=block.res_scale))
        links.append(Link(self.conv_after_body, residual=1))
        return links + tail_links(self.upsample, self.conv_last)
