"""The Ray engine on a real cluster of two nodes: equal records, nothing lost, nothing twice."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_run import EXPERIMENTS, OPTIONS, contents, make_images, make_network
from torch import Tensor

from fastbg.cli import main
from fastbg.data.images import ImageItem, open_folder
from fastbg.errors import DataError, EngineError, InvalidArgument, RunStoreError
from fastbg.experiments.effect import Effect, EffectOptions
from fastbg.experiments.experiment import Experiment, NetLabel
from fastbg.experiments.slicing import Slicing, SlicingOptions
from fastbg.experiments.study import Item, Study
from fastbg.experiments.table1 import Table1, Table1Options
from fastbg.models.checkpoints import load_model
from fastbg.runs import pipeline
from fastbg.runs import ray as ray_engine
from fastbg.runs.local import Job
from fastbg.runs.ray import RayEngine, SharedImage, share, within
from fastbg.runs.records import settle, settle_network
from fastbg.runs.store import RunStore

LONGEST = 240.0  # seconds that a driver may take until it is killed
MEMORY = 80 << 20  # bytes of each node's object store: the least that Ray takes


@dataclass
class Setting:
    """A cluster, something to measure, and what the local engine finds."""

    cluster: Any
    folder: Path
    nodes: list[Any] = field(default_factory=list)

    @property
    def command(self) -> list[str]:
        images, network = str(self.folder / "images"), str(self.folder / "net.safetensors")
        return ["run", *EXPERIMENTS, "--data", images, "--model", network, *OPTIONS]

    @property
    def study(self) -> Study:
        return Study(open_folder(self.folder / "images"))

    def add_node(self) -> None:
        self.nodes.append(self.cluster.add_node(num_cpus=1, object_store_memory=MEMORY))
        self.cluster.wait_for_nodes()


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    """Two nodes of one core each, both on this machine."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'fastbg[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_raylet_start_wait_time_s"] = "300"  # noqa: SIM112
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("ray")
    make_images(folder / "images")
    make_network(folder / "net.safetensors")
    head = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
    setting = Setting(Cluster(initialize_head=True, head_node_args=head), folder)
    try:
        setting.add_node()
        assert main([*setting.command, "--out", str(folder / "local")]) == 0
        yield setting
    finally:
        setting.cluster.shutdown()


@pytest.fixture(scope="module")
def engine(setting: Setting) -> Iterator[RayEngine]:
    """Two workers, one on each node; they outlive a test, as they outlive a job."""
    nets = {"net": load_model(setting.folder / "net.safetensors")}
    losses: list[str] = []
    with RayEngine(
        nets, setting.study, address=setting.cluster.address, say=losses.append
    ) as engine:
        engine.losses = losses  # type: ignore[attr-defined]
        yield engine


MEASURED: tuple[Experiment, ...] = (
    Slicing(SlicingOptions(tile=32)),
    Table1(Table1Options(count=25, size=64, region=32)),
)


def run(
    engine: RayEngine | None,
    setting: Setting,
    out: Path,
    experiments: tuple[Experiment, ...] = MEASURED,
) -> dict[str, list[Any]]:
    """The experiments into `out`; all that is then stored."""
    label = NetLabel("net", "edsr")
    net = load_model(setting.folder / "net.safetensors")
    with RunStore.open(out, {}, seeds={"seed": 0}) as store:
        settle_network(store, label, "weights")
        for experiment in experiments:
            items = settle(store, experiment, setting.study)
            job = Job(experiment, net, label, items, setting.study, store)
            advanced: list[int] = []
            (job.run if engine is None else lambda a, job=job: engine.run(job, a))(advanced.append)
            assert sum(advanced) == len(items)
    return contents(out)


@pytest.fixture(scope="module")
def unbroken(setting: Setting) -> dict[str, list[Any]]:
    return run(None, setting, setting.folder / "unbroken")


def after(count: int, act: Any, monkeypatch: pytest.MonkeyPatch) -> list[Item]:
    """Call `act` once `count` chunks are stored; the items stored so far, as they come."""
    put, stored, calls = Job.put, list[Item](), [0]

    def counted(job: Job, items: list[Item], columns: Mapping[str, list[Tensor]]) -> None:
        put(job, items, columns)
        stored.extend(items)
        calls[0] += 1
        if calls[0] == count:
            act()

    monkeypatch.setattr(Job, "put", counted)
    monkeypatch.setattr(pipeline, "COMMIT_EVERY", 0.0)  # each chunk is stored by itself
    return stored


