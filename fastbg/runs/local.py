"""The local engine: one process and device measures in chunks; a chunk is stored as a whole.

While the device measures, threads read the next chunks, and finished results are copied to the
host; see pipeline.py.

Chunks are cut from the whole plan, not from the remaining items. A resumed run therefore gives its
network the same batches as an uninterrupted one, and ends with the same records, bit for bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass

from torch import Tensor

from fastbg.errors import CheckpointError
from fastbg.experiments.experiment import NO_NETWORK, Experiment, NetLabel, Picture
from fastbg.experiments.study import Item, Study
from fastbg.models.network import Network
from fastbg.runs.pipeline import FLYING, Arrival, Outbox, Sink, chunks_ahead, read_ahead
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
        work = []
        for chunk, fresh in self.chunks():
            if fresh:
                work.append((fresh, len(chunk)))
            else:
                advance(len(chunk))
        device, loads = self.study.device, [fresh for fresh, _ in work]
        ahead = read_ahead(loads, self.experiment.readings, self.study, chunks_ahead(device))
        with self.outbox(advance) as outbox, closing(ahead):
            for (fresh, count), study in zip(work, ahead, strict=True):
                with study.measuring():
                    arrival = Arrival(self.experiment.measure(self.net, fresh, study))
                outbox.add(fresh, arrival, count)
        self.keep_pictures()
        return outbox.measured

    def outbox(self, advance: Callable[[int], None]) -> Outbox:
        """The queue that stores results; on a CPU no chunk stays in flight."""
        flying = 0 if self.study.device.type == "cpu" else FLYING
        return Outbox(Sink(self.check, self.put, advance), flying)

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

    def keep_pictures(self) -> None:
        """Store the missing pictures of the experiment's cases."""
        for item in self.undrawn():
            with self.study.measuring():
                pictures = self.experiment.exhibit(self.net, item, self.study)
            self.put_pictures(item, pictures)

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
