"""How busy a run keeps a GPU: a paper-size `swap` on a stand-in for one.

    python bench/bench_pipeline.py [--runs 5] [--groups 100] [--record FILE]

No GPU is needed and none is used. Everything that the host does is real: reading, launching,
storing. Tensors of the device are `meta` tensors; as their kernels are slow Python, each counts as
LAUNCH seconds, what it costs a host to launch one on a GPU. The stand-in counts the time of the
networks alone: so many seconds for each composite, one after the other; results are there when
their network would have been done. Composites, Gram matrices and PSNR take no time on it, which
makes the share that is printed lower.

Two times of the three built-in networks, milliseconds for 100 composites on an H100, both by hand
(no GPU was measured): `now`, as PyTorch's kernels would take in float32, and `limit`, the least
that tensor cores allow at that accuracy. Two ways: `pipeline`, as fastbg runs, and `one by one`,
what it did before: a group at a time, read when its turn comes, waited for, committed.

Time is that of the run's thread: its CPU time, the time in which it waits for the disk or for the
threads that read, and the time in which it would wait for the device. So other processes on the
machine change little; `--clock wall` takes the plain clock instead, for a machine that is idle.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

from bench import measure
from fastbg.data.builtin import builtin_images
from fastbg.experiments.experiment import NetLabel, Picture
from fastbg.experiments.groups import compose, read_groups
from fastbg.experiments.study import Item, Study, restore
from fastbg.experiments.swap import Swap, SwapOptions
from fastbg.models.network import DIV2K_MEAN, Network
from fastbg.runs import local, pipeline
from fastbg.runs.local import Job
from fastbg.runs.pipeline import Arrival, Columns, Outbox
from fastbg.runs.store import RunStore

META = torch.device("meta")
NETWORKS = ("edsr", "rcan", "swinir")
MILLISECONDS = {"now": (7.5, 8.0, 10.0), "limit": (1.4, 1.4, 0.9)}  # for 100 composites
LAUNCH = {"aten": 10e-6, "fastbg": 400e-6}  # seconds, by who wrote the operator


class Device:
    """A queue of work, each piece of known length, that begins when the one before has ended."""

    def __init__(self, clock: str) -> None:
        self.busy = self.ends = self.waited = 0.0
        self.wall = clock == "wall"

    def now(self) -> float:
        """Seconds, of the clock that the run goes by."""
        return time.perf_counter() if self.wall else time.thread_time() + self.waited

    def launches(self) -> AbstractContextManager[object]:
        """Inside, operators cost what launching them does; not by the plain clock."""
        return nullcontext() if self.wall else Launches(self)

    def work(self, seconds: float) -> None:
        """Add a piece to the queue."""
        self.ends = max(self.ends, self.now()) + seconds
        self.busy += seconds

    def wait(self, until: float) -> None:
        """Return once the time `until`, a value of `ends`, has come."""
        left = until - self.now()
        if left > 0:
            self.waited += left
            time.sleep(left)  # in which the threads read


class Launches(TorchDispatchMode):
    """Operators cost LAUNCH, in place of what their `meta` kernels do."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.thread_time()
        try:
            return func(*args, **(kwargs or {}))
        finally:
            spent = time.thread_time() - start
            self.device.waited += LAUNCH.get(func.namespace, LAUNCH["aten"]) - spent


class StandIn(Network):
    """A network that takes `seconds` of `device` for an image, and gives none."""

    architecture = "stand-in"

    def __init__(self, device: Device, seconds: float) -> None:
        super().__init__(4, 1.0, DIV2K_MEAN)
        self.device, self.seconds = device, seconds
        self.to(META)

    def forward(self, x: Tensor) -> Tensor:
        """SR images (B,3,4h,4w)."""
        self.device.work(self.seconds * len(x))
        return x.new_empty((len(x), 3, 4 * x.shape[-2], 4 * x.shape[-1]))

    def forward_window(self, x: Tensor, window: Sequence[int]) -> Tensor:
        """Their window."""
        self.device.work(self.seconds * len(x))
        y0, x0, y1, x1 = window
        return x.new_empty((len(x), 3, y1 - y0, x1 - x0))


class StandInSwap(Swap):
    """`swap`, whose pictures are black: there are no pixels to show."""

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """As `Swap`, launching on the stand-in."""
        assert isinstance(net, StandIn)
        with net.device.launches():
            return super().measure(net, items, study)

    def exhibit(self, net: Network, item: Item, study: Study) -> dict[str, Picture]:
        """As `Swap`, as far as the device is concerned."""
        assert isinstance(net, StandIn)
        with net.device.launches():
            groups = read_groups([item], study)
            lr = compose(groups, study, self.options, self.seams[0])
            self.compare(net, groups, lr)
            restore(net, lr[:11])
        net.device.wait(net.device.ends)
        return {name: torch.zeros(96, 96, 3, dtype=torch.uint8).numpy() for name in self.shown}


