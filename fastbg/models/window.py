"""Box arithmetic for window-trimmed inference.

A network's ``forward_window(x, window)`` asks `required_boxes`, walking its stages backwards,
which pixels each of them must be given, then runs forwards on a `Patch`, cut to that box before
each stage. Cutting is exact: a pixel at least the stage's radius away from a cut sees the same
inputs as before, and at the image border the layer's own padding applies as in the whole image.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from fastbg.errors import InvalidArgument


class Box(NamedTuple):
    """Half-open pixel box ``y0 <= y < y1, x0 <= x < x1``."""

    y0: int
    x0: int
    y1: int
    x1: int

    def grow(self, radius: int, height: int, width: int) -> "Box":
        """Box with `radius` more pixels on each side, cut to a (height, width) map."""
        return Box(
            max(self.y0 - radius, 0),
            max(self.x0 - radius, 0),
            min(self.y1 + radius, height),
            min(self.x1 + radius, width),
        )

    def align(self, window: int, shift: int, height: int, width: int) -> "Box":
        """Smallest box made of whole windows, which start at `shift` + multiples of `window`.

        Windows that leave the (height, width) map are cut there.
        """

        def down(v: int) -> int:
            return max((v - shift) // window * window + shift, 0)

        def up(v: int, size: int) -> int:
            return min(-((shift - v) // window) * window + shift, size)

        return Box(down(self.y0), down(self.x0), up(self.y1, height), up(self.x1, width))

    def coarsen(self, factor: int) -> "Box":
        """Smallest box that covers this one on a map `factor` times coarser."""
        f = factor
        return Box(self.y0 // f, self.x0 // f, -(-self.y1 // f), -(-self.x1 // f))

    def refine(self, factor: int) -> "Box":
        """The same region on a map `factor` times finer."""
        return Box(*(factor * v for v in self))


class Patch(NamedTuple):
    """The part `box` of a feature map: data (B,C,y1-y0,x1-x0)."""

    data: Tensor
    box: Box

    def cut(self, box: Box) -> "Patch":
        """The smaller patch `box`, as a view."""
        rows = slice(box.y0 - self.box.y0, box.y1 - self.box.y0)
        columns = slice(box.x0 - self.box.x0, box.x1 - self.box.x0)
        return Patch(self.data[..., rows, columns], box)

    def run(self, layer: Callable[[Tensor], Tensor], factor: int = 1) -> "Patch":
        """`layer` applied, which magnifies by `factor`."""
        return Patch(layer(self.data), self.box.refine(factor))


class Stage(NamedTuple):
    """What a stage of a network looks at, in its input's pixels, and how much it magnifies.

    A convolution looks `radius` far, attention at the whole windows that its output lies in.
    """

    radius: int
    factor: int = 1
    window: int = 1
    shift: int = 0

    def needs(self, box: Box, height: int, width: int) -> Box:
        """Input box for the output `box`, both on the stage's input map (height, width)."""
        grown = box.grow(self.radius, height, width)
        return grown.align(self.window, self.shift, height, width)


def required_boxes(window: Box, stages: Sequence[Stage], height: int, width: int) -> list[Box]:
    """Input box of each stage, so that the last one delivers `window`; (height, width) is LR."""
    scale = 1
    for stage in stages:
        scale *= stage.factor
    boxes = [window]
    for stage in reversed(stages):
        scale //= stage.factor
        box = boxes[-1].coarsen(stage.factor)
        boxes.append(stage.needs(box, height * scale, width * scale))
    return boxes[:0:-1]


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
