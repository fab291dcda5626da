"""Section 4.3, Figs 4 and 5: in which backgrounds is a foreground restored best?"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fastbg.experiments.experiment import Experiment, Measured, Work, decibels
from fastbg.experiments.groups import (
    GroupOptions,
    Groups,
    by_set,
    compose,
    group_distances,
    group_readings,
    plan_groups,
    read_groups,
    together,
)
from fastbg.experiments.options import Options, option
from fastbg.experiments.reading import Reading
from fastbg.experiments.seams import Seam, SeamedOptions, column, select_seam
from fastbg.experiments.study import Item, Study, as_pixels, restore
from fastbg.filters.dtypes import as_float
from fastbg.geometry import centre
from fastbg.measures.descriptions import Descriptions
from fastbg.measures.likeness import PAPER, SIMILARITIES
from fastbg.measures.quality import psnr
from fastbg.models.network import Network

ENDS = 5  # best and worst foreign backgrounds that are compared and shown
VIEW = 3  # side of a picture divided by that of the foreground


@dataclass(frozen=True)
class SwapOptions(SeamedOptions, GroupOptions):
    """Fewer groups than in the paper (groups=100, backgrounds=100), to take only a minute."""

    # Few enough that all foregrounds from the built-in sets come from different images.
    sources: int = 24
    groups: int = 24
    backgrounds: int = 20
    most: float = option(
        0.5, "C3: a larger share of the foregrounds is best in its own background", low=0, high=1
    )


class Swap(Experiment):
    """PSNR of the foreground in its own and in foreign backgrounds, and their texture distance."""

    name = "swap"
    title = "Which backgrounds is a foreground restored best in?"
    paper = "Section 4.3, Figs 4 and 5"
    question = (
        "The centre of an image, the foreground, is put into many backgrounds. Is it restored best "
        "in its own background, and do similar backgrounds help? Is this the same when the jump of "
        "colour along the seam is bridged?"
    )
    method = (
        "Each foreground is restored in its own background and in foreign ones, and PSNR is "
        "measured on the foreground only. The similarity of two regions is the distance of their "
        "Gram matrices of VGG16's first features: the smaller, the more similar. All is repeated "
        "for each seam of the option seam: cut and pasted, or the background bridged to the "
        "foreground's rim."
    )
    options_type: ClassVar[type[GroupOptions]] = SwapOptions
    cost: ClassVar[float] = 2.0
    chunk: ClassVar[int] = 1  # a foreground in all of its backgrounds
    shown = (
        "truth",
        "own",
        *(f"{end}_{k}" for end in ("best", "worst") for k in range(ENDS)),
    )

    def __init__(
        self, options: Options | None = None, seed: int = 0, base: Experiment | None = None
    ) -> None:
        super().__init__(options, seed, base)
        self.seams: tuple[Seam, ...] = self.options.seams(self.name)
        self.curves = (*(column("psnr", seam) for seam in self.seams), "distance")

    def plan(self, study: Study) -> list[Item]:
        """Groups of both sets, drawn by the seed."""
        return plan_groups(study, self.options, self.name)

    @cached_property
    def descriptions(self) -> Descriptions:
        """The cache of Gram matrices, so that each source is described once."""
        return Descriptions({PAPER: SIMILARITIES[PAPER]})

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """PSNR (n,K), dB, of each foreground in its backgrounds, own first; texture distance (n,K).

        The image with its own background is the same for every seam.
        """
        o, groups = self.options, read_groups(items, study)
        columns = {}
        for seam in self.seams:  # network passes first, so that the device has work at once
            score = self.compare(net, groups, compose(groups, study, o, seam))
            columns[column("psnr", seam)] = torch.stack(score.split([*groups.sizes]))
        distances = group_distances(self.descriptions, net, groups, study, o)
        columns["distance"] = torch.stack([found[PAPER] for found in distances])
        return {name: columns[name] for name in self.curves}

    def readings(self, items: Sequence[Item], study: Study) -> list[Reading]:
        """The sub-images of all groups, each once."""
        return group_readings(items, study, self.options.lr)

    def together(self, items: Sequence[Item], study: Study) -> int:
        """As many groups as one pass of the network takes."""
        return together(study, self.options, max(1 + len(item.partners) for item in items))

    def work(self, items: Sequence[Item], study: Study) -> Work:
        """Each foreground in its own and its foreign backgrounds."""
        count = len(self.seams) * sum(1 + len(item.partners) for item in items)
        return Work(forwards=count, composites=count)

    def compare(self, net: Network, groups: Groups, lr: Tensor) -> Tensor:
        """PSNR (N), dB, of the foreground in each composite `lr`; nothing leaves the device."""
        o = self.options
        y0, x0, y1, x1 = window = centre(o.region, o.size, o.size)
        truth = as_float(groups.foregrounds(groups.images)[..., y0:y1, x0:x1])
        sr = restore(net, lr, window)
        return psnr(sr, groups.repeated(truth), channel=o.channel)

    def view(self, measured: Measured, seam: Seam) -> Measured:
        """The records of one seam, with the seam left out of the column names."""
        return select_seam(measured, seam, shared=lambda name: name != "psnr")

    def cases(self, measured: Measured) -> list[int]:
        """In each set: the case where the background matters most, then a median case."""
        foreign = decibels(self.view(measured, self.seams[0]), "psnr")[:, 1:]
        spread = foreign.max(axis=1) - foreign.min(axis=1)
        chosen: list[int] = []
        for rows in by_set(measured).values():
            order = rows[np.argsort(-spread[rows], kind="stable")]
            chosen += dict.fromkeys([int(order[0]), int(order[order.size // 2])])
        return chosen

    def exhibit(self, net: Network, item: Item, study: Study) -> dict[str, Tensor]:
        """The restored foreground with surroundings: own, best and worst foreign backgrounds."""
        o = self.options
        groups = read_groups([item], study)
        lr = compose(groups, study, o, self.seams[0])
        order = 1 + self.compare(net, groups, lr)[1:].argsort(descending=True)  # on the device
        best, worst = order[:ENDS], order.flip(0)[:ENDS]
        y0, x0, y1, x1 = centre(min(o.size, VIEW * o.region), o.size, o.size)
        names = ["truth", "own", *(f"best_{k}" for k in range(len(best)))]
        names += [f"worst_{k}" for k in range(len(worst))]
        sr = restore(net, lr.index_select(0, torch.cat([order.new_zeros(1), best, worst])))
        parts = (as_pixels(images[..., y0:y1, x0:x1]) for images in (groups.images[:1], sr))
        return dict(zip(names, torch.cat([*parts]).unbind(), strict=True))
