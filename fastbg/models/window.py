"""Box arithmetic for window-trimmed inference.

A network's ``forward_window(x, window)`` first finds, from the last stage to the first, which
pixels each stage needs (`required_boxes`). It then runs forwards on a `Patch` that is cut to that
box before each stage. This is exact: a pixel farther from a cut than the stage's radius has the
same inputs as in the whole image, and at the image border the layer's own padding applies.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor

from fastbg.errors import InvalidArgument
from fastbg.geometry import Box, Patch
from fastbg.models.conv import Conv3x3


class Crop(NamedTuple):
    """A part of an LR image, and a window's position in the SR image of that part."""

    box: Box  # LR pixels
    window: Box  # SR pixels


class Stage(NamedTuple):
    """The input region that a stage of a network needs, in its input's pixels, and its scale.

    A convolution needs `radius` pixels more on each side, attention the whole windows that its
    output lies in.
    """

    radius: int
    factor: int = 1
    window: int = 1
    shift: int = 0

    def needs(self, box: Box, height: int, width: int) -> Box:
        """Input box for the output `box`, both on the stage's input map (height, width)."""
        grown = box.grow(self.radius, height, width)
        return grown.align(self.window, self.shift, height, width)

    def spreads(self, box: Box, height: int, width: int) -> Box:
        """Output box that the input `box` changes: as far as an output needs its input."""
        return self.needs(box, height, width).refine(self.factor)


def required_boxes(window: Box, stages: Sequence[Stage], height: int, width: int) -> list[Box]:
    """Input box of each stage that the output `window` needs; (height, width) is the LR size."""
    scale = 1
    for stage in stages:
        scale *= stage.factor
    boxes = [window]
    for stage in reversed(stages):
        scale //= stage.factor
        box = boxes[-1].coarsen(stage.factor)
        boxes.append(stage.needs(box, height * scale, width * scale))
    return boxes[:0:-1]


def on_pixels(x: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
    """A layer of (B,h,w,C) on `x` (B,C,h,w)."""
    return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def added(x: Patch, conv: Conv3x3, y: Patch) -> Patch:
    """x + conv(y) on the box of `y`, which must lie inside the box of `x`."""
    return y.run(partial(conv, residual=x.cut(y.box).data))


def whole_map(x: Tensor) -> Patch:
    """All of `x` (B,C,h,w) as a patch."""
    return Patch(x, Box(0, 0, x.shape[-2], x.shape[-1]))


def check_window(window: Sequence[int], height: int, width: int) -> Box:
    """`window` as a Box, or InvalidArgument if it is empty or leaves the (height, width) map."""
    box = Box(*(int(v) for v in window)) if len(window) == 4 else None
    if box is None or not (0 <= box.y0 < box.y1 <= height and 0 <= box.x0 < box.x1 <= width):
        raise InvalidArgument(
            "window",
            tuple(window),
            f"a box (y0, x0, y1, x1) in SR pixels, not empty, inside {height}x{width}",
        )
    return box
