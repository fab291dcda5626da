"""Section 6.1: does the Gram distance between foreground and background predict PSNR?"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from fastbg.experiments.experiment import Experiment, Work
from fastbg.experiments.groups import (
    source_readings,
    sources,
    texture_distances,
)
from fastbg.experiments.options import Options, option
from fastbg.experiments.reading import Reading
from fastbg.experiments.study import Item, Study
from fastbg.experiments.swap import Swap
from fastbg.measures.descriptions import Descriptions
from fastbg.measures.likeness import PAPER, SIMILARITIES
from fastbg.models.network import Network


@dataclass(frozen=True)
class GramOptions(Options):
    """Composites and PSNR are those of `swap`, with its options."""

    clear: float = option(0.3, "C8: a rank correlation above this counts as clear", low=0, high=1)


class Gram(Experiment):
    """Distances by several similarity measures, compared with the PSNR that `swap` measured."""

    name = "gram"
    title = "Can likeness to the background predict how well a foreground is restored?"
    paper = "Section 6.1"
    question = (
        "If backgrounds that look like the foreground help, a measure of likeness should predict "
        "which ones help. The paper finds that Gram matrices do not, and leaves the question open."
    )
    method = (
        "On the composites of the experiment swap with foreign backgrounds: the rank correlation "
        "of likeness (minus the distance) and PSNR, +1 if the more similar background is always "
        "better. Within foregrounds: computed over the backgrounds of each, then averaged. Across: "
        "over all composites at once, where the result also depends on foregrounds that are hard "
        "in any background."
    )
    options_type: ClassVar[type[Options]] = GramOptions
    cost: ClassVar[float] = 0.8
    uses = Swap
    chunk: ClassVar[int] = 1
    curves = tuple(SIMILARITIES)
    added = tuple(name for name in SIMILARITIES if name != PAPER)

    @cached_property
    def descriptions(self) -> tuple[Descriptions, Descriptions]:
        """Caches of descriptions: of the measures that ask the network, and of all others."""
        asking, others = (
            {name: each for name, each in SIMILARITIES.items() if each.any_net == shared}
            for shared in (False, True)
        )
        return Descriptions(asking), Descriptions(others)

    def plan(self, study: Study) -> list[Item]:
        """The groups of `swap`."""
        planned: list[Item] = self.base.plan(study)
        return planned

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """For each measure the distances (n,K) of foregrounds to their backgrounds, own first."""
        rows: list[dict[str, Tensor]] = []
        for item in items:
            hr = sources(item, study)
            rows.append(
                texture_distances(self.descriptions, net, item, hr, study, self.base.options)
            )
        return {name: torch.stack([row[name] for row in rows]) for name in self.curves}

    def readings(self, items: Sequence[Item], study: Study) -> list[Reading]:
        """Each group's sub-images."""
        return source_readings(items, study, "made")

    def work(self, items: Sequence[Item], study: Study) -> Work:
        """No passes of the network; one layer of VGG16 for each image."""
        return Work(forwards=0)
