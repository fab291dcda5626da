"""The base class of experiments: plan, measure, exhibit.

An experiment gets its images from a `Study`, and its results go into the run store. Conclusions are
drawn by the report of the same name in fastbg/reports.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastbg.experiments.options import Options
from fastbg.experiments.reading import Reading
from fastbg.experiments.study import Item, Study
from fastbg.models.network import Network

Picture: TypeAlias = NDArray[np.uint8]  # (h, w, 3)


@dataclasses.dataclass(frozen=True)
class NetLabel:
    """A network's name in the records."""

    label: str  # unique in a run: the built-in name, or the file's name and a digest of it
    architecture: str  # "edsr", "rcan", "swinir"; selects the paper's numbers for comparison


# The label of experiments that use no network.
NO_NETWORK = NetLabel("images", "none")


@dataclasses.dataclass(frozen=True)
class Measured:
    """All records of one network in one experiment, in plan order."""

    net: NetLabel
    items: Sequence[Item]
    columns: Mapping[str, NDArray[np.float64]]  # (n) or (n, K)
    pictures: Mapping[tuple[str, str], Picture] = dataclasses.field(default_factory=dict)

    @property
    def sources(self) -> list[str]:
        """The photograph of each item: the cluster in every interval."""
        return [item.source for item in self.items]


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of measuring some items, for `fastbg run --dry-run`."""

    forwards: int  # images that pass through the network
    composites: int = 0  # composites of two images


PERFECT = 100.0  # dB; replaces larger and infinite PSNRs, so that means stay finite


def decibels(result: Measured, column: str) -> NDArray[np.float64]:
    """A PSNR column (n), limited to `PERFECT` dB."""
    return np.minimum(result.columns[column], PERFECT)


class Experiment(ABC):
    """One table, figure or section of the paper, or a question of our own."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]  # section, table or figure of the paper, or "not in the paper"
    question: ClassVar[str]  # for readers who do not know the paper
    method: ClassVar[str]  # what is done, in a few sentences
    options_type: ClassVar[type[Options]] = Options
    chunk: ClassVar[int] = 10  # items measured in one call, on CPUs
    curves: tuple[str, ...] = ()  # columns with K values per item
    added: tuple[str, ...] = ()  # curves that runs by older versions may lack
    # Columns (n, ...) that are stored in the run folder only and are not in `Measured`.
    arrays: tuple[str, ...] = ()
    shown: ClassVar[tuple[str, ...]] = ()  # names of the pictures of a case
    # Seconds per million HR pixels of items, for a built-in network on one core with AVX2: the
    # estimate of a run's time before anything is measured.
    cost: ClassVar[float] = 5.0
    networks: ClassVar[bool] = True  # False: uses no network, so it is measured only once
    extra: ClassVar[bool] = False  # measured only if named
    uses: "ClassVar[type[Experiment] | None]" = None  # experiment whose items and columns it reads

    def __init__(
        self,
        options: Options | None = None,
        seed: int = 0,
        base: "Experiment | None" = None,
    ) -> None:
        self.options: Any = options or self.options_type()
        self.seed = seed
        # The experiment of type `uses` whose items and columns it reads.
        self.base: Any = base or (self.uses(seed=seed) if self.uses else None)

    def check_study(self, study: Study) -> None:
        """Raise InvalidArgument for options that do not fit this study; called before a run."""
        self.options.check(self.name)

    @abstractmethod
    def plan(self, study: Study) -> list[Item]:
        """The items to measure, the same for every network; `--limit` keeps the first ones."""

    @abstractmethod
    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """Columns of numbers on the device, a row for each item: (n), or (n, K) for `curves`.

        Columns named in `arrays` have any shape (n, ...). Nothing may wait for the device.
        """

    def readings(self, items: Sequence[Item], study: Study) -> list[Reading]:
        """The batches of regions that `measure` will ask `study` for; default those of `items`.

        Threads read them while the device measures earlier items.
        """
        return study.readings(items, self.options.lr)

    def together(self, items: Sequence[Item], study: Study) -> int:
        """Number of the plan's `items` that one call of `measure` gets; decides the last bits."""
        return self.chunk

    def work(self, items: Sequence[Item], study: Study) -> Work:
        """The work of `measure` for `items`: here one pass of the network for each."""
        return Work(forwards=len(items))

    def cases(self, measured: Measured) -> list[int]:
        """Indices of the items that the report shows as pictures."""
        return []

    def exhibit(self, net: Network, item: Item, study: Study) -> Mapping[str, Picture | Tensor]:
        """The pictures (h,w,3) uint8 of one of the `cases`, by the names in `shown`.

        Those that are tensors may lie on the device, which then need not be waited for.
        """
        return {}
