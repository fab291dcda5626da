"""The pipeline that keeps a device busy: threads read ahead, results are copied asynchronously.

    threads: read chunks i+2, i+1  ->  this thread: launch chunk i  ->  device: chunks i-1, i-2, ...
    device: copies results to pinned memory  ->  this thread: one commit each second

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
from types import TracebackType
from typing import TypeAlias

import torch
from torch import Tensor

from fastbg.errors import InvalidArgument
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


class Arrival:
    """A chunk's columns, copied to the host as float64 in one asynchronous transfer."""

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        flat = [column.double().reshape(len(column), -1) for column in columns.values()]
        self._shapes = {name: column.shape for name, column in columns.items()}
        self._widths = [part.shape[1] for part in flat]
        device = torch.cat(flat, dim=1)
        self._done: torch.cuda.Event | None = None
        if device.device.type == "cuda":
            self._host = torch.empty(
                device.shape, dtype=device.dtype, device="cpu", pin_memory=True
            )
            self._host.copy_(device, non_blocking=True)
            self._done = torch.cuda.Event()
            self._done.record(torch.cuda.current_stream(device.device))
        else:
            self._host = device.cpu()

    @property
    def ready(self) -> bool:
        """Whether the copy is complete, so that `columns` returns at once."""
        return self._done is None or self._done.query()

    def columns(self) -> Columns:
        """The columns on the host; waits for the copy."""
        if self._done is not None:
            self._done.synchronize()
        parts = self._host.split(self._widths, dim=1)
        return {
            name: part.reshape(shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }


@dataclass(frozen=True)
class Landed:
    """A chunk's results on the host, not yet stored."""

    items: Sequence[Item]
    columns: Columns
    count: int  # number of items of the plan that this completes


@dataclass(frozen=True)
class Sink:
    """The functions that check and store results.

    Attributes:
        check: raises an error for columns that must not be stored.
        put: stores items with their columns in one transaction.
        advance: called with the number of items of the plan that were just completed.
    """

    check: Callable[[Columns], None]
    put: Callable[[Sequence[Item], Mapping[str, Sequence[Tensor]]], None]
    advance: Callable[[int], None]


class Outbox:
    """A queue of results: takes and stores them in plan order, once every COMMIT_EVERY seconds.

    Use it in a `with` block, whose end stores the rest. If the block ends with an error, results
    that are on the host are stored first; only those still on the device are lost.
    """

    def __init__(
        self, sink: Sink, flying: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.measured = 0
        self._sink, self._most, self._clock = sink, flying, clock
        self._flying: deque[tuple[Sequence[Item], Arrival, int]] = deque()
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

    def add(self, items: Sequence[Item], arrival: Arrival, count: int) -> None:
        """Queue the results of `items`, which complete `count` items of the plan."""
        self._flying.append((items, arrival, count))
        while self._flying and (len(self._flying) > self._most or self._flying[0][1].ready):
            self._land()
        if self._clock() - self._last >= COMMIT_EVERY:
            self.commit()

    def commit(self) -> None:
        """Store the results that are on the host."""
        landed, self._landed = self._landed, []  # after a failure they are not stored again
        if not landed:
            return
        self._last = self._clock()
        names = landed[0].columns
        rows = {name: [row for each in landed for row in each.columns[name]] for name in names}
        self._sink.put([item for each in landed for item in each.items], rows)
        self.measured += sum(len(each.items) for each in landed)
        self._sink.advance(sum(each.count for each in landed))

    def _land(self) -> None:
        items, arrival, count = self._flying.popleft()
        columns = arrival.columns()
        self._sink.check(columns)
        self._landed.append(Landed(items, columns, count))
