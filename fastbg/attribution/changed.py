"""Computes a window of the SR image after a box of the input is replaced.

Causal effect maps and occlusion do this for many boxes of one image, one at a time.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastbg.attribution.passes import WindowPasses
from fastbg.geometry import Box
from fastbg.models.arguments import check_whole
from fastbg.models.changeable import Changeable
from fastbg.models.network import Network, images_per_call
from fastbg.ops.checks import check_finite

# Changes per call where maps are kept, limited by the windows, in bytes and number; backends divide
# them. On CPUs 100 take a quarter of a second, in which nobody can interrupt.
WINDOW_BYTES, MOST_CHANGES, MOST_ON_CPU = 256 << 20, 1024, 100


class Change(NamedTuple):
    """A box of the input, in LR pixels, and its new pixels (C, height, width)."""

    box: Box
    pixels: Tensor


class ChangedWindow:
    """SR pixels of one window of one image, for the image as it is and with changes.

    Attributes:
        image: (1,C,h,w), the unchanged input.
        box: the window, in SR pixels.
        unchanged: (C,h,w) SR pixels of the window.
        scale: SR pixels per LR pixel.
        reach: the box of the input that the window depends on.
    """

    def __init__(
        self,
        passes: WindowPasses,
        image: Tensor,
        window: Box,
        batch: int | None = None,
        *,
        drop_rounding: bool = False,
    ) -> None:
        """`image` (1,C,h,w); `batch`: changes per pass, None: chosen for the device.

        `drop_rounding`: whether a kept network may drop parts of a change that are as small as the
        rounding of its convolutions. For measures of 8-bit levels, not of how small a change is.
        """
        self._passes, self.image, self.box = passes, image, window
        self._batch = batch or images_per_call(image)
        self.unchanged = self._run(image)[0]
        self.scale = passes.scale
        self.reach = reach_of(passes.model, window, *image.shape[-2:])
        self._kept: Changeable | None = None
        if isinstance(passes.model, Network) and passes.autocast is None:
            self._kept = passes.model.keep_window(image, window)
        if self._kept is not None:
            self.unchanged = self._kept.unchanged[0]
            self._negligible = self._kept.rounding if drop_rounding else 0.0
            fitting = max(1, WINDOW_BYTES // self.unchanged.nbytes)
            most = MOST_ON_CPU if self._kept.backend == "cpu" else MOST_CHANGES
            self._most = batch or min(fitting, most)

    def changed(self, changes: Sequence[Change]) -> Iterator[Tensor]:
        """(n,C,h,w), some at a time: the window after each of the changes alone."""
        if self._kept is None:
            for start in range(0, len(changes), self._batch):
                yield self._run(self._inputs(changes[start : start + self._batch]))
            return
        for some in _parts(changes, self._most):
            patches = self._kept.run(some, self._negligible)
            # The caller waits for the values of what it gets: once for all of them on a GPU.
            patch = torch.cat(patches)
            check_finite("model", patch, "an SR window")
            yield patch

    def _inputs(self, changes: Sequence[Change]) -> Tensor:
        """The image with each of the changes: (n,C,h,w)."""
        inputs = self.image.repeat(len(changes), 1, 1, 1)
        for input_, ((y0, x0, y1, x1), pixels) in zip(inputs, changes, strict=True):
            input_[:, y0:y1, x0:x1] = pixels
        return inputs

    def _run(self, inputs: Tensor) -> Tensor:
        (patch,) = self._passes.patches(inputs, [self.box])
        check_finite("model", patch, "an SR window")
        return patch


def _parts(changes: Sequence[Change], most: int) -> Iterator[list[tuple[Box, Tensor]]]:
    """Groups of at most `most` changes; consecutive changes of a box become (K,C,height,width)."""
    group: list[tuple[Box, Tensor]] = []
    count = 0
    for box, consecutive in groupby(changes, key=lambda change: change.box):
        for some in torch.stack([change.pixels for change in consecutive]).split(most):
            if count + len(some) > most:
                yield group
                group, count = [], 0
            group.append((box, some))
            count += len(some)
    if group:
        yield group


def reach_of(model: nn.Module, window: Box, height: int, width: int) -> Box:
    """The box of a (height, width) input that `window` depends on; all of it if unknown."""
    if isinstance(model, Network):
        return model.reach(window, height, width)
    return Box(0, 0, height, width)


def check_batch(batch: int | None) -> None:
    """InvalidArgument unless `batch` is None or a whole number of at least 1."""
    if batch is not None:
        check_whole("batch", batch)