def worker_processes(cluster: Any) -> list[int]:
    """Ids of the processes that are workers of ours, those that measure first."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            title = (process / "cmdline").read_bytes().replace(b"\0", b" ").strip()
            # After the name, which is in brackets: state, parent.
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            grandparent = int(
                Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1]
            )
        except (OSError, ValueError, IndexError):
            continue  # no process, or one that has just ended
        if title.startswith(b"ray::Worker") and grandparent == os.getpid():
            found.append((b"measure" not in title, int(process.name)))
    return [pid for _, pid in sorted(found)]


# Before the engine below takes all cores.

SLOW_DRIVER = (
    "import sys, time; from fastbg.cli import main; from fastbg.runs.local import Job;"
    "put = Job.put;"
    "Job.put = lambda *a: (put(*a), time.sleep(0.5));"  # time to be killed in
    "sys.exit(main(sys.argv[1:]))"
)


def test_a_driver_killed_and_resumed(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    out = setting.folder / "killed"
    options = ["--engine", "ray", "--address", setting.cluster.address]
    command = [*setting.command, "--out", str(out), *options]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_DRIVER, *command],
        cwd=Path(__file__).parent,  # not where a fastbg lies that is not the installed one
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    give_up = time.monotonic() + LONGEST
    try:
        while not stored(out) and process.poll() is None:
            assert time.monotonic() < give_up, "the run came to nothing"
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    kept = stored(out)
    assert 0 < kept < 29

    fresh = after(0, None, monkeypatch)
    assert main(command) == 0  # its workers wait for the cores of those whose driver is gone
    assert len(fresh) == 29 - kept
    assert contents(out) == contents(setting.folder / "local")


def stored(out: Path) -> int:
    """Records of a run that another process is writing."""
    if not (out / "run.sqlite").is_file():
        return 0
    try:
        with RunStore.read(out) as store:
            return len(store.records())
    except RunStoreError:  # its tables are just being made
        return 0


def test_records_are_those_of_the_local_engine(
    engine: RayEngine, setting: Setting, unbroken: dict[str, list[Any]], tmp_path: Path
) -> None:
    assert engine.workers == 2
    assert run(engine, setting, tmp_path) == unbroken
    assert len(unbroken["records"]) == 4 + 25


def test_causal_effects_are_those_of_the_local_engine(
    engine: RayEngine, setting: Setting, tmp_path: Path
) -> None:
    """Its draws are seeded by block, so it does not matter which worker measures what."""
    options = EffectOptions(count=1, candidates=6, size=64, border=32, coarse=1, fine=1)
    alone = run(None, setting, tmp_path / "local", (Effect(options),))
    assert len(alone["records"]) == 3
    assert run(engine, setting, tmp_path / "ray", (Effect(options),)) == alone


def test_a_run_goes_over_from_one_engine_to_the_other(
    engine: RayEngine,
    setting: Setting,
    unbroken: dict[str, list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        after(5, stop, patch)
        with pytest.raises(KeyboardInterrupt):
            run(None, setting, tmp_path)
    stored = after(0, stop, monkeypatch)
    assert run(engine, setting, tmp_path) == unbroken
    assert len(stored) == 15  # of 29, 4 slices and the first chunk of 10 were there


def test_a_worker_killed_in_the_middle(
    engine: RayEngine,
    setting: Setting,
    unbroken: dict[str, list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine.losses.clear()  # type: ignore[attr-defined]

    def kill() -> None:
        os.kill(worker_processes(setting.cluster)[0], signal.SIGKILL)

    stored = after(2, kill, monkeypatch)
    assert run(engine, setting, tmp_path) == unbroken
    assert len(stored) == len(unbroken["records"])
    (loss,) = engine.losses  # type: ignore[attr-defined]
    assert loss.startswith("a worker was lost (")


def test_a_node_removed_in_the_middle(
    engine: RayEngine,
    setting: Setting,
    unbroken: dict[str, list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def remove() -> None:
        setting.cluster.remove_node(setting.nodes.pop(), allow_graceful=False)

    stored = after(2, remove, monkeypatch)
    try:
        assert run(engine, setting, tmp_path) == unbroken
    finally:
        setting.add_node()
    assert len(stored) == len(unbroken["records"])


def test_errors_of_the_work_come_as_they_are(
    engine: RayEngine, setting: Setting, tmp_path: Path
) -> None:
    net = load_model(setting.folder / "net.safetensors")
    nowhere = [Item("nowhere", "nowhere.png", (0, 0, 64, 64))]
    with RunStore.open(tmp_path / "out", {}) as store:
        job = Job(MEASURED[0], net, NetLabel("net", "edsr"), nowhere, setting.study, store)
        with pytest.raises(DataError, match=r"^image set images: has no image 'nowhere\.png'$"):
            engine.run(job, lambda _: None)


# What needs no cluster.


@pytest.mark.parametrize(
    ("nodes", "workers", "gpus", "expected"),
    [
        ([{"CPU": 8}], None, 0.0, (8, 1)),
        ([{"CPU": 8}], 2, 0.0, (2, 4)),
        ([{"CPU": 8}], 3, 0.0, (3, 2)),
        ([{"CPU": 4}, {"CPU": 2}], 3, 0.0, (3, 2)),
        ([{"CPU": 32, "GPU": 4}, {"CPU": 8}], None, 1.0, (4, 8)),
        ([{"CPU": 32, "GPU": 4}], None, 0.5, (8, 4)),
        ([{"CPU": 32, "GPU": 4}], 2, 2.0, (2, 16)),
        ([{"CPU": 2, "GPU": 4}], None, 1.0, (2, 1)),  # a worker needs a core, too
    ],
)
def test_workers_share_what_there_is(
    nodes: list[dict[str, float]], workers: int | None, gpus: float, expected: tuple[int, int]
) -> None:
    assert share(nodes, workers, gpus) == expected


@pytest.mark.parametrize(
    ("nodes", "workers", "gpus", "message"),
    [
        ([{"CPU": 8}], 9, 0.0, "--workers: got 9; expected 1 to 8"),
        ([{"CPU": 8}], 0, 0.0, "--workers: got 0; expected 1 to 8"),
        ([{"CPU": 8}], None, 1.0, "--workers: got None; expected 1 to 0.*1 GPUs and a core"),
    ],
)
def test_too_many_workers(
    nodes: list[dict[str, float]], workers: int | None, gpus: float, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        share(nodes, workers, gpus)


def test_without_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    study = Study(open_folder(make_images(tmp_path / "images", 1)))
    with pytest.raises(EngineError, match=r"ray is not installed.*pip install 'fastbg\[ray\]'"):
        RayEngine({}, study)


def stub(**functions: Any) -> SimpleNamespace:
    """A ray that is not connected and does as told."""
    never: dict[str, Any] = {"is_initialized": lambda: False, "shutdown": lambda: None}
    return SimpleNamespace(**(never | functions))


@pytest.mark.parametrize(
    ("address", "said"),
    [(None, "Ray did not start"), ("10.0.0.1:6379", "Ray at '10.0.0.1:6379' does not answer")],
)
@pytest.mark.parametrize("hanging", ["init", "nodes"])
def test_a_cluster_that_hangs_is_given_up(
    address: str | None,
    said: str,
    hanging: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """While it starts, or when it is asked for its nodes; the error comes in time."""
    released = threading.Event()
    working: dict[str, Any] = {"init": lambda **_: None, "nodes": list}
    working[hanging] = lambda **_: released.wait(60)
    monkeypatch.setitem(sys.modules, "ray", stub(**working))
    monkeypatch.setattr(ray_engine, "PATIENCE", 0.2)
    study = Study(open_folder(make_images(tmp_path / "images", 1)))
    start = time.monotonic()
    try:
        with pytest.raises(EngineError, match=rf"^--engine ray: {said}: waited 0 s; look at"):
            RayEngine({}, study, address=address)
    finally:
        released.set()
    assert time.monotonic() - start < 10


def test_the_command_ends_though_the_start_hangs(tmp_path: Path) -> None:
    """The thread that waits does not keep the process alive."""
    images, network = make_images(tmp_path / "images", 2), make_network(tmp_path / "n.safetensors")
    script = (
        "import sys, threading, types\n"
        "hang = lambda **_: threading.Event().wait()\n"
        "sys.modules['ray'] = types.SimpleNamespace(\n"
        "    is_initialized=lambda: False, init=hang, shutdown=lambda: None)\n"
        "from fastbg.runs import ray\n"
        "ray.PATIENCE = 0.2\n"
        "from fastbg.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = ["run", "slicing", "--data", str(images), "--model", str(network), *OPTIONS[-2:]]
    done = subprocess.run(
        [sys.executable, "-c", script, *command, "--engine", "ray", "--out", str(tmp_path / "run")],
        cwd=Path(__file__).parent,
        check=False,
        capture_output=True,
        text=True,
        timeout=LONGEST,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("fastbg: --engine ray: Ray did not start")
    assert done.stderr.count("\n") == 1


def test_errors_of_the_start_come_as_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(**_: Any) -> None:
        raise ConnectionError("nobody there\nat all")

    monkeypatch.setitem(sys.modules, "ray", stub(init=refuse))
    study = Study(open_folder(make_images(tmp_path / "images", 1)))
    with pytest.raises(EngineError, match=r"no Ray cluster answers at 'a:1': nobody there; start"):
        RayEngine({}, study, address="a:1")
    with pytest.raises(ZeroDivisionError):
        within(10, lambda: 1 / 0)
    assert within(10, lambda: None) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "--workers: got 2; expected none without --engine ray"),
        (["--address", "auto"], "--address: got auto; expected none without --engine ray"),
        (["--engine", "ray", "--gpus-per-worker", "-1"], "--gpus-per-worker: got -1.0"),
        (["--engine", "ray", "--device", "cuda"], "--device: got 'cuda'; expected cpu"),
        (
            ["--engine", "ray", "--gpus-per-worker", "1", "--device", "cpu"],
            "--device: got 'cpu'; expected cuda, as --gpus-per-worker is 1",
        ),
    ],
)
def test_options_that_do_not_go_together(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = make_images(tmp_path / "images", 1)
    out = ["--data", str(images), "--out", str(tmp_path / "run")]
    assert main(["run", *out, *options]) == 2
    assert message in capsys.readouterr().err


def test_shared_images_are_those_of_the_files_and_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a cluster: the object store is a dictionary."""
    store = {"hr": (tmp_path / "images" / "0.png"), "cut": tmp_path / "cut.png"}
    make_images(tmp_path / "images", 1)
    content = store["hr"].read_bytes()
    store["cut"].write_bytes(content[:-300])
    fake = SimpleNamespace(get=lambda name: store[name].read_bytes())
    monkeypatch.setitem(sys.modules, "ray", fake)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    path = Path("/on/the/driver/0.png")
    paired = ((2, path.with_name("0x2.png")), (4, path.with_name("0x4.png")))
    image = SharedImage("0.png", path, paired, ((path, "hr"), (paired[0][1], "hr")))
    plain = ImageItem("0.png", store["hr"])
    assert image.size() == plain.size()
    assert np.array_equal(image.load(), plain.load())
    with pytest.raises(DataError, match=r"on/the/driver/0x2\.png: is 80x96; expected 1/2"):
        image.load_lr(2)
    with pytest.raises(DataError, match=r"on/the/driver/0x4\.png: cannot be read"):
        image.load_lr(4)  # the data set lacks it
    with pytest.raises(DataError, match=r"on/the/driver/0\.png: cannot be read as an image"):
        SharedImage("0.png", path, (), ((path, "cut"),)).load()
    assert not list((tmp_path / "scratch").iterdir())


def test_what_needs_no_network_is_done_by_the_driver() -> None:
    job = SimpleNamespace(experiment=SimpleNamespace(networks=False), run=lambda advance: advance)
    engine = object.__new__(RayEngine)  # neither connected nor with workers
    assert engine.run(job, len) is len  # type: ignore[arg-type, comparison-overlap]


def test_errors_travel_between_processes() -> None:
    error = pickle.loads(pickle.dumps(InvalidArgument("size", (3, 4), "a square")))  # noqa: S301
    assert str(error) == "size: got (3, 4); expected a square"
    assert error.argument == "size"
