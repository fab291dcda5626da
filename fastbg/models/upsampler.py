"""The pixel-shuffle upsampler that EDSR, RCAN and classical SwinIR share."""

from collections.abc import Sequence

from torch import nn

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

    def run_window(self, x: Patch, boxes: Sequence[Box]) -> Patch:
        """The upsampler on patches; `boxes` as `required_boxes` gives them for `stages`."""
        for i, (stage, box) in enumerate(zip(self.stages, boxes, strict=True)):
            step = self[2 * i : 2 * i + 2]
            x = x.cut(box).run(step, stage.factor)
        return x
