"""Share of the time in which a run keeps a GPU busy: a paper-size `swap` on a simulated GPU.

    python bench/bench_pipeline.py [--runs 5] [--groups 100] [--lr made|paired] [--record FILE]

No GPU is needed or used. The host's work is real: reading, launching, storing. Tensors of the
device are `meta` tensors. Their kernels are slow Python code, so each call is counted with
LAUNCH_SECONDS, about what a launch on a GPU costs the host. The simulated device runs the networks
only: each composite takes a fixed time, one after the other, and a result is ready when its network
would have finished. Composites, Gram matrices and PSNR take no device time, so the printed share
is too low rather than too high.

Two sets of network times, in milliseconds for 100 composites on an H100, both estimated by hand (no
GPU was measured): `now`, PyTorch's kernels in float32, and `limit`, the shortest time that tensor
cores allow at that accuracy. Two ways to run: `pipeline`, as fastbg does, and `one by one`, as it
did before: one group at a time is read, measured, waited for and committed.

All times are those of the run's thread: its CPU time, its waiting for the disk and for the threads
that read, and its simulated waiting for the device. Other processes therefore change little. On an
idle machine, `--clock wall` measures wall-clock time instead.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch._dynamo  # else the first call under a TorchDispatchMode does it, in a run's time
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

from bench import measure
from fastbg.data.builtin import builtin_images
from fastbg.data.images import ImageSet
from fastbg.experiments.experiment import NetLabel, Picture
from fastbg.experiments.study import Item, Study
from fastbg.experiments.swap import Swap, SwapOptions
from fastbg.models.network import DIV2K_MEAN, Network
from fastbg.runs import local, pipeline
from fastbg.runs.local import Job, run_in_turn
from fastbg.runs.pipeline import Arrival, Columns, Outbox, Shown
from fastbg.runs.store import RunStore

META = torch.device("meta")
NETWORKS = ("edsr", "rcan", "swinir")
MILLISECONDS = {"now": (7.5, 8.0, 10.0), "limit": (1.4, 1.4, 0.9)}  # for 100 composites
LAUNCH_SECONDS = {"aten": 10e-6, "fastbg": 400e-6}  # of a call, by the operator's namespace


class Device:
    """A simulated device: a queue of tasks of known duration, run one after the other.

    `busy`: total duration of all tasks; `ends`: when the last one ends; `waited`: time added to the
    thread's CPU time.
    """

    def __init__(self, clock: str) -> None:
        self.busy = self.ends = self.waited = 0.0
        self.wall = clock == "wall"

    def now(self) -> float:
        """Seconds on the run's clock."""
        return time.perf_counter() if self.wall else time.thread_time() + self.waited

    def launches(self) -> AbstractContextManager[object]:
        """Context in which operators take LAUNCH_SECONDS; without effect on the wall clock."""
        return nullcontext() if self.wall else Launches(self)

    def work(self, seconds: float) -> None:
        """Add a task to the queue."""
        self.ends = max(self.ends, self.now()) + seconds
        self.busy += seconds

    def wait(self, until: float) -> None:
        """Wait until the time `until`, a value of `ends`."""
        left = until - self.now()
        if left > 0:
            self.waited += left
            time.sleep(left)  # meanwhile the threads read


class Launches(TorchDispatchMode):
    """Counts LAUNCH_SECONDS for each operator instead of the time of its `meta` kernel."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.thread_time()
        try:
            return func(*args, **(kwargs or {}))
        finally:
            spent = time.thread_time() - start
            self.device.waited += LAUNCH_SECONDS.get(func.namespace, LAUNCH_SECONDS["aten"]) - spent


class StandIn(Network):
    """A network that takes `seconds` of `device` for each image and returns empty tensors."""

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
        """The window (B,3,y1-y0,x1-x0) of the SR images."""
        self.device.work(self.seconds * len(x))
        y0, x0, y1, x1 = window
        return x.new_empty((len(x), 3, y1 - y0, x1 - x0))


class StandInSwap(Swap):
    """`swap`, launched on the simulated device."""

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """As `Swap.measure`."""
        assert isinstance(net, StandIn)
        with net.device.launches():
            return super().measure(net, items, study)

    def exhibit(self, net: Network, item: Item, study: Study) -> dict[str, Tensor]:
        """As `Swap.exhibit`."""
        assert isinstance(net, StandIn)
        with net.device.launches():
            return super().exhibit(net, item, study)


def arrivals(device: Device) -> tuple[type[Arrival], type[Shown]]:
    """`Arrival` and `Shown` for results and (black) pictures of the simulated device."""

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

    class Black(Shown):
        def __init__(self, pictures: Mapping[str, Picture | Tensor]) -> None:
            super().__init__({n: torch.zeros(p.shape).byte() for n, p in pictures.items()})
            self._ends = device.ends

        @property
        def ready(self) -> bool:
            return device.now() >= self._ends

        def pictures(self) -> dict[str, Picture]:
            device.wait(self._ends)
            return super().pictures()

    return FromDevice, Black


@contextmanager
def one_by_one() -> Iterator[None]:
    """The way before the pipeline: each group is read, measured, waited for and committed."""
    with (
        mock.patch.object(pipeline, "AHEAD", 0),
        mock.patch.object(pipeline, "COMMIT_EVERY", 0.0),
        mock.patch.object(pipeline, "FLYING", 0),
        mock.patch.object(StandInSwap, "together", return_value=1),
    ):
        yield


class Spent:
    """Seconds of the run's thread, by activity."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.seconds: Counter[str] = Counter()

    def patch(
        self, stack: ExitStack, owner: Any, name: str, activity: str, waits: bool = False
    ) -> None:
        """Count the time in `owner.name` as `activity` while `stack` is open.

        `waits`: it may wait for the disk or for threads; that waiting is counted too.
        """
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start, wall, cpu = self.device.now(), time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                if waits:
                    self.device.waited += time.perf_counter() - wall - (time.thread_time() - cpu)
                self.seconds[activity] += self.device.now() - start

        stack.enter_context(mock.patch.object(owner, name, timed))


