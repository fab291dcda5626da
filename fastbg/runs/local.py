"""The local engine: one process and device measures in chunks; a chunk is stored as a whole.

While the device measures, threads read the next chunks, and finished results are copied to the
host; see pipeline.py. A GPU goes on with the next network meanwhile.

Chunks are cut from the whole plan, not from the remaining items. A resumed run therefore gives its
network the same batches as an uninterrupted one, and ends with the same records, bit for bit.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from fastbg.errors import CheckpointError
from fastbg.experiments.experiment import NO_NETWORK, Experiment, NetLabel, Picture
from fastbg.experiments.study import Item, Study
from fastbg.models.network import Network
from fastbg.runs.pipeline import (
    Arrival,
    Outbox,
    Shown,
    Sink,
    chunks_ahead,
    chunks_flying,
    read_ahead,
)
from fastbg.runs.records import collect
from fastbg.runs.store import Record, RunStore


@dataclass(frozen=True)
class Job:
    """Measures one network in one experiment."""

    experiment: Experiment
    net: Network
    label: NetLabel
    items: Sequence[Item]
    study: Study
    store: RunStore

    def run(self, advance: Callable[[int], None]) -> int:
        """Measure the items that are not stored yet, then store the pictures of the cases.

        Returns the number of items measured. `advance(n)` is called after n more items are stored.
        Raises CheckpointError if a result is NaN.
        """
        ((_, measured),) = run_in_turn([self], lambda _: advance)
        return measured

    def sink(self, advance: Callable[[int], None]) -> Sink:
        """What an outbox does with results."""
        return Sink(self.check, self.put, advance)

    def check(self, columns: Mapping[str, Tensor]) -> None:
        """Raise CheckpointError if a result is NaN."""
        for column, values in columns.items():
            if bool(values.isnan().any()):
                raise CheckpointError(
                    f"{self.label.label}: {column} is not a number; are its weights finite?"
                )

    def chunks(self, study: Study | None = None) -> Iterator[tuple[Sequence[Item], list[Item]]]:
        """The plan's chunks, each with its items that are not stored yet."""
        done = self.store.done(self.experiment.name, self.label.label)
        return cut(self.experiment, self.items, done, study or self.study)

    def put(self, items: Sequence[Item], columns: Mapping[str, Sequence[Tensor]]) -> None:
        """Store records, and their curves and arrays beside them, in one transaction.

        `columns` have a row on the host for each of `items`.
        """
        name, label = self.experiment.name, self.label.label
        beside = {*self.experiment.curves, *self.experiment.arrays} & {*columns}
        with self.store.transaction():
            for i, item in enumerate(items):
                row = {
                    column: rows[i].item()
                    for column, rows in columns.items()
                    if column not in beside
                }
                self.store.put_many([Record(name, label, item.key, row)])
                for column in sorted(beside):
                    self.store.put_array(name, label, item.key, column, columns[column][i].numpy())

    def draw(self, item: Item) -> Shown:
        """The pictures of a case, on their way to the host."""
        with self.study.measuring():
            return Shown(self.experiment.exhibit(self.net, item, self.study))

    def undrawn(self) -> list[Item]:
        """The cases without stored pictures; all items must have been measured."""
        measured = collect(self.store, self.experiment, self.label, self.items)
        cases = [self.items[i] for i in self.experiment.cases(measured)]
        shown = self.experiment.shown
        return [c for c in cases if not all((c.key, what) in measured.pictures for what in shown)]

    def put_pictures(self, item: Item, pictures: Mapping[str, Picture]) -> None:
        """Store a case's pictures in one transaction."""
        with self.store.transaction():
            for what, picture in pictures.items():
                self.store.put_array(
                    self.experiment.name, self.label.label, item.key, what, picture
                )


def taking_part(
    experiment: Experiment, nets: Sequence[tuple[NetLabel, Network, str]]
) -> Sequence[tuple[NetLabel, Network, str]]:
    """The networks to measure an experiment with; an arbitrary one if it uses none."""
    return nets if experiment.networks else [(NO_NETWORK, *nets[0][1:])]


