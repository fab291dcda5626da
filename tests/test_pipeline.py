"""The run's pipeline: what is read ahead, what is in flight, what is stored when."""

import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from slow_arrival import SlowArrival
from small_run import contents, make_images
from torch import Tensor

import fastbg
from fastbg.data import sets
from fastbg.data.images import ImageItem, ImageSet
from fastbg.data.opening import open_images
from fastbg.errors import CheckpointError, DataError, InvalidArgument
from fastbg.experiments.reading import Reading
from fastbg.experiments.study import Item, Study
from fastbg.experiments.swap import Swap, SwapOptions
from fastbg.models.edsr import EDSR
from fastbg.runs import pipeline
from fastbg.runs.pipeline import Arrival, Outbox, Shown, Sink, chunks_ahead, read_ahead

CPU, META = torch.device("cpu"), torch.device("meta")
SMALL = {
    "table1": {"count": 3, "size": 64, "region": 32},
    "swap": {"sources": 4, "groups": 2, "backgrounds": 4, "size": 64, "region": 16},
    "slicing": {"tile": 32},
    "ring": {"count": 2, "candidates": 4, "size": 64, "window": 16, "sizes": "0,32"},
    "mosaic": {"count": 2, "size": 64, "region": 32},
    "effect": {
        **{"count": 1, "candidates": 4, "size": 64, "window": 16, "border": 32},
        **{"block": 2, "coarse": 2, "fine": 2},
    },
}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(open_images(make_images(tmp_path / "images")))


def item(name: str) -> Item:
    return Item(name, name, (0, 0, 8, 8))


def tasks_of(tasks: Sequence[Callable[[], None]]) -> list[Reading]:
    return [Reading("key", torch.zeros(1, 3, 1, 1, dtype=torch.uint8), [*tasks])]


# Reading ahead -----------------------------------------------------------------------------------


def test_nothing_is_read_ahead_on_cpus_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(pipeline.SWITCH, raising=False)
    assert chunks_ahead(CPU) == 0
    assert chunks_ahead(torch.device("cuda")) == pipeline.AHEAD
    monkeypatch.setenv(pipeline.SWITCH, "3")
    assert chunks_ahead(CPU) == chunks_ahead(torch.device("cuda")) == 3
    for wrong in ("-1", "two", "1.5"):
        monkeypatch.setenv(pipeline.SWITCH, wrong)
        with pytest.raises(InvalidArgument, match="FASTBG_READ_AHEAD: got"):
            chunks_ahead(CPU)


def test_no_more_than_asked_is_read_ahead(study: Study) -> None:
    begun: list[str] = []

    def begin(items: Sequence[Item], _: Study) -> list[Reading]:
        begun.append(items[0].key)
        return tasks_of([])

    chunks = [[item(str(i))] for i in range(6)]
    with closing(read_ahead(chunks, begin, study, 2)) as ahead:
        for number, _ in enumerate(ahead, 1):
            assert len(begun) == min(number + 2, 6)
    assert begun == [str(i) for i in range(6)]


def test_an_error_of_a_thread_comes_at_its_chunk_with_its_traceback(study: Study) -> None:
    def broken_file() -> None:
        raise DataError("b.png: cannot be read")

    def begin(items: Sequence[Item], _: Study) -> list[Reading]:
        return tasks_of([broken_file] if items[0].key == "1" else [])

    before = threading.active_count()
    ahead = read_ahead([[item(str(i))] for i in range(4)], begin, study, 2)
    with closing(ahead):
        next(ahead)
        with pytest.raises(DataError, match=r"b\.png") as caught:
            next(ahead)
    told = "".join(traceback.format_tb(caught.value.__traceback__))
    assert "broken_file" in told
    assert threading.active_count() == before


def test_closing_ends_the_threads_and_drops_what_waits(study: Study) -> None:
    done: list[int] = []

    def slow() -> None:
        time.sleep(0.02)
        done.append(1)

    before = threading.active_count()
    chunks = [[item(str(i))] for i in range(3)]
    with closing(read_ahead(chunks, lambda *_: tasks_of([slow] * 100), study, 1)) as ahead:
        next(ahead)
    assert threading.active_count() == before
    assert 100 <= len(done) < 190


