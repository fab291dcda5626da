"""Which explanation finds the pixels that matter? Deletion and insertion curves of several."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastbg.attribution import GaussianBlurPath, GaussianLinearPath, GradientDetector
from fastbg.attribution.diffusion import attribution_map
from fastbg.attribution.faithfulness import NEAREST, RANDOM, SHUFFLED, faithfulness
from fastbg.attribution.gradient import window_gradient
from fastbg.attribution.local import LocalAttribution
from fastbg.attribution.paths import Path
from fastbg.attribution.picture import heat
from fastbg.experiments.experiment import Experiment, Measured, Picture, Work
from fastbg.experiments.options import Options, option
from fastbg.experiments.study import Item, Study, as_image
from fastbg.experiments.windows import check_sizes, draw_windows, middle
from fastbg.geometry import Box, centre
from fastbg.models.network import Network

MAPS = ("lam", "lam_abs", "straight", "gradient", "gradient_step")
CONTROLS = ("random", "nearest")
NAMES = (*MAPS, *CONTROLS, *(f"shuffled_{name}" for name in MAPS))
KINDS = ("deletion", "insertion")


@dataclass(frozen=True)
class FaithfulnessOptions(Options):
    """Sizes in HR pixels."""

    count: int = option(24, "images", low=1)
    size: int = option(192, "side of an image, HR pixels", low=1)
    window: int = option(16, "side of the central window that is explained, HR pixels", low=1)
    points: int = option(9, "numbers of LR pixels that are replaced, from 4 to 1,600", low=2)


class Faithfulness(Experiment):
    """Deletion and insertion curves of explanations and of their controls.

    Columns: `deletion_NAME` and `insertion_NAME` (n,K) for each of `NAMES`, and `counts` (n,K), as
    in `fastbg.FaithfulnessResult`.
    """

    name = "faithfulness"
    title = "Which explanation finds the pixels that matter?"
    paper = "not in the paper"
    question = (
        "An attribution map says which input pixels made a window. If they are replaced by blurred "
        "ones, is the window's structure gone, sooner than with any other choice?"
    )
    method = (
        "Deletion: the LR pixels of the largest value are replaced by the blurred image's; what is "
        "left of the window's structure is taken. Insertion: they are put into the blurred "
        "image, and the window's distance to that of the whole image is taken. The area of a curve "
        "is its mean over the logarithm of the number of pixels; small is good. Beside each map "
        "stand pixels at random, the nearest to the window first, and the same map shuffled among "
        "pixels of equal distance."
    )
    options_type: ClassVar[type[Options]] = FaithfulnessOptions
    cost: ClassVar[float] = 250
    chunk: ClassVar[int] = 1
    extra = True
    curves = ("counts", *(f"{kind}_{name}" for kind in KINDS for name in NAMES))
    shown = ("lr", "maps")

    def plan(self, study: Study) -> list[Item]:
        """Sub-images drawn by the seed from each photograph in turn, with detail in the window."""
        o = self.options
        o.check(self.name)
        check_sizes(self.name, o, study.scale)
        found = draw_windows(self.name, o, study, middle(o, study))
        return [item for item, _ in found]

    @property
    def box(self) -> Box:
        """The window, in HR pixels of a sub-image."""
        return centre(self.options.window, self.options.size, self.options.size)

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """Curves (n,K) of each map and control."""
        lr, window = self.inputs(items, study), self.window
        found = faithfulness(
            net,
            explanations(net, lr, window, study.backend),
            lr,
            window,
            objective=GradientDetector(study.backend),
            path=GaussianBlurPath(backend=study.backend),
            counts=self.options.points,
            draws=1,
            seed=self.seed,
        )
        keys = dict(zip(MAPS, MAPS, strict=True)) | {"random": RANDOM, "nearest": NEAREST}
        keys |= {f"shuffled_{name}": SHUFFLED.format(name) for name in MAPS}
        columns = {"counts": found.counts.double().expand(len(items), -1)}
        for kind, curves in (("deletion", found.deletion), ("insertion", found.insertion)):
            columns |= {f"{kind}_{name}": curves[key] for name, key in keys.items()}
        return columns

    @property
    def window(self) -> tuple[int, int, int]:
        """The window as y, x, size."""
        return self.box.y0, self.box.x0, self.options.window

    def inputs(self, items: Sequence[Item], study: Study) -> Tensor:
        """LR images (n,3,h,w) of `items`."""
        hr = study.ground_truth(items)
        return study.inputs(items, hr, self.options.lr, self.options.kernel)

    def work(self, items: Sequence[Item], study: Study) -> Work:
        """Passes for both curves of every order of the pixels, without those for the maps."""
        return Work(forwards=2 * self.options.points * len(NAMES) * len(items))

    def cases(self, measured: Measured) -> list[int]:
        """Where LAM beats "nearest first" most, and least."""
        gain = area(measured, "insertion", "nearest") - area(measured, "insertion", "lam")
        return list(dict.fromkeys([int(np.argmax(gain)), int(np.argmin(gain))]))

    def exhibit(self, net: Network, item: Item, study: Study) -> dict[str, Picture]:
        """The input, and each map side by side."""
        lr = self.inputs([item], study)
        maps = explanations(net, lr, self.window, study.backend).values()
        pictures = [heat((m[0] / m.max()).float().cpu().numpy(), study.scale) for m in maps]
        return {"lr": as_image(lr[0]), "maps": np.hstack(pictures)}


def explanations(
    net: Network, lr: Tensor, window: tuple[int, int, int], backend: str
) -> dict[str, Tensor]:
    """Explanations (B,h,w) of the window, by the names in `MAPS`.

    LAM as published, |sum over channels|; the same with the sum of absolute values; LAM on the
    straight path from the blurred image; the plain gradient; and the gradient times the difference
    between the image and the blurred image.
    """
    objective = GradientDetector(backend)

    def integrated(path: Path) -> Tensor:
        lam = LocalAttribution(net, path, objective)
        return lam.attribute(lr, window, accuracy="published").attribution

    blur = GaussianBlurPath(backend=backend)
    along_blur = integrated(blur)
    gradient = window_gradient(net, lr, window, objective)
    step = lr.float() - blur.nodes(lr, np.zeros(1))[:, 0].float()
    return {
        "lam": attribution_map(along_blur),
        "lam_abs": along_blur.abs().sum(1),
        "straight": attribution_map(integrated(GaussianLinearPath(backend=backend))),
        "gradient": attribution_map(gradient),
        "gradient_step": attribution_map(gradient * step),
    }


def area(result: Measured, kind: str, name: str) -> NDArray[np.float64]:
    """Mean of a curve over the logarithm of the number of pixels (n)."""
    found: NDArray[np.float64] = result.columns[f"{kind}_{name}"].mean(axis=1)
    return found
