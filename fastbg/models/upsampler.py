"""The pixel-shuffle upsampler that EDSR, RCAN and classical SwinIR share."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from fastbg.errors import InvalidArgument
from fastbg.models.window import Box, Patch, Stage

FACTORS = {1: [], 2: [2], 3: [3], 4: [2, 2], 8: [2, 2, 2]}


class Upsampler(nn.Sequential):
    """conv 3x3 and pixel shuffle for each factor of `scale` (1, 2, 3, 4 or 8)."""

    def __init__(self, features: int, scale: int) -> None:
        if scale not in FACTORS:
            raise InvalidArgument("scale", scale, f"one of {sorted(FACTORS)}")
        steps: list[nn.Module] = []
        for factor in FACTORS[scale]:
            steps.append(nn.Conv2d(features, features * factor**2, 3, padding=1))
            steps.append(nn.PixelShuffle(factor))
        super().__init__(*steps)
        self.stages = [Stage(1, factor) for factor in FACTORS[scale]]

    def step(self, i: int, x: Tensor) -> Tensor:
        """The convolution and pixel shuffle of factor number `i`."""
        y: Tensor = self[2 * i + 1](self[2 * i](x))
        return y

    def run_window(self, x: Patch, boxes: Sequence[Box]) -> Patch:
        """The upsampler on patches; `boxes` as `required_boxes` gives them for `stages`."""
        for i, (stage, box) in enumerate(zip(self.stages, boxes, strict=True)):
            x = x.cut(box).run(partial(self.step, i), stage.factor)
        return x
