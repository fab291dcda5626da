"""Diffusion indices of networks over a set of images, compared with PSNR (LAM paper, Figs 4, 8)."""

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
    nodes_option,
    with_detail,
)
from fastbg.filters.dtypes import as_float
from fastbg.geometry import Box, centre
from fastbg.measures.quality import psnr
from fastbg.models.checkpoints import load_model
from fastbg.models.network import Network
from fastbg.printable import printable

# For windows="hard": two built-in networks of different kinds; windows are drawn by their errors.
REFERENCES = ("edsr", "swinir")
CENTRE, HARD = "centre", "hard"


@dataclass(frozen=True)
class DiffusionOptions(Options):
    """Sizes in HR pixels."""

    images: Literal["drawn", "each"] = option(
        "drawn",
        "images to measure",
        before="drawn",
        drawn="squares drawn by the seed, with detail in the window",
        each="a square around the window of every image of the set",
    )
    count: int = option(57, "number of squares to draw, each with one window", low=1)
    size: int = option(256, "side of a square, HR pixels; the LAM paper: LR 64", low=1)
    window: int = option(16, "side of the window, HR pixels, unless a file gives it", low=1)
    windows: str = option(
        CENTRE,
        "position of the window; or, with images=each, FILE.csv with the columns "
        "image,y0,x0,y1,x1 in HR pixels and a line for each image",
        centre="in the middle",
        hard="drawn by the seed where the built-in EDSR and SwinIR restore worse than usual, more "
        "often where they differ: the LAM paper's rule (scale 4)",
    )
    nodes: Literal["few", "many", "published"] = nodes_option("many")
    maps: Literal["dropped", "kept"] = option(
        "dropped",
        "whether attributions are stored",
        before="dropped",
        dropped="no, only their numbers",
        kept="yes, as arrays",
    )


