"""Many processes, on one machine or a Ray cluster: workers measure, this process stores.

The plan is cut into the chunks of the local engine, so workers see the same batches and give the
same records, bit for bit on the same hardware. A chunk is done when its records are in the store,
and only the driver writes there. If a worker or a node dies, other workers repeat its unfinished
chunks; if the driver dies, the same command resumes the run.
"""

import importlib
import os
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastbg.data.images import ImageItem, ImageSet
from fastbg.errors import EngineError, FastbgError, InvalidArgument
from fastbg.experiments.experiment import Experiment, Picture
from fastbg.experiments.study import CPU, Item, Study
from fastbg.models.network import Network
from fastbg.runs.local import Follow, Job
from fastbg.runs.pipeline import Arrival, Outbox, Shown, chunks_ahead, chunks_flying, read_ahead
from fastbg.version import __version__

LIVES = 3  # the run fails after so many workers died on one chunk, or failed to start in a row
GPU_LOAD = 4  # chunks that a worker on a GPU gets at once, so that it can read ahead
HELD = 2  # loads that a worker has at most: it measures one, and reads the next
PATIENCE = 300.0  # seconds to wait for the cluster, and then for a first worker
# ray is an optional dependency, imported only when an engine is made.
Ref: TypeAlias = Any
Actor: TypeAlias = Any
T = TypeVar("T")


