"""Table 1 (section 4.2): a region with its background against the same region alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastbg.errors import InvalidArgument
from fastbg.experiments.experiment import Experiment, Measured, Picture, Work, decibels
from fastbg.experiments.options import Options, option
from fastbg.experiments.study import Item, Study, as_image, restore
from fastbg.filters.dtypes import as_float
from fastbg.geometry import centre
from fastbg.measures.quality import psnr
from fastbg.models.network import Network

SHOWN = 2  # cases of either kind in the gallery


@dataclass(frozen=True)
class Table1Options(Options):
    """Sizes in HR pixels."""

    count: int = option(57, "images, one in each built-in photograph; the paper: 150", low=1)
    size: int = option(256, "side of an image, HR pixels", low=1)
    region: int = option(64, "side of the region that is restored alone, HR pixels", low=1)
    shave: int = option(4, "border of the region that is not measured: 56 x 56 remain", low=0)
    domain: Literal["lr", "hr"] = option(
        "lr",
        "image that the region is cut from",
        lr="the network's input; both inputs have the same LR pixels",
        hr="the HR image; the region is then down-sampled",
    )
    many: float = option(0.10, "C1: a larger share of the regions counts as many", low=0, high=1)


class Table1(Experiment):
    """PSNR of the centre, restored from the whole image and from the central region alone."""

    name = "table1"
    title = "Is a region restored better without its background?"
    paper = "Section 4.2, Table 1"
    question = (
        "A network restores the centre of an image twice: once from the whole image, once from "
        "the central region alone. How often is the region alone restored better?"
    )
    method = (
        "Each ground-truth image is down-sampled to a low-resolution (LR) input. The network gets "
        "either all of it or only its central region. Both results are compared with the ground "
        "truth in the same central window, without the border next to the cut."
    )
    options_type: ClassVar[type[Options]] = Table1Options
    cost: ClassVar[float] = 1.0
    shown = ("hr", "lr", "full", "partial")

    def plan(self, study: Study) -> list[Item]:
        """Sub-images drawn by the seed."""
        o, scale = self.options, study.scale
        o.check(self.name)
        for name, size in (("size", o.size), ("region", o.region)):
            if size % scale:
                raise InvalidArgument(f"table1.{name}", size, f"a multiple of the scale {scale}")
        if (o.size - o.region) % (2 * scale) or o.region > o.size:
            expected = f"at most {o.size}, and centred on the LR grid of scale {scale}"
            raise InvalidArgument("table1.region", o.region, expected)
        if 2 * o.shave >= o.region:
            raise InvalidArgument("table1.shave", o.shave, f"0 to less than {o.region // 2}")
        o.check_pairing(self.name)
        return study.sub_images(o.count, o.size)

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """PSNR (dB) of the window from the full and from the partial input."""
        hr = study.ground_truth(items)
        return self.compare(net, hr, *self.inputs(items, hr, study))

    def inputs(self, items: Sequence[Item], hr: Tensor, study: Study) -> tuple[Tensor, Tensor]:
        """LR inputs of the whole images `hr` (B,3,H,W) uint8, and of their central regions."""
        o, scale = self.options, study.scale
        full = study.inputs(items, hr, o.lr, o.kernel)
        if o.domain == "hr":
            y0, x0, y1, x1 = centre(o.region, *hr.shape[-2:])
            return full, study.degrade(hr[..., y0:y1, x0:x1], o.kernel)
        y0, x0, y1, x1 = centre(o.region // scale, *full.shape[-2:])
        return full, full[..., y0:y1, x0:x1]

    def compare(self, net: Network, hr: Tensor, full: Tensor, partial: Tensor) -> dict[str, Tensor]:
        """PSNR (B), dB, from both inputs; nothing leaves the device."""
        o = self.options
        window = centre(o.region - 2 * o.shave, *hr.shape[-2:])
        y0, x0, y1, x1 = window
        truth = as_float(hr[..., y0:y1, x0:x1])
        own = centre(o.region - 2 * o.shave, o.region, o.region)
        return {
            "psnr_full": psnr(restore(net, full, window), truth, channel=o.channel),
            "psnr_partial": psnr(restore(net, partial, own), truth, channel=o.channel),
        }

    def work(self, items: Sequence[Item], study: Study) -> Work:
        """The whole image and its central region."""
        return Work(forwards=2 * len(items))

    def exhibit(self, net: Network, item: Item, study: Study) -> dict[str, Picture]:
        """Ground truth, input, and both results of the region."""
        region = centre(self.options.region, self.options.size, self.options.size)
        hr = study.ground_truth([item])
        full, partial = self.inputs([item], hr, study)
        images = (hr, full, restore(net, full, region), restore(net, partial))
        return {name: as_image(image[0]) for name, image in zip(self.shown, images, strict=True)}

    def cases(self, measured: Measured) -> list[int]:
        """Where the region alone gains most, then where the background gains most."""
        order = np.argsort(gain(measured))
        worst, best = order[:SHOWN], order[::-1][:SHOWN]
        return list(dict.fromkeys([*map(int, worst), *map(int, best)]))


def gain(result: Measured) -> NDArray[np.float64]:
    """PSNR with the background minus PSNR without, dB (n)."""
    return decibels(result, "psnr_full") - decibels(result, "psnr_partial")