class Diffusion(Experiment):
    """LAM of one window in each image.

    Columns (n): `di`, the diffusion index (0 to 100); `gini`, the Gini coefficient; `area`, the
    area of contribution (LR pixels); `psnr` of the window (dB). With maps="kept" also `passes`, the
    number of network passes, and the array `attribution` (n,3,h,w).
    """

    name = "diffusion"
    title = "How widely does each network look?"
    paper = "the LAM paper (CVPR 2021), Figs 4, 8"
    question = (
        "The diffusion index tells from how many input pixels a network restores a window. Which "
        "network uses the most pixels, and does PSNR rise with the number of pixels used?"
    )
    method = (
        "In each image one window is attributed to the input pixels (LAM). The diffusion index is "
        "(1 - Gini coefficient of the map) * 100. The area of contribution is the smallest number "
        "of LR pixels that contain 95 % of the map. PSNR is that of the window. All networks are "
        "measured on the same windows."
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
        self.listed: list[tuple[str, Box]] = []  # image name and window, from a file
        if o.windows.lower().endswith(".csv"):
            path = Path(o.windows)
            self.listed = read_windows(path, f"{self.name}.windows")
            # The windows identify the run, the path of their file does not.
            digest = hashlib.sha256(repr([(n, *box) for n, box in self.listed]).encode())
            self.options = replace(
                o, windows=f"{printable(path.name)} (SHA-256 {digest.hexdigest()[:16]})"
            )

    def check_study(self, study: Study) -> None:
        """Check the options; with images="each" also every image's size and window.

        Raises InvalidArgument naming `size` or `window` for sizes that do not fit the LR grid,
        `windows` for unknown words and for files that do not match the images, and `size` for
        images that are smaller.
        """
        super().check_study(study)
        o, argument = self.options, f"{self.name}.windows"
        check_sizes(self.name, o, study.scale)
        if not self.listed and o.windows not in (CENTRE, HARD):
            raise InvalidArgument(argument, repr(o.windows), f"{CENTRE}, {HARD} or FILE.csv")
        if o.windows == HARD and study.scale != 4:
            expected = f"'centre': the reference networks have scale 4, this study {study.scale}"
            raise InvalidArgument(argument, repr(HARD), expected)
        if o.images == "each":
            self.check_each_image(study)
        elif self.listed:
            expected = f"{CENTRE} or {HARD}; a file needs {self.name}.images=each"
            raise InvalidArgument(argument, repr(o.windows), expected)

    def check_each_image(self, study: Study) -> None:
        """Check size and window of every image, see `check_study`; no image is decoded."""
        images, side = study.images, self.options.size
        small = [item.key for item in images.items if min(item.size()) < side]
        if small:
            least = min(min(images[key].size()) for key in small)
            expected = (
                f"at most {least}, as images of {images.name} are smaller: {shortened(small)}"
            )
            raise InvalidArgument(f"{self.name}.size", side, expected)
        for key, window in self.listed_windows(study).items():
            self.square(window, study, key)

    def listed_windows(self, study: Study) -> dict[str, Box]:
        """The file's window for each image, by key, in HR pixels; empty without a file."""
        if not self.listed:
            return {}
        return one_window_each(self.listed, study.images, f"{self.name}.windows")

    def plan(self, study: Study) -> list[Item]:
        """Squares as items; the box of an item's partner is its window."""
        self.check_study(study)
        o = self.options
        choose = self.hard_windows(study) if o.windows == HARD else middle(o, study)
        if o.images == "each":
            found = self.plan_each_image(study, choose)
        else:
            found = draw_windows(self.name, o, study, choose)
        return [with_window(item, window) for item, window in found]

    def plan_each_image(self, study: Study, choose: Chooser) -> list[tuple[Item, Box]]:
        """For every image the square around its window, and the window in HR pixels of the square.

        The window is read from the file, or chosen in the central square. Images whose window has
        no detail, or in which the reference networks do not differ, are left out. Raises DataError
        if no image is left.
        """
        listed, found = self.listed_windows(study), []
        side, scale = self.options.size, study.scale
        for image in study.images.items:
            key = image.key
            window: Box | None = listed.get(key)
            if window is None:
                low = (v // scale for v in image.size())
                central = centre(side // scale, *low).refine(scale)
                inside = choose(square_item(study, key, central))
                window = None if inside is None else inside.moved(*central[:2])
            if window is None:
                continue
            square = self.square(window, study, key)
            item, inside = square_item(study, key, square), window.moved(-square.y0, -square.x0)
            if with_detail(item, inside, study):
                found.append((item, inside))
        if not found:
            name = study.images.name
            raise DataError(f"{self.name}: no window of {name} has detail; expected at least one")
        return found

    def square(self, window: Box, study: Study, key: str) -> Box:
        """The square of `size` HR pixels around the window, on the LR grid; both in HR pixels.

        Raises InvalidArgument for a window that leaves the image, or that no such square contains.
        """
        side, scale, argument = self.options.size, study.scale, f"{self.name}.windows"
        height, width = (v // scale for v in study.images[key].size())
        if window.y1 > height * scale or window.x1 > width * scale:
            expected = f"a window inside its {height * scale}x{width * scale} HR pixels"
            raise InvalidArgument(argument, f"{window.text()} in {key}", expected)
        square = window.coarsen(scale).around(side // scale, height, width).refine(scale)
        if (square.y1 - square.y0, square.x1 - square.x0) != (side, side):
            expected = (
                f"one that fits into {side // scale}x{side // scale} LR pixels, {self.name}.size"
            )
            raise InvalidArgument(argument, f"{window.text()} in {key}", expected)
        return square

    def hard_windows(self, study: Study) -> Chooser:
        """Chooses windows as `hard_window` does, by the errors of the networks in REFERENCES."""
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
        """One row for each item; see the class for the columns."""
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
        """The HR image and its map."""
        hr, lr, window = self.inputs(item, study)
        map_ = self.attribute(net, lr, window, study).map[0].cpu().numpy()
        return {"hr": as_image(hr[0]), "map": heat(map_, study.scale)}


def square_item(study: Study, key: str, square: Box) -> Item:
    """The box `square` of the image `key` as an item."""
    name = f"{key}@{square.y0},{square.x0}"
    return Item(name, study.images.source(key), square, image=key)


def with_window(item: Item, window: Box) -> Item:
    """`item` with a partner whose box is `window` (HR pixels, relative to the item's box)."""
    y0, x0 = item.box[:2]
    place = Item(f"{item.key} window", item.source, window.moved(y0, x0), image=item.image)
    return replace(item, partners=(place,))


def hard_window(
    error: Tensor, difference: Tensor, size: int, step: int, generator: np.random.Generator
) -> Box | None:
    """Draws a window whose error is above the median, with probability proportional to difference.

    `error`: squared error of both networks at each pixel (1,h,w); `difference`: absolute difference
    between them (1,h,w). Windows of `size` pixels lie at multiples of `step`. None if the networks
    do not differ.
    """
    mean_error, mean_difference = (avg_pool2d(m, size, step)[0] for m in (error, difference))
    weight = torch.where(mean_error > mean_error.median(), mean_difference, 0.0)
    weights: NDArray[np.float64] = weight.double().cpu().numpy()
    if not weights.sum() > 0:
        return None
    place = generator.choice(weights.size, p=(weights / weights.sum()).ravel())
    y, x = (step * int(i) for i in np.unravel_index(place, weights.shape))
    return Box(y, x, y + size, x + size)
