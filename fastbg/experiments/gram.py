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
from fastbg.measures.likeness import PAPER, SIMILARITIES, Descriptions
from fastbg.models.network import Network


@dataclass(frozen=True)
class GramOptions(Options):
    """The composites and their PSNR are those of `swap`, with its options."""

    clear: float = option(
        0.3, "C8: a rank correlation beyond this would be a clear one", low=0, high=1
    )


class Gram(Experiment):
    """Distances by several similarity measures, compared with the PSNR that `swap` measured."""

    name = "gram"
    title = "Can likeness to the background predict how well a foreground is restored?"
    paper = "Section 6.1"
    question = (
        "If backgrounds that look like the foreground help, a measure of likeness should tell "
        "beforehand which ones do. The paper finds that Gram matrices do not, and leaves it open."
    )
    method = (
        "On the composites of the experiment swap, foreign backgrounds only: the rank correlation "
        "between a measure's likeness (less distance is more likeness) and PSNR, +1 if the more "
        "alike background is always the better. Within foregrounds: taken over the backgrounds of "
        "each, then averaged. Across: over all composites at once, where it also matters that some "
        "foregrounds are hard in any background."
    )
    options_type: ClassVar[type[Options]] = GramOptions
    cost: ClassVar[float] = 1
    uses = Swap
    chunk: ClassVar[int] = 1
    curves = tuple(SIMILARITIES)
    added = tuple(name for name in SIMILARITIES if name != PAPER)

    @cached_property
    def descriptions(self) -> Descriptions:
        """Each source's descriptions, kept for all of its pairs."""
        return Descriptions(SIMILARITIES)

    def plan(self, study: Study) -> list[Item]:
        """The groups of `swap`."""
        planned: list[Item] = self.base.plan(study)
        return planned

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """Distance (n,K) of each foreground to its backgrounds, own first, for each measure."""
        rows = [
            texture_distances(
                self.descriptions, net, item, sources(item, study), study, self.base.options
            )
            for item in items
        ]
        return {name: torch.stack([row[name] for row in rows]) for name in self.curves}

    def readings(self, items: Sequence[Item], study: Study) -> list[Reading]:
        """Each group's sub-images."""
        return source_readings(items, study)

    def work(self, items: Sequence[Item], study: Study) -> Work:
        """No passes of the network; each image passes one layer of VGG16."""
        return Work(forwards=0)