class RayEngine:
    """Sends chunks to workers, which keep their networks. Use it in a `with` block."""

    def __init__(
        self,
        nets: Mapping[str, Network],
        study: Study,
        *,
        address: str | None = None,
        workers: int | None = None,
        gpus: float = 0.0,
        say: Callable[[str], None] = print,
    ) -> None:
        """Connect to the cluster at `address` ("auto": one that runs here), or start one here.

        `nets` by label and `study`, both on the CPU, are sent to the object store once. `workers`
        None is one per `gpus` GPUs, or one per core if `gpus` is 0. `say` gets a line when a
        worker is lost.

        Raises EngineError if ray is not installed or no cluster answers within PATIENCE seconds,
        InvalidArgument if the cluster is too small for `workers`.
        """
        self._ray = _import_ray()
        self._gpus, self._say = gpus, say
        self._owner = not self._ray.is_initialized()
        nodes = self._connect(address)
        try:
            self.workers, self._cpus = share(nodes, workers, gpus)
            self.device = torch.device("cuda") if gpus else CPU
            shared = replace(
                study, images=self._put_images(study.images), device=self.device, folder=None
            )
            self._study, self._here = self._ray.put(shared), replace(study, device=self.device)
            self._nets = {label: self._ray.put(net) for label, net in nets.items()}
            self._idle: list[Actor] = []
            self._starting: dict[Ref, Actor] = {}
            self._failed_starts = 0
            for _ in range(self.workers):
                self._start_worker()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "RayEngine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers, and the cluster if it was started here."""
        if self._owner:
            self._ray.shutdown()

    def run_in_turn(self, jobs: Sequence[Job], follow: Follow) -> Generator[tuple[Job, int]]:
        """As `fastbg.runs.local.run_in_turn`, on the workers; one job after the other."""
        for job in jobs:
            yield job, self.run(job, follow(job))

    def run(self, job: Job, advance: Callable[[int], None]) -> int:
        """As `Job.run`, on the workers; also raises EngineError if they keep dying.

        Experiments without networks take seconds and may export files, so they run in this process.
        """
        if not job.experiment.networks:
            return job.run(advance)
        sizes, chunks = [], []
        for chunk, fresh in job.chunks(self._here):
            if fresh:
                sizes.append(len(chunk))
                chunks.append(fresh)
            else:
                advance(len(chunk))
        step = GPU_LOAD if self._gpus else 1
        loads = [chunks[first : first + step] for first in range(0, len(chunks), step)]
        experiment = self._ray.put(job.experiment)
        sink = job.sink(advance)
        with Outbox(chunks_flying(self.device)) as outbox:
            for i, results in self._gather("measure", job, experiment, loads, outbox.commit):
                counts = sizes[i * step : (i + 1) * step]
                for fresh, columns, count in zip(loads[i], results, counts, strict=True):
                    outbox.add(sink, fresh, Arrival(columns), count)
        cases = job.undrawn()
        for i, pictures in self._gather("exhibit", job, experiment, cases):
            job.put_pictures(cases[i], pictures)
        return sum(map(len, chunks))

    def _gather(
        self,
        method: str,
        job: Job,
        experiment: Ref,
        loads: Sequence[Any],
        idle: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[int, Any]]:
        """(index of a load, result of the workers' `method` for it), in order of completion.

        Each worker gets its next load before it has finished one (HELD). `idle` is called before
        waiting, if no result is available.
        """
        waiting, busy = deque(range(len(loads))), dict[Ref, tuple[Actor, int]]()
        held: dict[Actor, list[int]] = {}  # indices of the loads of each worker that is not lost
        lost: Counter[int] = Counter()

        def give(actor: Actor) -> None:
            i, task = waiting.popleft(), getattr(actor, method)
            # In a list, so that Ray passes the reference and the worker can cache the object.
            busy[task.remote([experiment], job.label.label, loads[i])] = actor, i
            held.setdefault(actor, []).append(i)

        def feed() -> None:
            while waiting and self._idle:
                give(self._idle.pop())
            for actor, own in [*held.items()]:
                # The last loads go to whoever is free first.
                if len(waiting) < len(held) + len(self._starting):
                    return
                # One over which a worker died goes alone, so that no other is blamed for it.
                if len(own) < HELD and not any(lost[i] for i in (*own, waiting[0])):
                    give(actor)

        while waiting or busy:
            feed()
            (ref,) = self._wait([*busy, *self._starting], idle)
            if ref in self._starting:
                self._welcome(ref)
                continue
            actor, i = busy.pop(ref)
            try:
                result = self._result(ref)
            except _WorkerLost as loss:
                waiting.appendleft(i)
                lost[i] += 1
                if lost[i] == LIVES:
                    raise EngineError(
                        f"{job.experiment.name} {job.label.label}: {LIVES} workers died over the "
                        f"same chunk ({_named(loads[i])}): {loss}; give each worker more memory "
                        "(fewer --workers), or run it with --engine local to see why"
                    ) from loss
                if held.pop(actor, None):  # not when its other load was reported
                    self._say(f"a worker was lost ({loss}); its chunks go to others")
                    self._replace(actor)
                continue
            if actor in held:
                held[actor].remove(i)
                if not held[actor]:
                    del held[actor]
                    self._idle.append(actor)
            feed()  # keep workers busy while the caller stores the result
            yield i, result

    def _connect(self, address: str | None) -> list[Mapping[str, float]]:
        """Resources of the cluster's living nodes, "CPU" and "GPU"."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # send no usage statistics
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        where = {"include_dashboard": False} if address is None else {"address": address}

        def connect() -> list[Mapping[str, float]]:
            if self._owner:
                self._ray.init(**where, **quiet)
            try:
                return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            except BaseException:
                self.close()
                raise

        try:
            return within(PATIENCE, connect)
        except Silence as error:
            what = "Ray did not start" if address is None else f"Ray at {address!r} does not answer"
            raise EngineError(
                f"--engine ray: {what}: waited {PATIENCE:.0f} s; look at its logs "
                "(ray/session_latest in the temporary folder), try `ray status`, or take "
                "--engine local"
            ) from error
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise EngineError(
                f"--address: no Ray cluster answers at {address!r}: {_line(error)}; start one with "
                "`ray start --head`, or leave --address out to start one here"
            ) from error

    def _put_images(self, images: ImageSet) -> ImageSet:
        return replace(images, items=tuple(self._put_image(item) for item in images.items))

    def _put_image(self, item: ImageItem) -> "SharedImage":
        files = [item.path, *(path for _, path in item.lr_paths)]
        # A missing LR file raises when it is loaded, as with the local engine.
        contents = tuple((p, self._ray.put(p.read_bytes())) for p in files if p.is_file())
        return SharedImage(item.key, item.path, item.lr_paths, contents)

    def _start_worker(self) -> None:
        options: dict[str, Any] = {
            "num_cpus": self._cpus,
            "num_gpus": self._gpus,
            "max_concurrency": HELD,  # its threads, see Worker.measure
        }
        actor = (
            self._ray.remote(Worker)
            .options(**options)
            .remote(self._study, self._nets, None if self._gpus else self._cpus)
        )
        self._starting[actor.versions.remote()] = actor

    def _welcome(self, ref: Ref) -> None:
        """Note that a worker has started, or has failed to start."""
        actor = self._starting.pop(ref)
        try:
            theirs = self._result(ref)
        except _WorkerLost as loss:
            self._failed_starts += 1
            if self._failed_starts == LIVES:
                raise EngineError(f"workers cannot start: {loss}") from loss
            self._replace(actor)
            return
        self._failed_starts = 0
        if theirs != versions():
            raise EngineError(f"a worker has {theirs}, the driver {versions()}; expected the same")
        self._idle.append(actor)

    def _replace(self, actor: Actor) -> None:
        self._ray.kill(actor)  # it may still be alive if only the connection broke
        self._start_worker()

    def _wait(self, refs: list[Ref], idle: Callable[[], None]) -> list[Ref]:
        """The first of `refs` that is complete; if none is yet, calls `idle`, then waits."""
        done: list[Ref]
        done, _ = self._ray.wait(refs, timeout=0)
        if not done:
            idle()
        while not done:
            done, _ = self._ray.wait(refs, timeout=PATIENCE)
            if not done and all(ref in self._starting for ref in refs):
                raise EngineError(
                    f"no worker of {self._cpus} cores and {self._gpus:g} GPUs could start within "
                    f"{PATIENCE:.0f} s; the cluster has free: {self._ray.available_resources()}"
                )
        return done

    def _result(self, ref: Ref) -> Any:
        """The result of a worker; raises its error if that is one of fastbg's."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except errors.RayTaskError as error:
            if isinstance(error.cause, FastbgError):
                raise error.cause from None
            raise
        except errors.RayError as error:
            raise _WorkerLost(_line(error)) from error