def measuring(frame: traceback.FrameSummary) -> bool:
    """Whether this is an experiment's `measure`."""
    return frame.name == "measure" and Path(frame.filename).parent.name == "experiments"


@pytest.mark.parametrize("name", SMALL)
def test_measure_asks_for_what_was_read_ahead(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that `measure` asks for was read ahead, and the records have the same bits."""
    images, out = make_images(tmp_path / "images", 6), [tmp_path / "now", tmp_path / "ahead"]
    net = EDSR(features=4, blocks=1).eval().requires_grad_(False)
    options = {f"{name}.{option}": value for option, value in SMALL[name].items()}
    late: list[str] = []
    finish = Reading.finish

    def finished_late(reading: Reading) -> Tensor:
        found = traceback.extract_stack()
        late.extend(frame.name for frame in found if measuring(frame))
        return finish(reading)

    monkeypatch.setattr(Reading, "finish", finished_late)
    for place, ahead in zip(out, ("0", "2"), strict=True):
        late.clear()
        monkeypatch.setenv(pipeline.SWITCH, ahead)
        fastbg.run_experiments(
            {"a": net}, [name], data=images, out=place, options=options, progress=False
        )
        assert bool(late) == (ahead == "0"), late
    assert contents(out[0]) == contents(out[1])


PAIRED = {  # as in SMALL, with what "paired" needs
    "table1": {},
    "swap": {"domain": "lr"},
    "slicing": {},
    "ring": {"domain": "lr"},
    "mosaic": {},
    "effect": {"domain": "lr"},
}


def paired_images(folder: Path) -> Path:
    """Images as `make_images`, with an LR file of each at scale 4: HR and LR folders."""
    folder.mkdir()
    for path in make_images(folder / "HR", 6).iterdir():
        (folder / "LR" / "x4").mkdir(parents=True, exist_ok=True)
        image = Image.open(path)
        image.resize((24, 20), Image.Resampling.BOX).save(folder / "LR" / "x4" / path.name)
    return folder


@pytest.mark.parametrize("name", PAIRED)
def test_paired_images_are_decoded_by_the_readers_threads(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not by the thread that measures; the records have the same bits."""
    images, out = paired_images(tmp_path / "images"), [tmp_path / "now", tmp_path / "ahead"]
    net = EDSR(features=4, blocks=1).eval().requires_grad_(False)
    chosen = SMALL[name] | PAIRED[name] | {"lr": "paired"}
    options = {f"{name}.{option}": value for option, value in chosen.items()}
    threads: list[str] = []
    load_lr = ImageItem.load_lr

    def loaded(image: ImageItem, scale: int) -> Any:
        if threading.current_thread() is not threading.main_thread():
            threads.append(threading.current_thread().name)
        elif any(map(measuring, traceback.extract_stack())):  # not of the report's pictures
            threads.append("main")
        return load_lr(image, scale)

    monkeypatch.setattr(ImageItem, "load_lr", loaded)
    for place, ahead in zip(out, ("0", "2"), strict=True):
        threads.clear()
        sets.KEPT.clear()
        monkeypatch.setenv(pipeline.SWITCH, ahead)
        fastbg.run_experiments(
            {"a": net}, [name], data=images, out=place, options=options, progress=False
        )
        expected = "main" if ahead == "0" else "fastbg reads ahead"
        assert threads
        assert all(thread.startswith(expected) for thread in threads), threads
    assert contents(out[0]) == contents(out[1])


def test_no_image_is_decoded_twice_for_a_batch(study: Study) -> None:
    keys = [each.key for each in study.images.items]
    items = [Item(f"{k}{y}", k, (y, 0, y + 32, 32)) for y in (0, 8, 16) for k in keys]
    (begun,) = study.readings(items, "made")
    assert len(begun.tasks) == len(keys)
    begun.pixels.fill_(255)  # so that a place that is not written is seen
    for task in reversed(begun.tasks):
        task()
    assert torch.equal(begun.pixels, study.ground_truth(items))


# Results -----------------------------------------------------------------------------------------


@dataclass
class Store:
    """Takes what an outbox stores."""

    batches: list[list[str]] = field(default_factory=list)
    advanced: list[int] = field(default_factory=list)
    broken: BaseException | None = None

    @property
    def keys(self) -> list[str]:
        return [key for batch in self.batches for key in batch]

    def put(self, items: Sequence[Item], columns: Mapping[str, Sequence[Tensor]]) -> None:
        if self.broken is not None:
            raise self.broken
        assert [int(row) for row in columns["x"]] == [int(each.key) for each in items]
        self.batches.append([each.key for each in items])

    def check(self, columns: Mapping[str, Tensor]) -> None:
        if bool(columns["x"].isnan().any()):
            raise CheckpointError("x is not a number")

    @property
    def sink(self) -> Sink:
        return Sink(self.check, self.put, self.advanced.append)


def result(value: float, kind: type[Arrival] = Arrival) -> Arrival:
    return kind({"x": torch.tensor([value])})


def test_a_commit_a_second_in_plan_order() -> None:
    store, now = Store(), [0.0]
    with Outbox(0, lambda: now[0]) as outbox:
        for i in range(8):
            now[0] = 0.4 * i
            outbox.add(store.sink, [item(str(i))], result(i), 2)
    assert store.batches == [["0"], ["1", "2", "3"], ["4", "5", "6"], ["7"]]
    assert store.advanced == [2, 6, 6, 2]
    assert outbox.measured == 8


def test_results_in_flight_are_bounded_and_keep_their_order() -> None:
    store = Store()
    with Outbox(2, lambda: 0.0) as outbox:
        arrivals = [SlowArrival({"x": torch.tensor([float(i)])}) for i in range(5)]
        for i, arrival in enumerate(arrivals):
            outbox.add(store.sink, [item(str(i))], arrival, 1)
            assert sum(not each.here for each in arrivals[: i + 1]) == min(i + 1, 2)
    assert store.keys == [str(i) for i in range(5)]


def fill(
    store: Store, arrivals: Sequence[Arrival], error: BaseException | None = None, flying: int = 0
) -> None:
    """One result after the other, and at the end perhaps an error."""
    with Outbox(flying, lambda: 0.0) as outbox:
        for i, arrival in enumerate(arrivals):
            outbox.add(store.sink, [item(str(i))], arrival, 1)
        if error is not None:
            raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError()], ids=type)
