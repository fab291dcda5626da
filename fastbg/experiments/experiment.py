"""The shape that every experiment has: plan, measure, exhibit.

They see images and networks (through `Study`) and fill the run store. What follows from the numbers
is in fastbg/reports, one file for each experiment.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastbg.errors import InvalidArgument
from fastbg.experiments.study import Item, Study
from fastbg.models.network import Network

Picture: TypeAlias = NDArray[np.uint8]  # (h, w, 3)


@dataclasses.dataclass(frozen=True)
class Options:
    """What the paper leaves open, with PAPER.md's reading as default; stored with the run."""

    # Bicubic down-sampling that makes the LR input, on real values and rounded to 8 bit once: so a
    # composite and the images it is made of are treated alike (see `fastbg.composite_lr`).
    kernel: Literal["matlab", "pil"] = "matlab"
    channel: Literal["rgb", "y"] = "rgb"  # on which PSNR is taken
    lr: Literal["made", "paired"] = "made"  # the input: made from HR, or the data set's own file

    @classmethod
    def parse(cls, texts: Mapping[str, str], owner: str) -> "Options":
        """Options with the fields in `texts` set; raises InvalidArgument naming `owner`.field."""
        hints = get_type_hints(cls)
        values: dict[str, Any] = {}
        for name, text in texts.items():
            if name not in hints:
                raise InvalidArgument(f"{owner}.{name}", repr(text), f"one of {sorted(hints)}")
            values[name] = _parse(f"{owner}.{name}", text, hints[name])
        return cls(**values)

    def check_pairing(self, owner: str) -> None:
        """Raises InvalidArgument if HR composites or cuts are asked for of ready-made LR images."""
        if self.lr == "paired" and getattr(self, "domain", "lr") == "hr":
            raise InvalidArgument(f"{owner}.domain", "'hr'", "'lr', as paired LR images are used")


def integers(name: str, text: str, among: int) -> list[int]:
    """Different integers of an option such as "0,32,48", ascending, `among` one of several.

    Raises InvalidArgument naming the option.
    """
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if len(found) < 2 or among not in found:
        expected = f"different integers, separated by commas, {among} among them"
        raise InvalidArgument(name, repr(text), expected)
    return found


def _parse(name: str, text: str, hint: Any) -> Any:
    if get_origin(hint) is Literal:
        if text not in get_args(hint):
            raise InvalidArgument(name, repr(text), f"one of {get_args(hint)}")
        return text
    try:
        return hint(text)
    except ValueError as error:
        raise InvalidArgument(name, repr(text), f"a value of type {hint.__name__}") from error


@dataclasses.dataclass(frozen=True)
class NetLabel:
    """A network as the records name it."""

    label: str  # unique in a run: the built-in name, or the file's name and a digest of it
    architecture: str  # "edsr", "rcan", "swinir"; decides which numbers of the paper stand beside


# Stands for the networks where they have no part.
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
    """What measuring some items takes, as `fastbg run --dry-run` tells it."""

    forwards: int  # images that pass through the network
    composites: int = 0  # images put together from two sources


PERFECT = 100.0  # dB given to a result without any error, so that means stay finite


def decibels(result: Measured, column: str) -> NDArray[np.float64]:
    """A PSNR column (n), finite."""
    return np.minimum(result.columns[column], PERFECT)


class Experiment(ABC):
    """One table, figure or section of the paper."""

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]  # where the paper has it
    question: ClassVar[str]  # one sentence that needs no paper
    method: ClassVar[str]  # what is done, in a few sentences
    options_type: ClassVar[type[Options]] = Options
    chunk: ClassVar[int] = 10  # items measured together and stored at once
    curves: ClassVar[tuple[str, ...]] = ()  # columns with K values per item
    shown: ClassVar[tuple[str, ...]] = ()  # pictures of a case
    networks: ClassVar[bool] = True  # False: they have no part in it, so it is measured once
    uses: "ClassVar[type[Experiment] | None]" = None  # whose items and columns it builds upon

    def __init__(
        self,
        options: Options | None = None,
        seed: int = 0,
        base: "Experiment | None" = None,
    ) -> None:
        self.options: Any = options or self.options_type()
        self.seed = seed
        # The experiment of the kind `uses` whose items it takes.
        self.base: Any = base or (self.uses(seed=seed) if self.uses else None)

    @abstractmethod
    def plan(self, study: Study) -> list[Item]:
        """The items to measure, the same for every network; `--limit` takes the first ones."""

    @abstractmethod
    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """Columns of numbers, one row per item, on the device: (n), or (n, K) for `curves`."""

    def work(self, items: Sequence[Item], study: Study) -> Work:
        """What `measure` does for `items`: here, one pass of each through the network."""
        return Work(forwards=len(items))

    def cases(self, measured: Measured) -> list[int]:
        """The items that the report shows as pictures."""
        return []

    def exhibit(self, net: Network, item: Item, study: Study) -> dict[str, Picture]:
        """The pictures of one of the `cases`, by the names in `shown`."""
        return {}