def with_lr_files(images: ImageSet, folder: Path) -> ImageSet:
    """`images`, each with an LR file of a quarter of its size in `folder`."""
    items = []
    for number, item in enumerate(images.items):
        height, width = item.size()
        path = folder / f"{number}.png"
        Image.fromarray(item.load()).resize((width // 4, height // 4)).save(path)
        items.append(replace(item, lr_paths=((4, path),)))
    return replace(images, items=tuple(items))


def run(
    milliseconds: Sequence[float], groups: int, clock: str, lr: str, folder: Path
) -> dict[str, float]:
    """A whole `swap` with each network: total seconds, device seconds, seconds by activity."""
    device = Device(clock)
    spent = Spent(device)
    arrival, shown = arrivals(device)
    images = builtin_images() if lr == "made" else with_lr_files(builtin_images(), folder)
    study = Study(images, device=META)
    sizes = {"sources": max(groups * 3 // 2, 4), "groups": groups, "backgrounds": 100}
    domain = "hr" if lr == "made" else "lr"
    options = SwapOptions(**sizes, seam="hard", lr=lr, domain=domain)
    with RunStore.open(folder / "run", {}, seeds={"seed": 0}) as store, ExitStack() as stack:
        stack.enter_context(mock.patch.object(local, "Arrival", arrival))
        stack.enter_context(mock.patch.object(local, "Shown", shown))
        stack.enter_context(mock.patch.object(local, "Outbox", partial(Outbox, clock=device.now)))
        spent.patch(stack, Job, "put", "storing", waits=True)
        spent.patch(stack, device, "wait", "waiting for the device")
        spent.patch(stack, StandInSwap, "measure", "launching")
        spent.patch(stack, pipeline.Future, "result", "waiting for reads", waits=True)
        items = Swap(options).plan(study)
        composites = sum(1 + len(item.partners) for item in items)
        experiment = StandInSwap(options)
        nets = [StandIn(device, each / 1e3 / 100) for each in milliseconds]
        jobs = [
            Job(experiment, net, NetLabel(name, name), items, study, store)
            for name, net in zip(NETWORKS, nets, strict=True)
        ]
        batches = [[job] for job in jobs] if pipeline.FLYING == 0 else [jobs]
        start = device.now()
        for batch in batches:
            for _, measured in run_in_turn(batch, lambda _: lambda _: None):
                assert measured == len(items)
        whole = device.now() - start
    return {
        "whole": whole,
        "device": device.busy,
        "composites": float(composites * len(NETWORKS)),
        **spent.seconds,
    }


WAYS: dict[str, Callable[[], Any]] = {"one by one": one_by_one, "pipeline": ExitStack}


def run_once(
    way: str, times: str, groups: int, clock: str = "cpu", lr: str = "made"
) -> dict[str, float]:
    """One run in a temporary folder; the result is that of `run`."""
    with tempfile.TemporaryDirectory() as folder, WAYS[way]():
        return run(MILLISECONDS[times], groups, clock, lr, Path(folder))


def main() -> None:
    """Print the busy shares and what limits them; keep all runs in a JSON record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--groups", type=int, default=100, help="of each set; the paper: 100")
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--lr", choices=("made", "paired"), default="made", help="option of swap")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    run_once("pipeline", "now", 2, lr=options.lr)  # warm-up: imports, decoded images
    for times in MILLISECONDS:
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(options.runs):
            for way in WAYS:
                found[way].append(run_once(way, times, options.groups, options.clock, options.lr))
        for way, runs in found.items():
            print(summary(way, times, runs))
        seconds = {way: [each["whole"] for each in runs] for way, runs in found.items()}
        results.append(
            measure.Result(f"pipeline_{times}", seconds, {"device": found["pipeline"][0]["device"]})
        )
    if options.record is not None:
        measure.write_record(options.record, results)


def summary(way: str, times: str, runs: Sequence[Mapping[str, float]]) -> str:
    """Busy share of a way (median and quartiles), and the seconds of its median run."""
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