def test_what_has_arrived_is_stored_before_an_error_goes_on(error: BaseException) -> None:
    store = Store()
    with pytest.raises(type(error)):
        fill(store, [result(i, SlowArrival) for i in range(4)], error, flying=1)
    assert store.keys == ["0", "1", "2"]  # the device still owes the last


def test_a_nan_is_refused_and_what_came_before_it_stored() -> None:
    store, values = Store(), (0.0, 1.0, float("nan"), 3.0)
    with pytest.raises(CheckpointError, match="not a number"):
        fill(store, [result(value) for value in values])
    assert store.keys == ["0", "1"]


def test_what_cannot_be_stored_is_tried_once() -> None:
    store = Store(broken=OSError("disk is full"))
    with pytest.raises(OSError, match="full"):
        fill(store, [result(0)])
    assert store.advanced == []


def test_what_has_arrived_is_stored_while_the_device_works() -> None:
    """The clock stands still: but for the first, nothing is stored because a second is over."""
    store = Store()
    with Outbox(1, lambda: 0.0) as outbox:
        for i in range(5):
            outbox.add(store.sink, [item(str(i))], result(i, SlowArrival if i > 2 else Arrival), 1)
            assert store.keys == [["0"], ["0"], ["0"], ["0"], ["0", "1", "2"]][i]
    assert store.batches == [["0"], ["1", "2"], ["3"], ["4"]]


