"""Fig. 1 (section 1): a window restored from inputs with more and more of its surroundings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastbg.errors import InvalidArgument
from fastbg.experiments.experiment import (
    Experiment,
    Measured,
    Picture,
    Work,
    decibels,
)
from fastbg.experiments.options import Options, integers, option
from fastbg.experiments.study import Item, Study, as_image, restore
from fastbg.filters.dtypes import as_float
from fastbg.geometry import centre
from fastbg.measures.quality import psnr
from fastbg.models.network import Network

SHOWN = 2  # cases of either kind in the gallery


@dataclass(frozen=True)
class SurroundingsOptions(Options):
    """Sizes in HR pixels."""

    count: int = option(57, "windows, one in each built-in photograph", low=1)
    window: int = option(64, "side of the window, HR pixels", low=1)
    shave: int = option(4, "border of the window that is not measured, as in Table 1", low=0)
    margins: str = option("0,8,16,32,64,96", "surroundings on each side of the window, HR pixels")
    domain: Literal["lr", "hr"] = option(
        "lr",
        "image that the window is cut from",
        lr="the network's input; the window has the same LR pixels in all inputs",
        hr="the HR image; the cut part is then down-sampled",
    )
    gap: float = option(0.1, "dB; fewer surroundings are better if they gain more", low=0)
    many: float = option(0.10, "C1: a larger share of the windows counts as many", low=0, high=1)


class Surroundings(Experiment):
    """PSNR of a window by the width of the surroundings in the network's input."""

    name = "surroundings"
    title = "How much of its surroundings does a window need?"
    paper = "Section 1, Fig. 1"
    question = (
        "A window is restored several times, each time from more of the pixels around it. Do more "
        "pixels always help?"
    )
    method = (
        "From the low-resolution (LR) input, a window is cut out with margins from none to the "
        "whole sub-image. The network restores each of these inputs, and the same pixels in the "
        "window are compared with the ground truth."
    )
    options_type: ClassVar[type[Options]] = SurroundingsOptions
    cost: ClassVar[float] = 2.5
    shown = ("hr", "crops")

    @property
    def margins(self) -> tuple[int, ...]:
        """Widths of the surroundings, ascending."""
        return tuple(integers("surroundings.margins", self.options.margins, among=0))

    @property
    def size(self) -> int:
        """Side of the window with all its surroundings."""
        return int(self.options.window) + 2 * self.margins[-1]

    def plan(self, study: Study) -> list[Item]:
        """Sub-images drawn by the seed, a window in the middle of each."""
        o, scale = self.options, study.scale
        o.check(self.name)
        if o.window < 1 or o.window % scale:
            raise InvalidArgument(
                "surroundings.window", o.window, f"a multiple of the scale {scale}"
            )
        for margin in self.margins:
            if margin < 0 or margin % scale:
                expected = f"multiples of the scale {scale}, none negative"
                raise InvalidArgument("surroundings.margins", margin, expected)
        if not 0 <= 2 * o.shave < o.window:
            raise InvalidArgument("surroundings.shave", o.shave, f"0 to less than {o.window // 2}")
        o.check_pairing(self.name)
        return study.sub_images(o.count, self.size)

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """PSNR (dB) of the window by margin."""
        hr = study.ground_truth(items)
        return self.compare(net, hr, self.inputs(items, hr, study))

    def work(self, items: Sequence[Item], study: Study) -> Work:
        """The window in each of its surroundings."""
        return Work(forwards=len(self.margins) * len(items))

    def inputs(self, items: Sequence[Item], hr: Tensor, study: Study) -> list[Tensor]:
        """LR inputs (B,3,h,w) of the sub-images `hr` (B,3,H,W) uint8, one batch for each margin."""
        o, scale = self.options, study.scale
        sides = [o.window + 2 * margin for margin in self.margins]
        if o.domain == "hr":
            cut = (centre(side, *hr.shape[-2:]) for side in sides)
            return [study.degrade(hr[..., y0:y1, x0:x1], o.kernel) for y0, x0, y1, x1 in cut]
        lr = study.inputs(items, hr, o.lr, o.kernel)
        cut = (centre(side // scale, *lr.shape[-2:]) for side in sides)
        return [lr[..., y0:y1, x0:x1] for y0, x0, y1, x1 in cut]

    def compare(self, net: Network, hr: Tensor, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """PSNR (B,M), dB, by margin; nothing leaves the device."""
        o = self.options
        side = o.window - 2 * o.shave
        y0, x0, y1, x1 = centre(side, *hr.shape[-2:])
        truth = as_float(hr[..., y0:y1, x0:x1])
        columns = {}
        for margin, lr in zip(self.margins, inputs, strict=True):
            whole = o.window + 2 * margin
            window = restore(net, lr, centre(side, whole, whole))
            columns[f"psnr_{margin}"] = psnr(window, truth, channel=o.channel)
        return columns

    def exhibit(self, net: Network, item: Item, study: Study) -> dict[str, Picture]:
        """Ground truth, and the window restored with each margin, side by side."""
        hr = study.ground_truth([item])
        window = self.options.window
        crops = [
            as_image(restore(net, lr, centre(window, window + 2 * margin, window + 2 * margin))[0])
            for margin, lr in zip(self.margins, self.inputs([item], hr, study), strict=True)
        ]
        return {"hr": as_image(hr[0]), "crops": np.hstack(crops)}

    def cases(self, measured: Measured) -> list[int]:
        """Where the widest margin loses most against the best one, then where it gains most."""
        worst = np.argsort(-self.regret(measured), kind="stable")[:SHOWN]
        best = np.argsort(-self.gain(measured, self.margins[-1]), kind="stable")[:SHOWN]
        return list(dict.fromkeys([*map(int, worst), *map(int, best)]))

    def gain(self, result: Measured, margin: int) -> NDArray[np.float64]:
        """PSNR with `margin` minus PSNR of the window alone, dB (n)."""
        return decibels(result, f"psnr_{margin}") - decibels(result, "psnr_0")

    def regret(self, result: Measured) -> NDArray[np.float64]:
        """Best PSNR of all margins minus PSNR with the largest, dB (n)."""
        scores = np.stack([decibels(result, f"psnr_{margin}") for margin in self.margins])
        best: NDArray[np.float64] = scores.max(axis=0) - scores[-1]
        return best
