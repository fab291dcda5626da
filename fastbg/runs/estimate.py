"""What a run will take, before it is run: counted from the plan, timed on a few of its items."""

import heapq
import json
import statistics
import time
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from torch import Tensor

from fastbg.experiments.experiment import Experiment, Work
from fastbg.experiments.study import Item, Study
from fastbg.models.network import Network
from fastbg.runs.local import cut, on_host

PATIENCE = 5.0  # seconds; a chunk that takes longer than this is judged by one of its items


@dataclass(frozen=True)
class Estimate:
    """One network in one experiment, on one device."""

    items: int  # that are still to be measured
    work: Work
    chunks: tuple[float, ...]  # expected seconds of each chunk, in the order of the plan
    stored: int  # bytes of results that the run folder will get; its pictures not counted

    @property
    def seconds(self) -> float:
        """Of one worker."""
        return sum(self.chunks)


def estimate(
    experiment: Experiment, net: Network, items: Sequence[Item], done: Set[str], study: Study
) -> Estimate:
    """Count what is left of `items`, and time one chunk of it; nothing is stored.

    A chunk is expected to take as long per HR pixel as the one that was timed.
    """
    fresh = [left for _, left in cut(experiment, items, done) if left]
    if not fresh:
        return Estimate(0, Work(0), (), 0)
    sizes = [pixels(chunk) for chunk in fresh]
    typical = fresh[sizes.index(statistics.median_low(sizes))]
    seconds, columns = timed(experiment, net, typical[:1], study)  # warms up, too
    sample = typical[:1]
    if seconds * len(typical) < PATIENCE:
        sample = typical
        seconds, columns = timed(experiment, net, sample, study)
    left = [item for chunk in fresh for item in chunk]
    return Estimate(
        items=len(left),
        work=experiment.work(left, study),
        chunks=tuple(seconds * size / pixels(sample) for size in sizes),
        stored=len(left) * record_bytes(experiment, columns) // len(sample),
    )


def timed(
    experiment: Experiment, net: Network, items: Sequence[Item], study: Study
) -> tuple[float, dict[str, Tensor]]:
    """Seconds of measuring `items`, and what was measured, on the host."""
    start = time.perf_counter()
    with study.measuring():
        columns = experiment.measure(net, items, study)
    found = on_host(columns)  # waits for the device
    return time.perf_counter() - start, found


def makespan(chunks: Iterable[float], workers: int) -> float:
    """Seconds until all `chunks` are done, each given to the worker that is free first."""
    free = [0.0] * workers
    for seconds in chunks:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def pixels(items: Sequence[Item]) -> int:
    """HR pixels of the boxes of `items` and of their partners."""
    boxes = [each.box for item in items for each in (item, *item.partners)]
    return sum((y1 - y0) * (x1 - x0) for y0, x0, y1, x1 in boxes)


def record_bytes(experiment: Experiment, columns: dict[str, Tensor]) -> int:
    """Bytes of the numbers and curves in `columns`, as the run folder keeps them."""
    curves = [column for name, column in columns.items() if name in experiment.curves]
    numbers = {n: c.tolist() for n, c in columns.items() if n not in experiment.curves}
    return len(json.dumps(numbers)) + sum(curve.nbytes for curve in curves)