def arrivals(device: Device) -> type[Arrival]:
    """`Arrival` for results of the stand-in."""

    class FromDevice(Arrival):
        def __init__(self, columns: Mapping[str, Tensor]) -> None:
            some = {n: torch.full(c.shape, 30.0).double() for n, c in columns.items()}
            super().__init__(some)
            self._ends = device.ends

        @property
        def ready(self) -> bool:
            return device.now() >= self._ends

        def columns(self) -> Columns:
            device.wait(self._ends)
            return super().columns()

    return FromDevice


@contextmanager
def one_by_one() -> Iterator[None]:
    """A group at a time, read in its turn, waited for and committed."""
    with (
        mock.patch.object(pipeline, "AHEAD", 0),
        mock.patch.object(pipeline, "COMMIT_EVERY", 0.0),
        mock.patch.object(local, "FLYING", 0),
        mock.patch.object(StandInSwap, "together", return_value=1),
    ):
        yield


class Spent:
    """Seconds of the run's thread, by what it did."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.seconds: Counter[str] = Counter()

    def patch(self, stack: ExitStack, owner: Any, name: str, what: str, idle: bool = False) -> None:
        """Count the time in `owner.name` as `what`, while `stack` is open.

        `idle`: it may wait for other things than the device, which is time, too.
        """
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start, wall, cpu = self.device.now(), time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                if idle:
                    self.device.waited += time.perf_counter() - wall - (time.thread_time() - cpu)
                self.seconds[what] += self.device.now() - start

        stack.enter_context(mock.patch.object(owner, name, timed))


def run(milliseconds: Sequence[float], groups: int, clock: str, folder: Path) -> dict[str, float]:
    """A whole `swap` with each of the networks: seconds in all, of the device, and by what."""
    device = Device(clock)
    spent = Spent(device)
    arrival = arrivals(device)
    study = Study(builtin_images(), device=META)
    options = SwapOptions(
        sources=max(groups * 3 // 2, 4), groups=groups, backgrounds=100, seam="hard"
    )
    with RunStore.open(folder, {}, seeds={"seed": 0}) as store, ExitStack() as stack:
        stack.enter_context(mock.patch.object(local, "Arrival", arrival))
        stack.enter_context(mock.patch.object(local, "Outbox", partial(Outbox, clock=device.now)))
        spent.patch(stack, Job, "put", "storing", idle=True)
        spent.patch(stack, device, "wait", "waiting for the device")
        spent.patch(stack, StandInSwap, "measure", "launching")
        spent.patch(stack, pipeline.Future, "result", "waiting for what is read", True)
        items = Swap(options).plan(study)
        composites = sum(1 + len(item.partners) for item in items)
        experiment = StandInSwap(options)
        start = device.now()
        for name, each in zip(NETWORKS, milliseconds, strict=True):
            net = StandIn(device, each / 1e3 / 100)
            job = Job(experiment, net, NetLabel(name, name), items, study, store)
            assert job.run(lambda _: None) == len(items)
        whole = device.now() - start
    return {
        "whole": whole,
        "device": device.busy,
        "composites": float(composites * len(NETWORKS)),
        **spent.seconds,
    }


WAYS: dict[str, Callable[[], Any]] = {"one by one": one_by_one, "pipeline": ExitStack}


def share(way: str, times: str, groups: int, clock: str = "cpu") -> dict[str, float]:
    """One run in a new folder."""
    with tempfile.TemporaryDirectory() as folder, WAYS[way]():
        return run(MILLISECONDS[times], groups, clock, Path(folder) / "run")


def main() -> None:
    """Print shares and what they are limited by; keep all runs in a JSON record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--groups", type=int, default=100, help="of each set; the paper: 100")
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    share("pipeline", "now", 2)  # loads what is loaded once
    for times in MILLISECONDS:
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(options.runs):
            for way in WAYS:
                found[way].append(share(way, times, options.groups, options.clock))
        for way, runs in found.items():
            print(told(way, times, runs))
        seconds = {way: [each["whole"] for each in runs] for way, runs in found.items()}
        results.append(
            measure.Result(f"pipeline_{times}", seconds, {"device": found["pipeline"][0]["device"]})
        )
    if options.record is not None:
        measure.write_record(options.record, results)


def told(way: str, times: str, runs: Sequence[Mapping[str, float]]) -> str:
    """A way's share, a median with quartiles, and seconds of a middle run."""
    busy = measure.Ratio.of([each["device"] / each["whole"] for each in runs])
    middle = sorted(runs, key=lambda each: each["whole"])[len(runs) // 2]
    parts = [
        f"{name} {middle[name]:.2f}" for name in sorted(middle) if " " in name or "ing" in name
    ]
    return (
        f"{times:6} {way:11} device busy {busy.value:.0%} ({busy.low:.0%} to {busy.high:.0%}) of "
        f"{middle['whole']:.2f} s, {middle['composites']:.0f} composites; seconds of the thread: "
        + ", ".join(parts)
    )


if __name__ == "__main__":
    main()
