"""Diffusion index of networks over a set of images: how widely does each look, and does it help?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fastbg.attribution import AttributionResult, GaussianBlurPath, GradientDetector
from fastbg.attribution.local import LocalAttribution
from fastbg.attribution.picture import heat
from fastbg.errors import InvalidArgument
from fastbg.experiments.experiment import Experiment, Measured, Picture, Work
from fastbg.experiments.options import Options, option
from fastbg.experiments.study import Item, Study, as_image, restore
from fastbg.experiments.windows import NODES, Chooser, check_sizes, draw_windows, middle
from fastbg.filters.dtypes import as_float
from fastbg.geometry import Box
from fastbg.measures.quality import psnr
from fastbg.models.checkpoints import load_model
from fastbg.models.network import Network

# For windows="hard": two built-in networks of different kinds, whose results are compared.
REFERENCES = ("edsr", "swinir")


@dataclass(frozen=True)
class DiffusionOptions(Options):
    """Sizes in HR pixels."""

    count: int = option(57, "images, one window each", low=1)
    size: int = option(256, "side of an image, HR pixels; the LAM paper: LR 64", low=1)
    window: int = option(16, "side of the window, HR pixels", low=1)
    windows: Literal["centre", "hard"] = option(
        "centre",
        "where the window lies",
        centre="in the middle",
        hard="drawn by the seed where the built-in EDSR and SwinIR restore worse than usual, more "
        "often where they differ: the LAM paper's rule (scale 4)",
    )
    nodes: Literal["quick", "published"] = option(
        "quick",
        "nodes of the attribution's path",
        quick="16, as accurate as the published 50",
        published="50 steps",
    )


class Diffusion(Experiment):
    """Columns: `di`, diffusion index; `gini`; `area` (LR pixels); `psnr` of the window (dB)."""

    name = "diffusion"
    title = "How widely does each network look?"
    paper = "the LAM paper (CVPR 2021), Figs 4, 8"
    question = (
        "The diffusion index says over how many input pixels a network gathers what it draws in a "
        "window. Which network looks widest, and do windows restored from more pixels come out "
        "better?"
    )
    method = (
        "In each image one window is attributed to the pixels of the input (LAM). The diffusion "
        "index is (1 - Gini coefficient of the map) * 100; the area of contribution is the fewest "
        "LR pixels that hold 95 % of the map. PSNR is that of the window. Networks are compared on "
        "the same windows."
    )
    options_type: ClassVar[type[Options]] = DiffusionOptions
    cost: ClassVar[float] = 40
    chunk: ClassVar[int] = 1
    extra = True
    shown = ("hr", "map")

    def plan(self, study: Study) -> list[Item]:
        """Sub-images drawn by the seed; the box of each item's partner is its window."""
        o = self.options
        o.check(self.name)
        check_sizes(self.name, o, study.scale)
        choose = self.hard_windows(study) if o.windows == "hard" else middle(o, study)
        return [with_window(*found) for found in draw_windows(self.name, o, study, choose)]

    def hard_windows(self, study: Study) -> Chooser:
        """A window that two networks restore worse than half of the image, and differently."""
        if study.scale != 4:
            expected = f"'centre', as the reference networks magnify 4 times, not {study.scale}"
            raise InvalidArgument(f"{self.name}.windows", "'hard'", expected)
        nets = [load_model(name).to(study.device, study.dtype) for name in REFERENCES]

        def choose(item: Item) -> Box | None:
            hr = study.ground_truth([item])
            lr = study.inputs([item], hr, self.options.lr, self.options.kernel)
            with study.measuring():
                first, second = (restore(net, lr).float().clamp(0, 1) for net in nets)
            truth = as_float(hr)
            error = ((first - truth).square() + (second - truth).square()).mean(1)
            generator = np.random.default_rng([self.seed, *item.key.encode()])
            difference = (first - second).abs().mean(1)
            return hard_window(error, difference, self.options.window, study.scale, generator)

        return choose

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """One row for each item."""
        columns: dict[str, list[Tensor]] = {"di": [], "gini": [], "area": [], "psnr": []}
        for item in items:
            hr, lr, window = self.inputs(item, study)
            result = self.attribute(net, lr, window, study)
            columns["di"].append(result.diffusion_index)
            columns["gini"].append(result.gini)
            columns["area"].append(result.area().double())
            y0, x0, y1, x1 = window
            truth = as_float(hr[..., y0:y1, x0:x1])
            sr = restore(net, lr, window)
            columns["psnr"].append(psnr(sr, truth, channel=self.options.channel).double())
        return {name: torch.cat(values) for name, values in columns.items()}

    def work(self, items: Sequence[Item], study: Study) -> Work:
        """One restoration of each window, without the passes for attribution."""
        return Work(forwards=len(items))

    def inputs(self, item: Item, study: Study) -> tuple[Tensor, Tensor, Box]:
        """HR and LR image (1,3,..,..) of an item, and its window in HR pixels of the image."""
        hr = study.ground_truth([item])
        window = Box(*item.partners[0].box).moved(-item.box[0], -item.box[1])
        return hr, study.inputs([item], hr, self.options.lr, self.options.kernel), window

    def attribute(self, net: Network, lr: Tensor, window: Box, study: Study) -> AttributionResult:
        """LAM of the window."""
        lam = LocalAttribution(
            net, GaussianBlurPath(backend=study.backend), GradientDetector(backend=study.backend)
        )
        return lam.attribute(lr, tuple(window), **NODES[self.options.nodes])

    def cases(self, measured: Measured) -> list[int]:
        """The largest and the smallest diffusion index."""
        di = measured.columns["di"]
        return list(dict.fromkeys([int(np.argmax(di)), int(np.argmin(di))]))

    def exhibit(self, net: Network, item: Item, study: Study) -> dict[str, Picture]:
        """The image and the map."""
        hr, lr, window = self.inputs(item, study)
        map_ = self.attribute(net, lr, window, study).map[0].cpu().numpy()
        return {"hr": as_image(hr[0]), "map": heat(map_, study.scale)}


def with_window(item: Item, window: Box) -> Item:
    """`item` with `window`, in HR pixels of its region, as its partner."""
    y0, x0 = item.box[:2]
    place = Item(f"{item.key} window", item.source, window.moved(y0, x0), image=item.image)
    return replace(item, partners=(place,))


def hard_window(
    error: Tensor, difference: Tensor, size: int, step: int, generator: np.random.Generator
) -> Box | None:
    """A window drawn among those whose error is above the median, by how much networks differ.

    `error` and `difference` (1,h,w) are of each pixel; windows of `size` pixels lie at multiples of
    `step`. None if networks differ nowhere.
    """
    mean_error, mean_difference = (avg_pool2d(m, size, step)[0] for m in (error, difference))
    weight = torch.where(mean_error > mean_error.median(), mean_difference, 0.0)
    weights: NDArray[np.float64] = weight.double().cpu().numpy()
    if not weights.sum() > 0:
        return None
    place = generator.choice(weights.size, p=(weights / weights.sum()).ravel())
    y, x = (step * int(i) for i in np.unravel_index(place, weights.shape))
    return Box(y, x, y + size, x + size)