def test_results_of_several_jobs_are_stored_each_by_its_own() -> None:
    stores = Store(), Store()
    sinks = [store.sink for store in stores]
    with Outbox(4, lambda: 0.0) as outbox:
        for i in range(6):
            outbox.add(sinks[i // 3], [item(str(i))], result(i, SlowArrival), 1)
        assert outbox.flies(sinks[0])
        outbox.land(sinks[0])
        assert not outbox.flies(sinks[0])
        assert outbox.flies(sinks[1])
    assert [store.keys for store in stores] == [["0", "1", "2"], ["3", "4", "5"]]
    assert [sum(store.advanced) for store in stores] == [3, 3]
    assert outbox.measured == 6


def test_pictures_come_back_as_they_were() -> None:
    there = [torch.randint(0, 256, (2, k, 3), dtype=torch.uint8) for k in (4, 5)]
    here = np.full((1, 2, 3), 7, dtype=np.uint8)
    found = Shown({"a": there[0], "b": here, "c": there[1]}).pictures()
    assert [*found] == ["a", "b", "c"]
    for name, expected in zip("abc", (there[0], here, there[1]), strict=True):
        assert found[name].dtype == np.uint8
        np.testing.assert_array_equal(found[name], expected)
    assert Shown({}).ready
    assert Shown({}).pictures() == {}


def test_columns_come_back_as_they_were() -> None:
    columns = {"a": torch.rand(3), "b": torch.rand(3, 4), "c": torch.arange(3)}
    found = Arrival(columns).columns()
    assert {name: values.dtype for name, values in found.items()} == dict.fromkeys(
        columns, torch.float64
    )
    for name, values in columns.items():
        assert torch.equal(found[name], values.double())


def test_on_a_gpu_columns_are_copied_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in: no GPU here. The order of calls is copy, record, and then wait for the event."""
    calls: list[str] = []
    event = SimpleNamespace(
        record=lambda stream: calls.append("record"),
        query=lambda: calls.append("query") or False,
        synchronize=lambda: calls.append("synchronize"),
    )
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "stream")
    real, cat = torch.empty, torch.cat

    class OnGpu(Tensor):
        device = torch.device("cuda")  # type: ignore[assignment]

    def empty(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
        calls.append("pinned" if pin_memory else "pageable")
        return real(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch, "cat", lambda *a, **k: cat(*a, **k).as_subclass(OnGpu))
    arrival = Arrival({"x": torch.ones(2)})
    assert calls == ["pinned", "record"]
    assert not arrival.ready
    assert torch.equal(arrival.columns()["x"], torch.ones(2).double())
    assert calls == ["pinned", "record", "query", "synchronize"]


# Several groups in a pass ------------------------------------------------------------------------


@pytest.mark.parametrize("domain", ["hr", "lr"])
def test_groups_in_one_pass_have_the_values_of_one_after_the_other(
    domain: str, tmp_path: Path
) -> None:
    study = Study(open_images(make_images(tmp_path / "images", 6)))
    net = EDSR(features=4, blocks=1).eval().requires_grad_(False)
    options = SwapOptions(**SMALL["swap"] | {"sources": 6, "groups": 3, "domain": domain})
    items = Swap(options).plan(study)
    assert len(items) == 3
    with study.measuring():
        together = Swap(options).measure(net, items, study)
        one_by_one = [Swap(options).measure(net, [each], study) for each in items]
    for name, values in together.items():
        expected = torch.cat([each[name] for each in one_by_one])
        assert torch.allclose(values, expected, rtol=1e-5, atol=1e-5), name
    assert together["psnr"].shape == (3, 4)


def test_a_pass_takes_several_groups_on_gpus_and_one_on_cpus() -> None:
    experiment = Swap(SwapOptions(groups=100, backgrounds=100))
    backs = tuple(item(f"b{k}") for k in range(99))
    items = [Item("f", "f", (0, 0, 128, 128), backs)]
    nothing = ImageSet("none", ())
    assert experiment.together(items, Study(nothing)) == 1
    assert experiment.together(items, Study(nothing, device=META)) == 20
