"""The pipeline that keeps a device busy: threads read ahead, results are copied asynchronously.

    threads: read chunks i+2, i+1  ->  this thread: launch chunk i  ->  device: chunks i-1, i-2, ...
    device: copies results to pinned memory  ->  this thread: one commit each second

The chunks may be those of several networks in turn: the next one begins while the last results of
one are on their way, so that the device does not wait for the host to store them.

On CPUs each chunk is read, measured and stored before the next, as more threads would compete with
the measuring thread for cores. Memory is bounded: at most AHEAD + FLYING + 1 chunks, and the
results of COMMIT_EVERY seconds.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from types import TracebackType
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from fastbg.errors import InvalidArgument
from fastbg.experiments.experiment import Picture
from fastbg.experiments.reading import Reading
from fastbg.experiments.study import Item, Study

AHEAD = 2  # chunks read ahead for a GPU
FLYING = 4  # chunks in flight on a GPU, which keep it busy while the host commits
READERS = 8  # largest number of reading threads
COMMIT_EVERY = 1.0  # seconds; a killed run loses these results and the chunks in flight
SWITCH = "FASTBG_READ_AHEAD"  # environment variable that replaces AHEAD, on any device

Columns: TypeAlias = dict[str, Tensor]
Begin: TypeAlias = Callable[[Sequence[Item], Study], list[Reading]]


def chunks_ahead(device: torch.device) -> int:
    """Number of chunks to read ahead for `device`; InvalidArgument for a bad value of SWITCH."""
    text = os.environ.get(SWITCH, "")
    if not text:
        return 0 if device.type == "cpu" else AHEAD
    if not text.isdecimal():
        raise InvalidArgument(SWITCH, repr(text), "a whole number of chunks, 0 for none")
    return int(text)


def chunks_flying(device: torch.device) -> int:
    """Number of chunks that may be in flight on `device`; on a CPU none."""
    return 0 if device.type == "cpu" else FLYING


def read_ahead(
    chunks: Iterable[Sequence[Item]], begin: Begin, study: Study, ahead: int
) -> Generator[Study]:
    """For each of `chunks` yields `study` with the chunk's regions in `ready`.

    `begin` returns the readings of a chunk. Threads read at most `ahead` chunks beyond the yielded
    one; with 0 nothing is read ahead, and `measure` reads its regions itself. An error in a thread
    is raised when its chunk is due, with its traceback. Closing the generator ends the threads.
    """
    if not ahead:
        for _ in chunks:
            yield study
        return
    waiting = iter(chunks)
    under_way: deque[tuple[list[Reading], list[Future[None]]]] = deque()
    readers = min(READERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(readers, "fastbg reads ahead") as pool:

        def start() -> None:
            for chunk in waiting:
                readings = begin(chunk, study)
                tasks = [task for reading in readings for task in reading.tasks]
                under_way.append((readings, [pool.submit(task) for task in tasks]))
                return

        try:
            for _ in range(ahead):
                start()
            while under_way:
                start()
                readings, tasks = under_way.popleft()
                for task in tasks:
                    task.result()
                yield replace(study, ready={each.key: each.pixels for each in readings})
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class Copy:
    """A tensor on its way to the host, copied asynchronously from a GPU."""

    def __init__(self, tensor: Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            self._host = torch.empty(
                tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True
            )
            self._host.copy_(tensor, non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record(torch.cuda.current_stream(tensor.device))
        else:
            self._host = tensor.cpu()

    @property
    def ready(self) -> bool:
        """Whether the copy is complete, so that `wait` returns at once."""
        return self._done is None or self._done.query()

    def wait(self) -> Tensor:
        """The tensor on the host."""
        if self._done is not None:
            self._done.synchronize()
        return self._host


class Arrival:
    """A chunk's columns, copied to the host as float64 in one asynchronous transfer."""

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        flat = [column.double().reshape(len(column), -1) for column in columns.values()]
        self._shapes = {name: column.shape for name, column in columns.items()}
        self._widths = [part.shape[1] for part in flat]
        self._copy = Copy(torch.cat(flat, dim=1))

    @property
    def ready(self) -> bool:
        """Whether the copy is complete, so that `columns` returns at once."""
        return self._copy.ready

    def columns(self) -> Columns:
        """The columns on the host; waits for the copy."""
        parts = self._copy.wait().split(self._widths, dim=1)
        return {
            name: part.reshape(shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }


class Shown:
    """A case's pictures; those on a device are copied to the host in one asynchronous transfer."""

    def __init__(self, pictures: Mapping[str, Picture | Tensor]) -> None:
        self._pictures = dict(pictures)
        there = [each.flatten() for each in pictures.values() if isinstance(each, Tensor)]
        self._copy = Copy(torch.cat(there)) if there else None

    @property
    def ready(self) -> bool:
        """Whether the copy is complete, so that `pictures` returns at once."""
        return self._copy is None or self._copy.ready

    def pictures(self) -> dict[str, Picture]:
        """The pictures on the host; waits for the copy."""
        host = None if self._copy is None else self._copy.wait().numpy()
        found, first = {}, 0
        for name, each in self._pictures.items():
            if host is None or not isinstance(each, Tensor):
                found[name] = np.asarray(each)
                continue
            found[name] = host[first : first + each.numel()].reshape(each.shape)
            first += each.numel()
        return found


@dataclass(frozen=True)
class Sink:
    """The functions that check and store the results of a job.

    Attributes:
        check: raises an error for columns that must not be stored.
        put: stores items with their columns in one transaction.
        advance: called with the number of items of the plan that were just completed.
    """

    check: Callable[[Columns], None]
    put: Callable[[Sequence[Item], Mapping[str, Sequence[Tensor]]], None]
    advance: Callable[[int], None]


@dataclass(frozen=True)
class Landed:
    """A chunk's results on the host, not yet stored."""

    sink: Sink
    items: Sequence[Item]
    columns: Columns
    count: int  # number of items of the plan that this completes


class Outbox:
    """A queue of results of one job or of several in turn, which it stores in that order.

    It stores once every COMMIT_EVERY seconds, and whenever it would have to wait for the device
    otherwise. Use it in a `with` block, whose end stores the rest. If the block ends with an error,
    results that are on the host are stored first; only those still on the device are lost.
    """

    def __init__(self, flying: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.measured = 0  # number of items stored
        self._most, self._clock = flying, clock
        self._flying: deque[tuple[Sink, Sequence[Item], Arrival, int]] = deque()
        self._landed: list[Landed] = []
        self._last = -COMMIT_EVERY + clock()  # the first chunk is stored at once

    def __enter__(self) -> "Outbox":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            while self._flying:
                self._land()
        self.commit()

    def add(self, sink: Sink, items: Sequence[Item], arrival: Arrival, count: int) -> None:
        """Queue the results of `items`, which complete `count` items of the plan."""
        self._flying.append((sink, items, arrival, count))
        while self._flying and (len(self._flying) > self._most or self._flying[0][2].ready):
            self._land()
        if self._clock() - self._last >= COMMIT_EVERY:
            self.commit()

    def flies(self, sink: Sink) -> bool:
        """Whether results for `sink` may still be on the device."""
        return any(each[0] is sink for each in self._flying)

    def land(self, sink: Sink) -> None:
        """Wait until no result for `sink` is on the device."""
        while self.flies(sink):
            self._land()

    def commit(self) -> None:
        """Store the results that are on the host."""
        landed, self._landed = self._landed, []  # after a failure they are not stored again
        if not landed:
            return
        self._last = self._clock()
        for sink, results in ((s, [*r]) for s, r in groupby(landed, lambda each: each.sink)):
            names = results[0].columns
            rows = {name: [row for each in results for row in each.columns[name]] for name in names}
            sink.put([item for each in results for item in each.items], rows)
            self.measured += sum(len(each.items) for each in results)
            sink.advance(sum(each.count for each in results))

    def _land(self) -> None:
        if not self._flying[0][2].ready:
            self.commit()  # while the device works
        sink, items, arrival, count = self._flying.popleft()
        columns = arrival.columns()
        sink.check(columns)
        self._landed.append(Landed(sink, items, columns, count))