def cut(
    experiment: Experiment, items: Sequence[Item], done: Set[str], study: Study
) -> Iterator[tuple[Sequence[Item], list[Item]]]:
    """The chunks of `items`, each with its items that are not `done`."""
    size = experiment.together(items, study) if items else 1
    for first in range(0, len(items), size):
        chunk = items[first : first + size]
        yield chunk, [item for item in chunk if item.key not in done]


Follow: TypeAlias = Callable[[Job], Callable[[int], None]]


@dataclass
class Turn:
    """A job of several that follow one another, and how far it is."""

    job: Job
    work: list[tuple[list[Item], int]] = field(
        default_factory=list
    )  # items, how many they complete
    launched: bool = False  # all of `work`
    drawn: list[tuple[Item, Shown]] | None = None  # pictures on their way, once all is stored
    _advance: Callable[[int], None] | None = None
    _before: int = 0  # number of items that were completed before anyone followed

    def __post_init__(self) -> None:
        for chunk, fresh in self.job.chunks():
            if fresh:
                self.work.append((fresh, len(chunk)))
            else:
                self._before += len(chunk)
        self.sink = self.job.sink(self.advance)

    @property
    def measured(self) -> int:
        """Number of items to measure."""
        return sum(len(fresh) for fresh, _ in self.work)

    def follow(self, advance: Callable[[int], None]) -> None:
        """Call `advance(n)` for items completed until now, and for those completed later."""
        self._advance = advance
        if self._before:
            advance(self._before)

    def advance(self, count: int) -> None:
        """Note that `count` more items are stored."""
        if self._advance is None:
            self._before += count
        else:
            self._advance(count)


def run_in_turn(jobs: Sequence[Job], follow: Follow) -> Generator[tuple[Job, int]]:
    """Run jobs, all of one experiment and study, in turn, each as `Job.run`.

    Yields each job with its number of measured items, once all of it is stored. On a GPU the next
    job is then under way: its chunks are launched while results and pictures are copied and stored.
    `follow(job)` is called when all jobs before it have been yielded; the function that it returns
    is called with n when n more items of the job are stored.
    """
    turns = [Turn(job) for job in jobs]
    waiting = deque(turns)  # those that are not yielded yet
    device, experiment = jobs[0].study.device, jobs[0].experiment
    loads = [fresh for turn in turns for fresh, _ in turn.work]
    ahead = read_ahead(loads, experiment.readings, jobs[0].study, chunks_ahead(device))
    with Outbox(chunks_flying(device)) as outbox, closing(ahead):
        turns[0].follow(follow(jobs[0]))
        for turn in turns:
            for fresh, count in turn.work:
                study = next(ahead)
                with study.measuring():
                    arrival = Arrival(experiment.measure(turn.job.net, fresh, study))
                outbox.add(turn.sink, fresh, arrival, count)
                yield from _complete(waiting, outbox, follow)
            turn.launched = True
            yield from _complete(waiting, outbox, follow)
        yield from _complete(waiting, outbox, follow, wait=True)


def _complete(
    waiting: deque[Turn], outbox: Outbox, follow: Follow, wait: bool = False
) -> Generator[tuple[Job, int]]:
    """Yield the first jobs of `waiting` of which everything is on the host, or with `wait` all."""
    while waiting and waiting[0].launched:
        turn, job = waiting[0], waiting[0].job
        if wait:
            outbox.land(turn.sink)
        if outbox.flies(turn.sink):
            return
        if turn.drawn is None:
            outbox.commit()
            turn.drawn = []
            for item in job.undrawn():
                turn.drawn.append((item, job.draw(item)))
                if not chunks_flying(job.study.device):  # a kill then costs one case
                    job.put_pictures(item, turn.drawn.pop()[1].pictures())
        if not wait and not all(shown.ready for _, shown in turn.drawn):
            return
        with job.store.transaction():
            for item, shown in turn.drawn:
                job.put_pictures(item, shown.pictures())
        waiting.popleft()
        yield job, turn.measured
        if waiting:
            waiting[0].follow(follow(waiting[0].job))
