"""`fastbg run --dry-run`: estimates the work, and the time for several numbers of workers."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from fastbg.cli.info import describe
from fastbg.data.images import ImageSet
from fastbg.experiments.experiment import Experiment, NetLabel
from fastbg.experiments.study import Item, Study
from fastbg.models.network import Network
from fastbg.runs.estimate import Estimate, Rate, expected, lacking, makespan, pixels, rate
from fastbg.runs.forecast import Forecast, Key
from fastbg.runs.limits import Limits
from fastbg.runs.local import taking_part
from fastbg.runs.progress import Display
from fastbg.runs.store import RunStore

WORKERS = (1, 8, 64)
TIMING = 8.0  # seconds after which no further network is timed
Nets = Sequence[tuple[NetLabel, Network, str]]


def show(
    chosen: Sequence[Experiment],
    places: Sequence[tuple[Nets, Study]],
    limits: Limits,
    out: Path,
    console: Console,
) -> None:
    """Print counts, then the expected times for each of `places`, one per device.

    Results that the run folder `out` already has are not counted; nothing is written. The current
    step is shown on the error stream.
    """
    plans = []
    with activity() as display:
        for number, experiment in enumerate(chosen, 1):
            display.now(f"choosing images: {experiment.name} ({number} of {len(chosen)})")
            plans.append((experiment, limits.cut(experiment, experiment.plan(places[0][1]))))
    done = stored(out)
    for number, (nets, study) in enumerate(places):
        start = time.perf_counter()
        study = replace(study, folder=None)  # a measured chunk exports nothing
        jobs = [
            Timed(experiment, net, label.label, lacking(experiment, items, left, study))
            for experiment, items in plans
            for label, net, _ in taking_part(experiment, nets)
            for left in (done.get((experiment.name, label.label), set()),)
        ]
        with activity() as display:
            found, timed = calibrated(jobs, study, display)
        took = time.perf_counter() - start
        if number == 0:
            console.print(counts(found))
            console.print(transfers(study.images, nets), soft_wrap=True)
        device = f"{study.device.type} ({describe(study.device)})"
        how = f"{timed} of {len(jobs)} timed in {took:.1f} s"
        console.print(times(list(found.values()), f"on {device},\n{how}, the others by them"))


class Timed(NamedTuple):
    """One network in one experiment, and the remaining chunks."""

    experiment: Experiment
    net: Network
    label: str
    left: Sequence[Sequence[Item]]

    @property
    def key(self) -> Key:
        """Key of the part in a forecast."""
        return self.experiment.name, self.label

    @property
    def guess(self) -> float:
        """Seconds, before anything is timed."""
        return self.experiment.cost * sum(map(pixels, self.left)) / 1e6


def calibrated(
    jobs: Sequence[Timed], study: Study, display: Display
) -> tuple[dict[Key, Estimate], int]:
    """Estimates for `jobs`, and how many of them were timed.

    Every experiment is timed with one network and every network in the cheapest experiment, others
    while time remains. The rest is estimated from the ratios of timed networks.
    """
    forecast = Forecast({job.key: job.guess for job in jobs})
    rates: dict[Key, Rate] = {}
    start = time.perf_counter()
    unfinished = [job for job in jobs if job.left]
    first: dict[str, Timed] = {}  # network of each experiment
    for job in unfinished:
        first.setdefault(job.experiment.name, job)
    rest = sorted((job for job in unfinished if job is not first[job.key[0]]), key=cost_of_one)
    cheapest = {job.label: job for job in reversed(rest)}
    needed = [*first.values(), *cheapest.values()]
    for job in (*needed, *(job for job in rest if job is not cheapest[job.label])):
        if job not in needed and time.perf_counter() - start > TIMING:
            break
        on = f"{study.device.type}, {len(rates) + 1} of {len(jobs)}"
        display.now(f"timing a few items: {' '.join(job.key)} ({on})")
        rates[job.key] = rate(job.experiment, job.net, job.left, study)
        seconds = rates[job.key].seconds * sum(map(pixels, job.left))
        forecast.note(job.key, seconds, 1.0)
    found = {}
    for job in jobs:
        at = rates.get(job.key)
        if at is None:
            per_pixel = job.experiment.cost / 1e6 * forecast.factor(job.key)
            like = first.get(job.experiment.name)
            at = Rate(per_pixel, rates[like.key].stored if like else 0.0)
        found[job.key] = expected(job.experiment, job.left, study, at)
    return found, len(rates)


def cost_of_one(job: Timed) -> float:
    """Seconds of one item, before anything is timed."""
    return job.guess / max(sum(map(len, job.left)), 1)


def activity() -> Display:
    """A display of the current step."""
    return Display(Console(stderr=True, highlight=False), steps=True)


def stored(out: Path) -> dict[tuple[str, str], set[str]]:
    """The items that the run folder `out` has, by experiment and network."""
    found: dict[tuple[str, str], set[str]] = {}
    if (out / "run.sqlite").is_file():
        with RunStore.read(out) as store:
            for record in store.records():
                found.setdefault((record.experiment, record.model), set()).add(record.item)
    return found


def counts(found: dict[tuple[str, str], Estimate]) -> Table:
    """The remaining work, by experiment and network."""
    table = Table("experiment", "network", box=None, padding=(0, 2, 0, 0))
    for title in ("items", "composites", "forwards", "chunks", "results"):
        table.add_column(title, justify="right")
    for (experiment, label), e in found.items():
        numbers = (e.items, e.work.composites, e.work.forwards, len(e.chunks))
        table.add_row(experiment, label, *(f"{n:,}" for n in numbers), amount(e.stored))
    return table


def transfers(images: ImageSet, nets: Nets) -> str:
    """Text on the bytes that are sent once to every node of a cluster."""
    files = sum(item.path.stat().st_size for item in images.items)
    weights = sum(p.nbytes for _, net, _ in nets for p in net.parameters())
    return (
        f"\nsent once to each node of a cluster: {amount(files)} of images "
        f"({len(images)} files), {amount(weights)} of weights\n"
    )


def times(found: Sequence[Estimate], where: str) -> Table:
    """Expected times for several numbers of workers; experiments and networks run in turn."""
    table = Table(
        "workers, each\nlike this device",
        title=where,
        title_justify="left",
        box=None,
        padding=(0, 2),
    )
    for title in ("expected time", "busy", "chunks of the\nbusiest worker"):
        table.add_column(title, justify="right")
    total = sum(e.seconds for e in found)
    for workers in WORKERS:
        seconds = sum(makespan(e.chunks, workers) for e in found)
        busy = total / (workers * seconds) if seconds else 1.0
        most = sum(-(-len(e.chunks) // workers) for e in found)
        table.add_row(f"{workers}", duration(seconds), f"{busy:.0%}", f"{most:,}")
    return table


def amount(count: float) -> str:
    """A number of bytes as text."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(max(int(count).bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{count / 1024**power:.{bool(power):d}f} {units[power]}"


def duration(seconds: float) -> str:
    """A number of seconds as text."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 100 else f"{hours:.1f} h"
