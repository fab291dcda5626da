"""Which loads the Ray engine hands to which worker, without a cluster."""

import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastbg.data.images import ImageSet
from fastbg.errors import EngineError
from fastbg.experiments.reading import Reading
from fastbg.experiments.study import Item, Study
from fastbg.runs import ray as ray_engine
from fastbg.runs.ray import HELD, RayEngine, Worker, versions

JOB: Any = SimpleNamespace(
    experiment=SimpleNamespace(name="table1"), label=SimpleNamespace(label="edsr")
)


class Lost(Exception):
    """What Ray raises for a worker that is gone."""


class Actor:
    """A worker, and the loads that it holds."""

    def __init__(self, cluster: "Cluster") -> None:
        self.cluster, self.queue = cluster, list[tuple[int, Any]]()
        self.measure = SimpleNamespace(remote=self._take)

    def _take(self, _: object, __: str, load: Any) -> int:
        (key,) = (item.key for chunk in load for item in chunk)
        if self.queue:  # a load over which a worker died is alone
            assert key not in self.cluster.suspects
            assert self.queue[0][1][0][0].key not in self.cluster.suspects
        self.queue.append((self.cluster.new_ref(), load))
        return self.queue[-1][0]


class Cluster:
    """Stands for ray: whenever the driver has to wait, the next worker in turn does one load.

    `killers`: how often the load of that index kills the worker that measures it.
    """

    exceptions = SimpleNamespace(RayTaskError=ZeroDivisionError, RayError=Lost)

    def __init__(self, workers: int, killers: dict[int, int] | None = None) -> None:
        self.killers = dict(killers or {})
        self.refs, self.results = 0, dict[int, Any]()
        self.queues: list[list[int]] = []  # lengths, each time that the driver has to wait
        self.said: list[str] = []
        self.suspects: set[str] = set()  # loads over which a worker died
        self.actors = [Actor(self) for _ in range(workers)]
        engine: Any = object.__new__(RayEngine)
        engine._ray, engine._say, engine._failed_starts = self, self.said.append, 0
        engine._idle, engine._starting = [*self.actors], {}
        engine._start_worker = self.start
        self.engine = engine

    def new_ref(self) -> int:
        self.refs += 1
        return self.refs

    def start(self) -> None:
        actor, ref = Actor(self), self.new_ref()
        self.actors.append(actor)
        self.results[ref] = versions()
        self.engine._starting[ref] = actor

    def kill(self, actor: Actor) -> None:
        assert actor not in self.actors

    def wait(self, refs: Sequence[int], timeout: float) -> tuple[list[int], list[int]]:
        if timeout and not any(ref in self.results for ref in refs):
            self.queues.append([len(actor.queue) for actor in self.actors])
            self.work(next(actor for actor in self.actors if actor.queue))
        return [ref for ref in refs if ref in self.results][:1], []

    def work(self, actor: Actor) -> None:
        self.actors.remove(actor)
        (index,) = (int(item.key) for chunk in actor.queue[0][1] for item in chunk)
        if self.killers.get(index, 0):
            self.killers[index] -= 1
            self.suspects |= {load[0][0].key for _, load in actor.queue}
            self.results.update((ref, Lost("it was killed")) for ref, _ in actor.queue)
            return
        self.actors.append(actor)
        self.results[actor.queue.pop(0)[0]] = index

    def get(self, ref: int) -> Any:
        result = self.results.pop(ref)
        if isinstance(result, Exception):
            raise result
        return result

    def run(self, count: int) -> list[int]:
        """The loads in the order of their results."""
        loads = [[[Item(str(i), "a", (0, 0, 8, 8))]] for i in range(count)]
        found = [*self.engine._gather("measure", JOB, 0, loads)]
        assert all(index == result for index, result in found)
        assert len(self.engine._idle) == 2
        return [index for index, _ in found]


def test_a_worker_has_its_next_load_before_it_has_finished_one() -> None:
    cluster = Cluster(2)
    assert sorted(cluster.run(12)) == [*range(12)]
    assert cluster.queues[0] == [HELD, HELD]
    assert max(map(max, cluster.queues)) == HELD
    # A worker had nothing to do only when fewer loads were left than there are workers.
    idle = [queues for queues in cluster.queues if 0 in queues]
    assert all(sum(queues) < HELD for queues in idle)


def test_the_last_loads_wait_for_whoever_is_free_first() -> None:
    cluster = Cluster(2)
    assert sorted(cluster.run(3)) == [0, 1, 2]
    assert cluster.queues[0] == [1, 1]


def test_the_loads_of_a_lost_worker_go_to_others() -> None:
    cluster = Cluster(2, {2: 1})
    assert sorted(cluster.run(12)) == [*range(12)]
    assert cluster.said == ["a worker was lost (it was killed); its chunks go to others"]


def test_a_load_that_kills_workers_is_named_and_no_other() -> None:
    cluster = Cluster(2, {5: 99})
    with pytest.raises(EngineError, match=r"table1 edsr: 3 workers died over the same chunk \(5\)"):
        cluster.run(12)
    assert len(cluster.said) == 2


class Overlapping:
    """An experiment whose first load ends only when the second one has been read."""

    def __init__(self) -> None:
        self.read = threading.Event()
        self.measuring = 0

    def readings(self, items: Sequence[Item], study: Study) -> list[Reading]:
        tasks = [self.read.set] if items[0].key == "second" else []
        return [Reading("key", torch.zeros(1, 3, 1, 1, dtype=torch.uint8), tasks)]

    def measure(self, net: object, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        self.measuring += 1
        assert self.measuring == 1
        assert self.read.wait(30), "the second load was not read while the first was measured"
        self.measuring -= 1
        return {"x": torch.ones(len(items))}


def test_a_worker_reads_the_next_load_while_it_measures_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment = Overlapping()
    objects = {"experiment": experiment, "net": torch.nn.Identity()}
    monkeypatch.setattr(ray_engine, "_import_ray", lambda: SimpleNamespace(get=objects.get))
    study = Study(ImageSet("none", ()), device=torch.device("meta"))
    worker = Worker(study, {"edsr": "net"}, None)
    found: dict[str, Any] = {}

    def call(key: str) -> None:
        item = Item(key, key, (0, 0, 8, 8))
        found[key] = worker.measure(["experiment"], "edsr", [[item], [item]])

    first = threading.Thread(target=call, args=["first"])
    second = threading.Thread(target=call, args=["second"])
    first.start()
    while not experiment.measuring:
        assert first.is_alive()
    second.start()
    for thread in (first, second):
        thread.join(60)
    assert [len(columns) for columns in found.values()] == [2, 2]
