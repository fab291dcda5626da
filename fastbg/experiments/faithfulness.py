"""Deletion and insertion curves of several explanations: which ranks pixels best?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastbg.attribution import (
    CausalEffectMap,
    GaussianBlurPath,
    GaussianLinearPath,
    GradientDetector,
    Occlusion,
)
from fastbg.attribution.diffusion import attribution_map
from fastbg.attribution.faithfulness import NEAREST, RANDOM, SHUFFLED, faithfulness
from fastbg.attribution.gradient import window_gradient
from fastbg.attribution.local import PUBLISHED, LocalAttribution
from fastbg.attribution.paths import Path
from fastbg.attribution.picture import heat
from fastbg.errors import InvalidArgument
from fastbg.experiments.experiment import Experiment, Measured, Picture, Work
from fastbg.experiments.options import Options, option
from fastbg.experiments.study import Item, Study, as_image
from fastbg.experiments.windows import check_sizes, draw_windows, middle
from fastbg.filters.dtypes import as_float
from fastbg.geometry import Box, centre
from fastbg.models.network import Network

CONTROLS = ("random", "nearest")
KINDS = ("deletion", "insertion")
FIRST = "lam,lam_abs,straight,gradient,gradient_step"
ALL = "all"
NEVER = 1e6  # dB; as tolerance of the effects: no block gets further replacements


@dataclass(frozen=True)
class FaithfulnessOptions(Options):
    """Sizes in HR pixels."""

    count: int = option(24, "images", low=1)
    size: int = option(192, "side of an image, HR pixels", low=1)
    window: int = option(16, "side of the central window that is explained, HR pixels", low=1)
    points: int = option(9, "points of a curve, from 4 to 1,600 replaced LR pixels", low=2)
    explanations: str = option(
        f"{FIRST},gradient_input",
        "explanations, separated by commas; all: also effect and occlusion, which take many passes",
        before=FIRST,
        lam="|sum over channels| of LAM",
        lam_abs="LAM, sum of absolute values",
        straight="LAM on the straight path from the blurred image",
        gradient="gradient of LAM's objective in the window",
        gradient_step="gradient times (image minus blurred image)",
        gradient_input="gradient times the image",
        effect="causal effect of each block on the window's PSNR, of either sign",
        occlusion="change of the window when a box is covered by its mean colour",
    )
    block: int = option(
        2, "side of a block, LR pixels; a covered box has twice this side", low=1, before=2
    )
    replacements: int = option(
        3, "replacements of each block for its causal effect; published: 53", low=1, before=3
    )

    def chosen(self, owner: str) -> tuple[str, ...]:
        """Names of the explanations; InvalidArgument naming `owner`.explanations."""
        if self.explanations == ALL:
            return tuple(EXPLANATIONS)
        found = tuple(part.strip() for part in self.explanations.split(","))
        if len(set(found)) != len(found) or not set(found) <= set(EXPLANATIONS):
            expected = f"{ALL}, or different ones of {', '.join(EXPLANATIONS)}"
            raise InvalidArgument(f"{owner}.explanations", repr(self.explanations), expected)
        return found

    def check(self, owner: str) -> None:
        """Also check the explanations."""
        super().check(owner)
        self.chosen(owner)


class Faithfulness(Experiment):
    """Deletion and insertion curves of explanations and of their controls.

    Columns: `deletion_NAME` and `insertion_NAME` (n,K) for each of `names`, as
    `fastbg.FaithfulnessResult` has them, and its `counts` (n,K).
    """

    name = "faithfulness"
    title = "Which explanation finds the pixels that matter?"
    paper = "not in the paper"
    question = (
        "An attribution map tells which input pixels a network used for a window. If these pixels "
        "are blurred, does the window lose its structure faster than if others are blurred?"
    )
    method = (
        "Deletion: the LR pixels with the largest values are replaced by those of the blurred "
        "image, and the remaining structure of the window is measured. Insertion: these pixels are "
        "put into the blurred image, and the window's distance from that of the whole image is "
        "measured. The area of a curve is its mean over the logarithm of the number of pixels; "
        "small is good. Controls are pixels in random order, pixels ordered by distance to the "
        "window, and the same map shuffled among pixels of equal distance."
    )
    options_type: ClassVar[type[Options]] = FaithfulnessOptions
    cost: ClassVar[float] = 250
    chunk: ClassVar[int] = 1
    extra = True
    shown = ("lr", "maps")

    def __init__(
        self, options: Options | None = None, seed: int = 0, base: Experiment | None = None
    ) -> None:
        super().__init__(options, seed, base)
        self.maps: tuple[str, ...] = self.options.chosen(self.name)
        self.names = (*self.maps, *CONTROLS, *(f"shuffled_{name}" for name in self.maps))
        self.curves = ("counts", *(f"{kind}_{name}" for kind in KINDS for name in self.names))

    def plan(self, study: Study) -> list[Item]:
        """Sub-images drawn by the seed from each photograph in turn, with detail in the window."""
        o = self.options
        o.check(self.name)
        check_sizes(self.name, o, study.scale)
        if 2 * o.block * study.scale > o.size:
            expected = f"at most {o.size // study.scale // 2}, as covered boxes have twice the side"
            raise InvalidArgument(f"{self.name}.block", o.block, expected)
        found = draw_windows(self.name, o, study, middle(o, study))
        return [item for item, _ in found]

    @property
    def box(self) -> Box:
        """The window, in HR pixels of a sub-image."""
        return centre(self.options.window, self.options.size, self.options.size)

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """Curves (n,K) of every map and control."""
        explained = self.explained(net, items, study)
        found = faithfulness(
            net,
            explained.maps(self.maps),
            explained.lr,
            self.window,
            objective=explained.objective,
            path=explained.blur,
            counts=self.options.points,
            draws=1,
            seed=self.seed,
        )
        keys = {name: name for name in self.maps} | {"random": RANDOM, "nearest": NEAREST}
        keys |= {f"shuffled_{name}": SHUFFLED.format(name) for name in self.maps}
        columns = {"counts": found.counts.double().expand(len(items), -1)}
        for kind, curves in (("deletion", found.deletion), ("insertion", found.insertion)):
            columns |= {f"{kind}_{name}": curves[key] for name, key in keys.items()}
        return columns

    @property
    def window(self) -> tuple[int, int, int]:
        """The window as y, x, size."""
        return self.box.y0, self.box.x0, self.options.window

    def explained(self, net: Network, items: Sequence[Item], study: Study) -> "Explained":
        """The windows of `items`, to be explained."""
        hr, o = study.ground_truth(items), self.options
        lr = study.inputs(items, hr, o.lr, o.kernel)
        return Explained(net, lr, hr, self.window, study.backend, o, self.seed)

    def work(self, items: Sequence[Item], study: Study) -> Work:
        """Both curves for every ranking of the pixels, and the maps."""
        o = self.options
        curves = 2 * o.points * len(self.names)
        maps = sum(passes(name, o, study.scale) for name in self.maps)
        return Work(forwards=(curves + maps) * len(items))

    def cases(self, measured: Measured) -> list[int]:
        """Where the first map, LAM, gains most over "nearest first", and where least."""
        near, first = (area(measured, "insertion", name) for name in ("nearest", self.maps[0]))
        gain = near - first
        return list(dict.fromkeys([int(np.argmax(gain)), int(np.argmin(gain))]))

    def exhibit(self, net: Network, item: Item, study: Study) -> dict[str, Picture]:
        """The input, and each map side by side."""
        explained = self.explained(net, [item], study)
        maps = explained.maps(self.maps).values()
        pictures = [heat((m[0] / m.max()).float().cpu().numpy(), study.scale) for m in maps]
        return {"lr": as_image(explained.lr[0]), "maps": np.hstack(pictures)}


@dataclass
class Explained:
    """Explanations of a window of each image, as maps (B,h,w) of values >= 0.

    Attributes:
        lr, hr: (B,3,h,w) in [0,1], and (B,3,s*h,s*w) uint8.
        window: y, x, size in HR pixels.
        backend: of fastbg's operators.
        options, seed: used for the causal effects and the occlusion.
    """

    net: Network
    lr: Tensor
    hr: Tensor
    window: tuple[int, int, int]
    backend: str
    options: FaithfulnessOptions
    seed: int = 0

    def maps(self, names: Sequence[str]) -> dict[str, Tensor]:
        """The maps (B,h,w) with these names."""
        return {name: EXPLANATIONS[name](self) for name in names}

    @cached_property
    def objective(self) -> GradientDetector:
        """LAM's objective: structure in the window."""
        return GradientDetector(self.backend)

    @cached_property
    def blur(self) -> GaussianBlurPath:
        """LAM's path, whose baseline is the blurred image."""
        return GaussianBlurPath(backend=self.backend)

    @cached_property
    def gradient(self) -> Tensor:
        """Gradient (B,3,h,w) of the objective at the image."""
        return window_gradient(self.net, self.lr, self.window, self.objective)

    @cached_property
    def along_blur(self) -> Tensor:
        """LAM (B,3,h,w)."""
        return self.integrated(self.blur)

    def integrated(self, path: Path) -> Tensor:
        """Gradients integrated along a path: (B,3,h,w)."""
        lam = LocalAttribution(self.net, path, self.objective)
        return lam.attribute(self.lr, self.window, accuracy="published").attribution

    def straight(self) -> Tensor:
        """|sum over channels| of integrated gradients on the straight path."""
        return attribution_map(self.integrated(GaussianLinearPath(backend=self.backend)))

    def gradient_step(self) -> Tensor:
        """|gradient x (image - blurred image)|."""
        step = self.lr.float() - self.blur.nodes(self.lr, np.zeros(1))[:, 0].float()
        return attribution_map(self.gradient * step)

    def effect(self) -> Tensor:
        """|mean effect| (B,h,w) of each pixel's block on the window's PSNR, dB; own blocks too."""
        effects = CausalEffectMap(
            self.net,
            block=self.options.block,
            coarse=self.options.replacements,
            fine=1,
            tolerance=NEVER,
            seed=self.seed,
            include_window=True,
        ).effect(self.lr, self.window, as_float(self.hr))
        blocks = effects.mean_effect.abs().numpy()
        return torch.from_numpy(effects.grid.on_pixels(blocks))

    def occlusion(self) -> Tensor:
        """RMS change (B,h,w) of the window, grey levels, when boxes over the pixel are covered."""
        side, step = 2 * self.options.block, self.options.block
        return Occlusion(self.net).occlude(self.lr, self.window, side, step).map


EXPLANATIONS: dict[str, Callable[[Explained], Tensor]] = {
    "lam": lambda e: attribution_map(e.along_blur),
    "lam_abs": lambda e: e.along_blur.abs().sum(1),
    "straight": Explained.straight,
    "gradient": lambda e: attribution_map(e.gradient),
    "gradient_step": Explained.gradient_step,
    "gradient_input": lambda e: attribution_map(e.gradient * e.lr.float()),
    "effect": Explained.effect,
    "occlusion": Explained.occlusion,
}


def passes(name: str, options: FaithfulnessOptions, scale: int) -> int:
    """Largest number of network passes, forward and backward, that the map `name` takes."""
    side = options.size // scale
    if name == "effect":
        return 1 + options.replacements * (-(-side // options.block)) ** 2
    if name == "occlusion":
        return 1 + (1 + -(-(side - 2 * options.block) // options.block)) ** 2
    return 2 if name.startswith("gradient") else 2 * PUBLISHED[1]


def area(result: Measured, kind: str, name: str) -> NDArray[np.float64]:
    """Mean of a curve over the logarithm of the number of pixels (n)."""
    found: NDArray[np.float64] = result.columns[f"{kind}_{name}"].mean(axis=1)
    return found