class Worker:
    """One process of the cluster: builds each network once, on first use, and keeps it.

    Ray calls its methods in HELD threads, of which one measures.
    """

    def __init__(self, study: Study, nets: Mapping[str, Ref], threads: int | None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.study, self._refs = study, nets
        self._nets: dict[str, Network] = {}
        self._experiment: dict[Ref, Experiment] = {}
        self._building, self._measuring = threading.Lock(), threading.Lock()

    def versions(self) -> dict[str, str]:
        """Versions of the packages that decide the records."""
        return versions()

    def measure(
        self, experiment: list[Ref], label: str, chunks: list[list[Item]]
    ) -> list[dict[str, Tensor]]:
        """The columns of each chunk, on the host; the next chunks are read meanwhile.

        So are the first ones of the next load, in another thread, which launches them when all of
        this load are launched.
        """
        measured, net, device = self._same(experiment), self._net(label), self.study.device
        arrivals = []
        with closing(
            read_ahead(chunks, measured.readings, self.study, chunks_ahead(device))
        ) as ahead:
            first = next(ahead)
            with self._measuring:
                for chunk, study in zip(chunks, chain([first], ahead), strict=True):
                    with study.measuring():
                        arrivals.append(Arrival(measured.measure(net, chunk, study)))
        return [arrival.columns() for arrival in arrivals]

    def exhibit(self, experiment: list[Ref], label: str, item: Item) -> dict[str, Picture]:
        """The pictures of a case."""
        shown, net = self._same(experiment), self._net(label)
        with self._measuring, self.study.measuring():
            return Shown(shown.exhibit(net, item, self.study)).pictures()

    def _same(self, experiment: list[Ref]) -> Experiment:
        """The same object for all chunks of a job, as experiments may cache what chunks share."""
        (ref,) = experiment
        with self._building:
            if ref not in self._experiment:
                self._experiment = {ref: _import_ray().get(ref)}
            return self._experiment[ref]

    def _net(self, label: str) -> Network:
        with self._building:
            if label not in self._nets:
                self._nets[label] = _import_ray().get(self._refs[label]).to(self.study.device)
            return self._nets[label]


@dataclass(frozen=True)
class SharedImage(ImageItem):
    """An image whose files are in the object store; workers unpack them to read them."""

    contents: tuple[tuple[Path, Ref], ...] = ()

    def size(self) -> tuple[int, int]:
        """As `ImageItem.size`."""
        with self._unpacked() as image:
            return image.size()

    def load(self) -> NDArray[np.uint8]:
        """As `ImageItem.load`."""
        with self._unpacked() as image:
            return image.load()

    def load_lr(self, scale: int) -> NDArray[np.uint8] | None:
        """As `ImageItem.load_lr`."""
        with self._unpacked() as image:
            return image.load_lr(scale)

    @contextmanager
    def _unpacked(self) -> Iterator[ImageItem]:
        """The same image in temporary files of this machine, with the original suffixes."""
        with tempfile.TemporaryDirectory(prefix="fastbg-") as folder:

            def local(path: Path) -> Path:
                return Path(folder, *path.absolute().parts[1:])

            for path, content in self.contents:
                local(path).parent.mkdir(parents=True, exist_ok=True)
                local(path).write_bytes(_import_ray().get(content))
            lr_paths = tuple((scale, local(path)) for scale, path in self.lr_paths)
            yield ImageItem(self.key, local(self.path), lr_paths)


class _WorkerLost(Exception):
    """A process or node died before it returned its result; handled inside the engine."""


class Silence(Exception):
    """A call did not return in time; handled inside the engine."""


def share(
    nodes: Sequence[Mapping[str, float]], workers: int | None, gpus: float
) -> tuple[int, int]:
    """Number of workers, and cores of each, that fit on `nodes` (their "CPU" and "GPU").

    Raises InvalidArgument if `workers` do not fit.
    """

    def room(cpus: int) -> int:
        return sum(
            min(
                int(node.get("CPU", 0) // cpus),
                int(node.get("GPU", 0) / gpus) if gpus else 1 << 30,
            )
            for node in nodes
        )

    most = room(1)
    if not 1 <= (most if workers is None else workers) <= most:
        each = f"{gpus:g} GPUs and a core" if gpus else "a core"
        raise InvalidArgument(
            "--workers", workers, f"1 to {most}, which is what the cluster has room for ({each})"
        )
    count = most if workers is None else workers
    most_cpus = max(int(node.get("CPU", 0)) for node in nodes)
    return count, max(cpus for cpus in range(1, most_cpus + 1) if room(cpus) >= count)


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns or raises; raises Silence if it takes longer than `seconds`.

    `call` runs in a daemon thread, which is abandoned on a timeout, as code that hangs outside of
    Python cannot be interrupted.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="fastbg waits for Ray", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise Silence(f"no answer within {seconds:g} s")
    return results[0]


def versions() -> dict[str, str]:
    """Versions of the packages that decide the records."""
    return {"fastbg": __version__, "torch": torch.__version__, "numpy": np.__version__}


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise EngineError(
            "--engine ray: ray is not installed; expected it: pip install 'fastbg[ray]'"
        ) from error


def _line(error: BaseException) -> str:
    """The first line of an error's text."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _named(load: Any) -> str:
    """The first and the last item of a load: chunks, or the item of a case."""
    items = [item for chunk in load for item in chunk] if isinstance(load, list) else [load]
    return items[0].key if len(items) == 1 else f"{items[0].key} to {items[-1].key}"
