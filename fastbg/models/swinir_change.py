"""A window of one image computed for many changes of the input, by SwinIR.

A change spreads by one pixel in a convolution, and in a block to the attention windows that it lies
in. Each step runs only where the change has spread to and the window needs its result; what it
needs beside that comes from the features of the unchanged image, which are kept.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from fastbg.geometry import Box, Patch
from fastbg.models.conv import Conv3x3
from fastbg.models.network import pad_to_multiple
from fastbg.models.window import Stage, added, on_pixels, required_boxes, whole_map
from fastbg.precision import held

if TYPE_CHECKING:
    from fastbg.models.swinir import Block, Layer, Masks, SwinIR

BYTES = 256 << 20  # of a map, for all changes that are computed at once


class Step(NamedTuple):
    """A part of the network, from the features before it to those after it."""

    stage: Stage
    # Its input, the box that is asked of its output, the features to be added: its output.
    run: Callable[[Patch, Box, Patch | None], Patch]
    adds: int | None = None  # the step whose input is added


class ChangeableSwinIR:
    """Computes a window of the SR image for an image and for changes of it.

    As `fastbg.models.changeable.ChangeableWindow`, on CPUs. The network must not change meanwhile.

    Attributes:
        unchanged: (1,3,h,w), as `forward_window` gives it.
        rounding: with twice as much, attention makes errors a fifth larger.
    """

    backend = "cpu"
    rounding = 5e-7

    @torch.no_grad()
    def __init__(self, network: "SwinIR", image: Tensor, window: Box) -> None:
        """`image` (1,3,h,w) in [0,1]; `window` in SR pixels."""
        self._network, self._image = network, image
        padded = pad_to_multiple(image, network.window)
        self._size = height, width = padded.shape[-2:]
        self._steps = steps(network, height, width)
        stages = [step.stage for step in self._steps]
        self._boxes = [*required_boxes(window, stages, height, width), window]
        self._kept = [whole_map(padded).cut(self._boxes[0])]
        with held():
            for step, box in zip(self._steps, self._boxes[1:], strict=True):
                entry = None if step.adds is None else self._kept[step.adds]
                self._kept.append(step.run(self._kept[-1], box, entry).cut(box))
        self._at_once = max(1, BYTES // max(kept.data.nbytes for kept in self._kept))
        self._largest = [float(kept.data.abs().max()) for kept in self._kept]
        self.unchanged = network.denormalise(self._kept[-1].data)

    @torch.no_grad()
    def run(self, changes: Sequence[tuple[Box, Tensor]], negligible: float = 0.0) -> list[Tensor]:
        """Windows (K,3,h,w) for each (box of the input, its new pixels in K images, in [0,1]).

        After each residual sum, outer rows and columns are taken from the kept features if nothing
        in them differs by more than `negligible` times the largest of these.
        """
        with held():
            return [
                torch.cat([self._changed(box, p, negligible) for p in pixels.split(self._at_once)])
                for box, pixels in changes
            ]

    @property
    def nbytes(self) -> int:
        """Memory of the kept features."""
        return sum(kept.data.nbytes for kept in self._kept)

    def _changed(self, box: Box, pixels: Tensor, negligible: float) -> Tensor:
        """The window for new `pixels` (K,3,h,w) in a box of the image."""
        same = self.unchanged.expand(len(pixels), -1, -1, -1)
        first = self._padded(box).common(self._boxes[0])
        if first is None:
            return same
        images = self._image.repeat(len(pixels), 1, 1, 1)
        images[(..., *box.slices())] = pixels
        padded = whole_map(pad_to_multiple(images, self._network.window))
        changed, (height, width) = [padded.cut(first)], self._size
        for i, step in enumerate(self._steps):
            stage = step.stage
            spread = stage.spreads(changed[-1].box, height, width)
            ahead = spread.common(self._boxes[i + 1])
            if ahead is None:
                return same
            here = stage.needs(ahead.coarsen(stage.factor), height, width)
            x = pasted(self._kept[i], changed[i], here)
            entry = None
            if step.adds is not None:
                entry = pasted(self._kept[step.adds], changed[step.adds], here)
            found = step.run(x, ahead, entry).cut(ahead)
            if entry is not None and negligible:
                least = negligible * self._largest[i + 1]
                part = differing(found, self._kept[i + 1], least)
                if part is None:
                    return same
                found = found.cut(part)
            changed.append(found)
            height, width = stage.factor * height, stage.factor * width
        whole = pasted(self._kept[-1], changed[-1], self._boxes[-1])
        return self._network.denormalise(whole.data)

    def _padded(self, box: Box) -> Box:
        """What changes of the padded image: up to its end if the padding reflects the box."""

        def end(stop: int, size: int, padded: int) -> int:
            return padded if size < padded and stop > 2 * size - 1 - padded else stop

        height, width = self._image.shape[-2:]
        y1, x1 = end(box.y1, height, self._size[0]), end(box.x1, width, self._size[1])
        return Box(box.y0, box.x0, y1, x1)


def steps(network: "SwinIR", height: int, width: int) -> list[Step]:
    """The network on a (height, width) map, as `SwinIR.forward_window` computes it."""
    masks: Masks = {}

    def plain(layer: Callable[[Tensor], Tensor], factor: int = 1) -> Callable[..., Patch]:
        return lambda x, ahead, entry: x.run(layer, factor)

    def block_of(block: "Block") -> Callable[..., Patch]:
        return lambda x, ahead, entry: block(x, ahead, height, width, masks)

    def summed(conv: Conv3x3) -> Callable[..., Patch]:
        return lambda x, ahead, entry: added(entry, conv, x)

    point = Stage(0)
    found = [Step(Stage(1), plain(network.shallow))]
    found.append(Step(point, plain(partial(on_pixels, layer=network.norm_first))))
    for layer in cast("list[Layer]", [*network.layers]):
        entry = len(found)
        for block, stage in zip(cast("list[Block]", [*layer.blocks]), layer.stages, strict=False):
            found.append(Step(stage, block_of(block)))
        found.append(Step(Stage(1), summed(layer.conv), entry))
    found.append(Step(point, plain(partial(on_pixels, layer=network.norm))))
    found.append(Step(Stage(1), summed(network.conv_after_body), 1))
    return found + [Step(stage, plain(run, stage.factor)) for stage, run in network.tail()]


def differing(changed: Patch, kept: Patch, least: float) -> Box | None:
    """The smallest part of `changed` that holds all that differs from `kept` by over `least`."""
    apart = (changed.data - kept.cut(changed.box).data).abs().amax((0, 1))
    apart = ~(apart <= least)  # a NaN differs
    rows, columns = (apart.any(axis).nonzero() for axis in (1, 0))
    if not len(rows):
        return None
    (y0, y1), (x0, x1) = ((int(at[0]), int(at[-1]) + 1) for at in (rows, columns))
    return Box(y0, x0, y1, x1).moved(changed.box.y0, changed.box.x0)


def pasted(kept: Patch, changed: Patch, box: Box) -> Patch:
    """The features of `box`: the changed ones (K,C,...), and around them the kept ones."""
    count, channels = changed.data.shape[:2]
    size = count, channels, box.y1 - box.y0, box.x1 - box.x0
    data = torch.empty(
        size, dtype=kept.data.dtype, device=kept.data.device, memory_format=torch.channels_last
    )
    data.copy_(kept.cut(box).data)
    both = changed.box.common(box)
    if both is not None:
        Patch(data, box).cut(both).data.copy_(changed.cut(both).data)
    return Patch(data, box)
