"""Diffusion index of networks over a set of images: how widely does each look, and does it help?"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fastbg.attribution import AttributionResult, GaussianBlurPath, GradientDetector
from fastbg.attribution.local import LocalAttribution
from fastbg.attribution.picture import heat
from fastbg.data.windows import one_window_each, read_windows, shortened
from fastbg.errors import DataError, InvalidArgument
from fastbg.experiments.experiment import Experiment, Measured, Picture, Work
from fastbg.experiments.options import Options, option
from fastbg.experiments.study import Item, Study, as_image, restore
from fastbg.experiments.windows import (
    NODES,
    Chooser,
    check_sizes,
    draw_windows,
    middle,
    with_detail,
)
from fastbg.filters.dtypes import as_float
from fastbg.geometry import Box, centre
from fastbg.measures.quality import psnr
from fastbg.models.checkpoints import load_model
from fastbg.models.network import Network

# For windows="hard": two built-in networks of different kinds, whose results are compared.
REFERENCES = ("edsr", "swinir")
CENTRE, HARD = "centre", "hard"


@dataclass(frozen=True)
class DiffusionOptions(Options):
    """Sizes in HR pixels."""

    images: Literal["drawn", "each"] = option(
        "drawn",
        "which images",
        before="drawn",
        drawn="squares drawn by the seed, with detail in the window",
        each="a square of every photograph, around its window",
    )
    count: int = option(57, "squares that are drawn, one window each", low=1)
    size: int = option(256, "side of an image, HR pixels; the LAM paper: LR 64", low=1)
    window: int = option(16, "side of the window, HR pixels; a file has its own", low=1)
    windows: str = option(
        CENTRE,
        "where the window lies; or, with images=each, FILE.csv with a line for each image: "
        "image,y0,x0,y1,x1 in HR pixels",
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
    maps: Literal["dropped", "kept"] = option(
        "dropped",
        "the attribution of every window",
        before="dropped",
        dropped="only its numbers",
        kept="as an array",
    )


class Diffusion(Experiment):
    """Columns: `di`, diffusion index; `gini`; `area` (LR pixels); `psnr` of the window (dB).

    If maps are kept also `passes` of the network for each, and the array `attribution` (n,3,h,w).
    """

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

    def __init__(
        self, options: Options | None = None, seed: int = 0, base: Experiment | None = None
    ) -> None:
        super().__init__(options, seed, base)
        o = self.options
        self.arrays = ("attribution",) if o.maps == "kept" else ()
        self.listed: list[tuple[str, Box]] = []  # windows of a file
        if o.windows.lower().endswith(".csv"):
            path = Path(o.windows)
            self.listed = read_windows(path, f"{self.name}.windows")
            # Windows are part of what the run is; where their file lies is not.
            digest = hashlib.sha256(repr([(n, *box) for n, box in self.listed]).encode())
            self.options = replace(o, windows=f"{path.name} (SHA-256 {digest.hexdigest()[:16]})")

    def check_study(self, study: Study) -> None:
        """Also sizes, and the windows and images where each image is taken.

        Raises InvalidArgument naming `windows` for a file that is not of these images, or `size`
        for images that are smaller.
        """
        super().check_study(study)
        o, named = self.options, f"{self.name}.windows"
        check_sizes(self.name, o, study.scale)
        if not self.listed and o.windows not in (CENTRE, HARD):
            raise InvalidArgument(named, repr(o.windows), f"{CENTRE}, {HARD} or FILE.csv")
        if o.windows == HARD and study.scale != 4:
            expected = f"'centre', as the reference networks magnify 4 times, not {study.scale}"
            raise InvalidArgument(named, repr(HARD), expected)
        if o.images == "each":
            self.check_images(study)
        elif self.listed:
            expected = f"{CENTRE} or {HARD}, or {self.name}.images=each beside it"
            raise InvalidArgument(named, repr(o.windows), expected)

    def check_images(self, study: Study) -> None:
        """Of all images and their windows, see `check_study`; reads no more than sizes."""
        images, side = study.images, self.options.size
        small = [item.key for item in images.items if min(item.size()) < side]
        if small:
            least = min(min(images[key].size()) for key in small)
            expected = f"at most {least}: {shortened(small)} of {images.name} cannot hold more"
            raise InvalidArgument(f"{self.name}.size", side, expected)
        for key, window in self.given(study).items():
            self.square(window, study, key)

    def given(self, study: Study) -> dict[str, Box]:
        """Windows of a file by image, in its HR pixels; none without a file."""
        if not self.listed:
            return {}
        return one_window_each(self.listed, study.images, f"{self.name}.windows")

    def plan(self, study: Study) -> list[Item]:
        """Sub-images; the box of each item's partner is its window."""
        self.check_study(study)
        o = self.options
        choose = self.hard_windows(study) if o.windows == HARD else middle(o, study)
        if o.images == "each":
            found = self.of_each(study, choose)
        else:
            found = draw_windows(self.name, o, study, choose)
        return [with_window(*each) for each in found]

    def of_each(self, study: Study, choose: Chooser) -> list[tuple[Item, Box]]:
        """The square around the window of every image, and the window in its HR pixels.

        The window is the file's, or chosen in the square in the middle. Images whose window has no
        detail, or where networks differ nowhere, are left out; DataError if nothing is left.
        """
        given, found = self.given(study), []
        side, scale = self.options.size, study.scale
        for image in study.images.items:
            key = image.key
            window: Box | None = given.get(key)
            if window is None:
                low = (v // scale for v in image.size())
                central = centre(side // scale, *low).refine(scale)
                inside = choose(square_of(study, key, central))
                window = None if inside is None else inside.moved(*central[:2])
            if window is None:
                continue
            square = self.square(window, study, key)
            item, inside = square_of(study, key, square), window.moved(-square.y0, -square.x0)
            if with_detail(item, inside, study):
                found.append((item, inside))
        if not found:
            name = study.images.name
            raise DataError(f"{self.name}: no window of {name} has detail; expected some")
        return found

    def square(self, window: Box, study: Study, key: str) -> Box:
        """`size` HR pixels around the window, on the LR grid; both in pixels of the image."""
        side, scale, named = self.options.size, study.scale, f"{self.name}.windows"
        height, width = (v // scale for v in study.images[key].size())
        if window.y1 > height * scale or window.x1 > width * scale:
            expected = f"a window inside its {height * scale}x{width * scale} HR pixels"
            raise InvalidArgument(named, f"{window.told()} in {key}", expected)
        square = window.coarsen(scale).around(side // scale, height, width).refine(scale)
        if (square.y1 - square.y0, square.x1 - square.x0) != (side, side):
            expected = f"one that {side // scale}x{side // scale} LR pixels hold, {self.name}.size"
            raise InvalidArgument(named, f"{window.told()} in {key}", expected)
        return square

    def hard_windows(self, study: Study) -> Chooser:
        """A window that two networks restore worse than half of the image, and differently."""
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
        columns: dict[str, list[Tensor]] = defaultdict(list)
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
            if self.arrays:
                columns["passes"].append(result.gini.new_tensor([result.passes]))
                columns["attribution"].append(result.attribution)
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


def square_of(study: Study, key: str, square: Box) -> Item:
    """A square of an image as an item."""
    name = f"{key}@{square.y0},{square.x0}"
    return Item(name, study.images.source(key), square, image=key)


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
