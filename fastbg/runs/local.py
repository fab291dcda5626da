"""The local engine: one process and device measures in chunks; a chunk is stored as a whole.

Chunks are cut from the whole plan, not from the remaining items. A resumed run therefore gives its
network the same batches as an uninterrupted one, and ends with the same records, bit for bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from fastbg.errors import CheckpointError
from fastbg.experiments.experiment import NO_NETWORK, Experiment, NetLabel, Picture
from fastbg.experiments.study import Item, Study
from fastbg.models.network import Network
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
        """Measure the items that the store lacks, and store pictures of the cases.

        Returns the number of items measured. `advance(n)` is called after n more items are stored.
        Raises CheckpointError if a result is NaN.
        """
        measured = 0
        for chunk, fresh in self.chunks():
            if fresh:
                with self.study.measuring():
                    columns = self.experiment.measure(self.net, fresh, self.study)
                self.put(fresh, on_host(columns))
                measured += len(fresh)
            advance(len(chunk))
        self.keep_pictures()
        return measured

    def chunks(self) -> Iterator[tuple[Sequence[Item], list[Item]]]:
        """The chunks of the plan, each with the items that the store lacks."""
        done = self.store.done(self.experiment.name, self.label.label)
        return cut(self.experiment, self.items, done)

    def put(self, items: Sequence[Item], columns: dict[str, Tensor]) -> None:
        """Store a chunk's records, and its curves and arrays beside them, in one transaction."""
        name, label = self.experiment.name, self.label.label
        beside = (*self.experiment.curves, *self.experiment.arrays)
        arrays = {n: c.numpy() for n, c in columns.items() if n in beside}
        numbers = {n: c.tolist() for n, c in columns.items() if n not in beside}
        for column, values in columns.items():
            if bool(values.isnan().any()):
                raise CheckpointError(f"{label}: {column} is not a number; are its weights finite?")
        with self.store.transaction():
            for i, item in enumerate(items):
                row = {column: values[i] for column, values in numbers.items()}
                self.store.put_many([Record(name, label, item.key, row)])
                for column, array in arrays.items():
                    self.store.put_array(name, label, item.key, column, array[i])

    def keep_pictures(self) -> None:
        """Store the pictures of the experiment's cases that the store lacks."""
        for item in self.undrawn():
            with self.study.measuring():
                pictures = self.experiment.exhibit(self.net, item, self.study)
            self.put_pictures(item, pictures)

    def undrawn(self) -> list[Item]:
        """The cases whose pictures the store lacks; all items must have been measured."""
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
    """The networks that an experiment is measured with; an arbitrary one if it uses none."""
    return nets if experiment.networks else [(NO_NETWORK, *nets[0][1:])]


def cut(
    experiment: Experiment, items: Sequence[Item], done: Set[str]
) -> Iterator[tuple[Sequence[Item], list[Item]]]:
    """`items` in the experiment's chunks, each with its items that are not `done`."""
    for first in range(0, len(items), experiment.chunk):
        chunk = items[first : first + experiment.chunk]
        yield chunk, [item for item in chunk if item.key not in done]


def on_host(columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """The columns as float64 on the CPU, copied in one transfer."""
    flat = [column.double().reshape(len(column), -1) for column in columns.values()]
    parts = torch.cat(flat, dim=1).cpu().split([part.shape[1] for part in flat], dim=1)
    return {
        name: part.reshape(column.shape)
        for (name, column), part in zip(columns.items(), parts, strict=True)
    }
