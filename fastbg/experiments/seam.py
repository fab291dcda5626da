"""Our experiment, after section 6.1: how much of a foreign background's cost is its seam?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fastbg.experiments.experiment import Experiment, Measured, Picture, Work
from fastbg.experiments.groups import (
    GroupOptions,
    by_set,
    first_in_each,
    plan_groups,
    source_readings,
    sources,
)
from fastbg.experiments.options import option
from fastbg.experiments.reading import Reading
from fastbg.experiments.study import Item, Study, as_image, restore
from fastbg.filters.dtypes import as_float
from fastbg.geometry import Box, centre
from fastbg.measures.groups import means_by
from fastbg.measures.quality import psnr
from fastbg.models.network import Network
from fastbg.ops.composite import composite, composite_lr

TAUS = (2, 4, 8, 16)  # decay lengths of bridges, HR pixels
CONTROL_TAU = 4  # of the bridge to another foreground's rim
VIEW = 3  # side of a picture divided by that of the foreground

BRIDGED = {f"bridged_{tau}": tau for tau in TAUS}
WAYS = ("hard", "mean", *BRIDGED, "elsewhere")


@dataclass(frozen=True)
class SeamOptions(GroupOptions):
    """Groups as for `swap`, but fewer backgrounds, as each is measured in seven ways."""

    sources: int = 24
    groups: int = 24
    backgrounds: int = 12
    most: float = option(
        0.5, "C11: bridging removes more than this share of the loss", low=0, high=1
    )


class Seam(Experiment):
    """PSNR of the foreground in foreign backgrounds: hard seam, shifted colours, bridged seam."""

    name = "seam"
    title = "Does a foreign background cost what it shows, or its seam?"
    paper = "not in the paper"
    question = (
        "Cutting a foreground out and pasting it elsewhere leaves a jump of colour along its rim. "
        "How much of the loss by a foreign background remains without that jump?"
    )
    method = (
        "Each foreground is restored in its own background and in foreign ones, composed in HR in "
        "several ways. Hard: cut and pasted. Shifted: the background is shifted to the "
        "foreground's mean colour. Bridged: beside the rim the background has the colours of the "
        "foreground's border, and returns to its own with a decay length of 2, 4, 8 or 16 HR "
        "pixels. As a control it is bridged to the rim of another foreground (4 pixels), so that "
        "the jump remains. The foreground's pixels never change, and PSNR is measured on them only."
    )
    options_type: ClassVar[type[GroupOptions]] = SeamOptions
    cost: ClassVar[float] = 7.0
    chunk: ClassVar[int] = 1  # a foreground in all of its backgrounds
    curves = (*WAYS, "excess")
    shown = tuple(f"composite_{way}" for way in ("own", "hard", "mean", *BRIDGED))

    def plan(self, study: Study) -> list[Item]:
        """Groups of both sets, drawn by the seed."""
        return plan_groups(study, self.options, self.name)

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """For each way PSNR (n,K), dB, of the foreground in its backgrounds, own background first.

        "excess" (n,D): mean squared error (grey levels squared) at distance d from the rim with a
        hard seam minus that in the own background; mean over the foreign backgrounds.
        """
        rows = [self.compare(net, item, study) for item in items]
        return {name: torch.stack([row[name] for row in rows]) for name in self.curves}

    def readings(self, items: Sequence[Item], study: Study) -> list[Reading]:
        """Each group's sub-images."""
        return source_readings(items, study, self.options.lr)

    def work(self, items: Sequence[Item], study: Study) -> Work:
        """Each foreground in its own and its foreign backgrounds, in every way."""
        count = len(WAYS) * sum(1 + len(item.partners) for item in items)
        return Work(forwards=count, composites=count)

    def compare(self, net: Network, item: Item, study: Study) -> dict[str, Tensor]:
        """Columns of one foreground in all its backgrounds."""
        o, hr = self.options, sources(item, study)
        y0, x0, y1, x1 = window = centre(o.region, o.size, o.size)
        truth = as_float(hr[:1, :, y0:y1, x0:x1])
        levels = self.levels(item, hr, study)
        found = {}
        for way in WAYS:
            sr = restore(net, self.inputs(levels, way, study), window)
            found[way] = psnr(sr, truth.expand_as(sr), channel=o.channel)
            if way == "hard":
                error = ((sr.float().clamp(0, 1) - truth) * 255).square().mean(1)  # [K,r,r]
                found["excess"] = by_distance(error[1:].mean(0) - error[0])
        return found

    def levels(self, item: Item, hr: Tensor, study: Study) -> Tensor:
        """The images to compose, in [0,1]: `hr` (K,3,S,S) uint8 as floats, or their LR images."""
        if self.options.domain == "hr":
            return as_float(hr)
        return study.inputs((item, *item.partners), hr, self.options.lr, self.options.kernel)

    def inputs(self, levels: Tensor, way: str, study: Study) -> Tensor:
        """LR composites (K,3,S/s,S/s) of the foreground of `levels[0]` in every background."""
        if self.options.domain == "lr":
            return self.composed(levels, way, study, study.scale)
        backgrounds, seam = self.backgrounds(levels, way, study, 1)
        return composite_lr(
            levels[:1],
            backgrounds,
            first_in_each(levels),
            self.box(1),
            scale=study.scale,
            kernel=self.options.kernel,
            quantize=True,
            seam=seam,
            backend=study.backend,
        ).to(study.dtype)

    def composed(self, levels: Tensor, way: str, study: Study, scale: int = 1) -> Tensor:
        """Composites (K,3,h,w) of `levels`, whose pixels are `scale` HR pixels wide."""
        backgrounds, seam = self.backgrounds(levels, way, study, scale)
        pairs, box = first_in_each(levels), self.box(scale)
        return composite(levels[:1], backgrounds, pairs, box, seam=seam, backend=study.backend)

    def backgrounds(
        self, levels: Tensor, way: str, study: Study, scale: int
    ) -> tuple[Tensor, str | float]:
        """Backgrounds (K,3,h,w) and seam for a way of composing."""
        if way == "mean":
            return shifted(levels, self.box(scale)), "hard"
        if way == "elsewhere":
            each = torch.arange(len(levels), device=levels.device)
            other = each.roll(-1)  # bridge each foreign background to the centre of the next
            other[-1], other[0] = min(1, len(levels) - 1), 0
            pairs, tau = torch.stack([other, each], dim=1), CONTROL_TAU / scale
            box = self.box(scale)
            return composite(levels, levels, pairs, box, seam=tau, backend=study.backend), "hard"
        return levels, BRIDGED[way] / scale if way in BRIDGED else "hard"

    def box(self, scale: int) -> Box:
        """Box of the foreground, in pixels that are `scale` HR pixels wide."""
        return centre(self.options.region, self.options.size, self.options.size).coarsen(scale)

    def cases(self, measured: Measured) -> list[int]:
        """In each set: the case where foreign backgrounds cost most, then a median case."""
        hard = measured.columns["hard"]
        loss = (hard[:, :1] - hard[:, 1:]).mean(axis=1)
        chosen: list[int] = []
        for rows in by_set(measured).values():
            order = rows[np.argsort(-loss[rows], kind="stable")]
            chosen += dict.fromkeys([int(order[0]), int(order[order.size // 2])])
        return chosen

    def exhibit(self, net: Network, item: Item, study: Study) -> dict[str, Picture]:
        """HR composites: own background, then the foreign one that costs most, by each way."""
        o, hr = self.options, sources(item, study)
        levels = as_float(hr)
        y0, x0, y1, x1 = centre(o.region, o.size, o.size)
        truth = levels[:1, :, y0:y1, x0:x1]
        inputs = self.inputs(self.levels(item, hr, study), "hard", study)
        sr = restore(net, inputs, (y0, x0, y1, x1))
        worst = 1 + int(psnr(sr, truth.expand_as(sr), channel=o.channel)[1:].argmin())
        pair = levels[[0, worst]]
        images = {"composite_own": levels[0]}
        for name in self.shown[1:]:
            images[name] = self.composed(pair, name.removeprefix("composite_"), study)[1]
        top, left, bottom, right = centre(min(o.size, VIEW * o.region), o.size, o.size)
        return {name: as_image(image[:, top:bottom, left:right]) for name, image in images.items()}


def shifted(levels: Tensor, box: Box) -> Tensor:
    """`levels` (K,3,h,w), shifted so that all surroundings have the first foreground's mean colour.

    `box`: the foreground. Clipped to [0,1].
    """
    inside = levels.new_zeros(levels.shape[-2:])
    inside[box.y0 : box.y1, box.x0 : box.x1] = 1
    foreground = (levels[:1] * inside).sum((-2, -1), keepdim=True) / inside.sum()
    outside = 1 - inside
    surroundings = (levels * outside).sum((-2, -1), keepdim=True) / outside.sum()
    return (levels + foreground - surroundings).clamp(0, 1)


def by_distance(values: Tensor) -> Tensor:
    """Mean of `values` (n,n) at each distance from the border: ((n + 1) // 2), border first."""
    n = len(values)
    along = torch.arange(n, device=values.device)
    along = torch.minimum(along, n - 1 - along)
    return means_by(values[None], torch.minimum(along[:, None], along), (n + 1) // 2)[0]
