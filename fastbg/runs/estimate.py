"""Estimates the work and time of a run: counts its items, and times a few of them."""

import heapq
import json
import statistics
import time
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from fastbg.experiments.experiment import Experiment, Work
from fastbg.experiments.study import Item, Study
from fastbg.models.network import Network
from fastbg.runs.local import cut
from fastbg.runs.pipeline import Arrival

PATIENCE = 0.5  # seconds; if a chunk takes longer, only one item is timed


@dataclass(frozen=True)
class Estimate:
    """Expected work for one network in one experiment, on one device."""

    items: int  # still to be measured
    work: Work
    chunks: tuple[float, ...]  # expected seconds of each chunk, in plan order
    stored: int  # bytes that results will take in the run folder, without pictures

    @property
    def seconds(self) -> float:
        """Expected seconds with one worker."""
        return sum(self.chunks)


class Rate(NamedTuple):
    """Time and storage that one network takes in one experiment."""

    seconds: float  # per HR pixel
    stored: float  # bytes per item


def estimate(
    experiment: Experiment, net: Network, items: Sequence[Item], done: Set[str], study: Study
) -> Estimate:
    """Count what is left of `items`, and time one chunk of it; nothing is stored."""
    left = lacking(experiment, items, done, study)
    return expected(experiment, left, study, rate(experiment, net, left, study))


def lacking(
    experiment: Experiment, items: Sequence[Item], done: Set[str], study: Study
) -> list[list[Item]]:
    """The items of each chunk that are not `done`; chunks without any are left out."""
    return [left for _, left in cut(experiment, items, done, study) if left]


def expected(
    experiment: Experiment, left: Sequence[Sequence[Item]], study: Study, at: Rate
) -> Estimate:
    """The estimate for the chunks `left` at the rate `at`."""
    items = [item for chunk in left for item in chunk]
    return Estimate(
        items=len(items),
        work=experiment.work(items, study) if items else Work(0),
        chunks=tuple(at.seconds * pixels(chunk) for chunk in left),
        stored=round(len(items) * at.stored),
    )


def rate(
    experiment: Experiment, net: Network, left: Sequence[Sequence[Item]], study: Study
) -> Rate:
    """Time a chunk of median size, or one of its items if the chunk takes long."""
    if not left:
        return Rate(0.0, 0.0)
    sizes = [pixels(chunk) for chunk in left]
    typical = left[sizes.index(statistics.median_low(sizes))]
    sample = typical[:1]
    seconds, columns = timed(experiment, net, sample, study)  # also warms up
    if seconds < PATIENCE:
        sample = typical if seconds * len(typical) < PATIENCE else sample
        seconds, columns = timed(experiment, net, sample, study)
    return Rate(seconds / pixels(sample), record_bytes(experiment, columns) / len(sample))


def timed(
    experiment: Experiment, net: Network, items: Sequence[Item], study: Study
) -> tuple[float, dict[str, Tensor]]:
    """Seconds to measure `items`, and the columns on the host."""
    start = time.perf_counter()
    with study.measuring():
        columns = experiment.measure(net, items, study)
    found = Arrival(columns).columns()  # waits for the device
    return time.perf_counter() - start, found


def makespan(chunks: Iterable[float], workers: int) -> float:
    """Seconds until all `chunks` are done, each given to the first free worker."""
    free = [0.0] * workers
    for seconds in chunks:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def pixels(items: Sequence[Item]) -> int:
    """Number of HR pixels in the boxes of `items` and of their partners."""
    boxes = [each.box for item in items for each in (item, *item.partners)]
    return sum((y1 - y0) * (x1 - x0) for y0, x0, y1, x1 in boxes)


def record_bytes(experiment: Experiment, columns: dict[str, Tensor]) -> int:
    """Bytes of the numbers and arrays in `columns`, as the run folder keeps them."""
    beside = (*experiment.curves, *experiment.arrays)
    numbers = {n: c.tolist() for n, c in columns.items() if n not in beside}
    return len(json.dumps(numbers)) + sum(columns[n].nbytes for n in beside if n in columns)
