"""The pixel-shuffle upsampler that EDSR, RCAN and classical SwinIR share."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from fastbg.errors import InvalidArgument
from fastbg.geometry import Box, Patch
from fastbg.models.conv import Conv3x3
from fastbg.models.window import Stage

FACTORS = {1: [], 2: [2], 3: [3], 4: [2, 2], 8: [2, 2, 2]}


class Upsampler(nn.Sequential):
    """conv 3x3 and pixel shuffle for each factor of `scale` (1, 2, 3, 4 or 8)."""

    def __init__(self, features: int, scale: int) -> None:
        if scale not in FACTORS:
            raise InvalidArgument("scale", scale, f"one of {sorted(FACTORS)}")
        steps: list[nn.Module] = []
        for factor in FACTORS[scale]:
            steps.append(Conv3x3(features, features * factor**2))
            steps.append(nn.PixelShuffle(factor))  # done by the convolution; keeps the key names
        super().__init__(*steps)
        self.stages = [Stage(1, factor) for factor in FACTORS[scale]]

    def step(self, i: int, x: Tensor) -> Tensor:
        """The convolution and pixel shuffle of factor number `i`."""
        y: Tensor = self[2 * i](x, upscale=self.stages[i].factor)
        return y

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,s*h,s*w) of `x` (B,C,h,w)."""
        for i in range(len(self.stages)):
            x = self.step(i, x)
        return x

    def run_window(self, x: Patch, boxes: Sequence[Box]) -> Patch:
        """The upsampler on patches; `boxes` as `required_boxes` gives them for `stages`."""
        for i, (stage, box) in enumerate(zip(self.stages, boxes, strict=True)):
            x = x.cut(box).run(partial(self.step, i), stage.factor)
        return x
