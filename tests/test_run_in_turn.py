"""Several networks in turn: what is under way while the last one's results are stored."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from slow_arrival import SlowArrival
from torch import Tensor

from fastbg.data.images import ImageSet
from fastbg.errors import CheckpointError
from fastbg.experiments.experiment import Experiment, Measured, NetLabel
from fastbg.experiments.reading import Reading
from fastbg.experiments.study import Item, Study
from fastbg.models.edsr import EDSR
from fastbg.models.network import Network
from fastbg.runs import local
from fastbg.runs.local import Job, run_in_turn
from fastbg.runs.pipeline import FLYING, Shown
from fastbg.runs.store import RunStore

CPU, META = torch.device("cpu"), torch.device("meta")
ITEMS = [Item(str(i), "photograph", (0, 0, 8, 8)) for i in range(12)]  # 6 chunks


class Numbers(Experiment):
    """Measures the number of an item, and shows it; notes what is done in `events`."""

    name = "numbers"
    chunk: ClassVar[int] = 2
    shown = ("number",)

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events
        self.broken = ""  # the network whose results are NaN

    def plan(self, study: Study) -> list[Item]:
        return ITEMS

    def readings(self, items: Sequence[Item], study: Study) -> list[Reading]:
        return []

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        self.events.append(f"{net.name} launches {items[0].key}")
        value = float("nan") if net.name == self.broken else 1.0
        return {"x": torch.tensor([int(item.key) * value for item in items])}

    def cases(self, measured: Measured) -> list[int]:
        return [1, 4]

    def exhibit(self, net: Network, item: Item, study: Study) -> dict[str, Tensor]:
        self.events.append(f"{net.name} draws {item.key}")
        return {"number": torch.full((1, 1, 3), int(item.key), dtype=torch.uint8)}


class SlowShown(Shown):
    """The same for pictures: ready when asked for the third time."""

    asked = 0

    @property
    def ready(self) -> bool:
        self.asked += 1
        return self.asked > 2


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens in a run, in order."""
    found: list[str] = []
    put, put_pictures = Job.put, Job.put_pictures

    def noted(job: Job, items: Sequence[Item], columns: Mapping[str, Sequence[Tensor]]) -> None:
        found.append(f"{job.label.label} stores to {items[-1].key}")
        put(job, items, columns)

    def noted_pictures(job: Job, item: Item, pictures: Mapping[str, Any]) -> None:
        found.append(f"{job.label.label} keeps {item.key}")
        put_pictures(job, item, pictures)

    monkeypatch.setattr(Job, "put", noted)
    monkeypatch.setattr(Job, "put_pictures", noted_pictures)
    return found


def jobs(device: torch.device, store: RunStore, events: list[str], names: str = "abc") -> list[Job]:
    """One for each network."""
    study, experiment = Study(ImageSet("none", ()), device=device), Numbers(events)
    made = []
    for name in names:
        net = EDSR(features=4, blocks=1)
        net.name = name
        made.append(Job(experiment, net, NetLabel(name, "edsr"), ITEMS, study, store))
    return made


def complete(some: Sequence[Job], events: list[str]) -> dict[str, int]:
    """Run all; the number of measured items of each, in the order in which they end."""
    ended, told = {}, {job.label.label: 0 for job in some}

    def follow(job: Job) -> Any:
        name = job.label.label
        assert len(ended) == [*told].index(name), "followed before its turn"

        def advance(count: int) -> None:
            assert count > 0
            told[name] += count

        return advance

    with closing(run_in_turn(some, follow)) as done:
        for job, measured in done:
            ended[job.label.label] = measured
            assert told[job.label.label] == len(ITEMS)
            events.append(f"{job.label.label} ends")
    return ended


def rows(store: RunStore) -> list[Any]:
    """All that is stored."""
    arrays = [(m, *key) for m in "abc" for key in sorted(store.arrays("numbers", m))]
    values = [store.array("numbers", m, *key).tolist() for m, *key in arrays]
    return [store.records(), arrays, values]


def test_a_device_has_the_next_network_while_results_are_stored(
    events: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunStore.open(tmp_path / "cpu", {}) as store:
        assert complete(jobs(CPU, store, events), events) == {"a": 12, "b": 12, "c": 12}
        one_by_one = rows(store)
    assert [e[0] for e in events] == sorted(e[0] for e in events), "on CPUs one after the other"
    assert events.index("a keeps 1") < events.index("a draws 4")
    events.clear()
    monkeypatch.setattr(local, "Arrival", SlowArrival)
    monkeypatch.setattr(local, "Shown", SlowShown)
    with RunStore.open(tmp_path / "device", {}) as store:
        assert complete(jobs(META, store, events), events) == {"a": 12, "b": 12, "c": 12}
        assert rows(store) == one_by_one
    for this, following in ("ab", "bc"):
        launched = [i for i, e in enumerate(events) if e.startswith(f"{following} launches")]
        stored, drawn = events.index(f"{this} stores to 11"), events.index(f"{this} draws 1")
        assert sum(i < stored for i in launched) == FLYING  # which the device has meanwhile
        assert stored < drawn < launched[FLYING] < events.index(f"{this} keeps 1")
        assert events.index(f"{this} ends") < events.index(f"{following} draws 1")


@pytest.mark.parametrize("device", [CPU, META], ids=str)
def test_networks_that_are_stored_already_take_their_turn(
    device: torch.device, events: list[str], tmp_path: Path
) -> None:
    """Of three networks all of b, and of c the first chunks."""
    with RunStore.open(tmp_path / "run", {}) as store:
        made = jobs(device, store, events)
        made[1].run(lambda _: None)
        made[2].put(ITEMS[:3], {"x": torch.arange(3.0).double()})
        events.clear()
        assert complete(made, events) == {"a": 12, "b": 0, "c": 9}
        assert [e for e in events if e.startswith("b")] == ["b ends"]
        first = rows(store)
        assert complete(made, events) == {"a": 0, "b": 0, "c": 0}
        assert rows(store) == first


def test_a_network_that_fails_costs_the_others_nothing(
    events: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "Arrival", SlowArrival)
    with RunStore.open(tmp_path / "run", {}) as store:
        made = jobs(META, store, events)
        made[0].experiment.broken = "b"
        with pytest.raises(CheckpointError, match="b: x is not a number"):
            complete(made, events)
        assert "a ends" in events
        assert len(store.done("numbers", "a")) == len(ITEMS)
        assert store.done("numbers", "b") == store.done("numbers", "c") == set()


def test_who_stops_after_a_network_keeps_what_has_arrived(
    events: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "Arrival", SlowArrival)
    with RunStore.open(tmp_path / "run", {}) as store:
        with closing(run_in_turn(jobs(META, store, events), lambda _: lambda _: None)) as done:
            next(done)
        launched = sum(e.startswith("b launches") for e in events)
        stored = len(store.done("numbers", "b"))
        assert stored == Numbers.chunk * max(0, launched - FLYING)
        assert len(store.done("numbers", "a")) == len(ITEMS)
