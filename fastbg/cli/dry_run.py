"""`fastbg run --dry-run`: estimates the work, and the time for several numbers of workers."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fastbg.cli.info import describe
from fastbg.data.images import ImageSet
from fastbg.experiments.experiment import Experiment, NetLabel
from fastbg.experiments.study import Study
from fastbg.models.network import Network
from fastbg.runs.estimate import Estimate, estimate, makespan
from fastbg.runs.local import taking_part
from fastbg.runs.progress import Display
from fastbg.runs.store import RunStore

WORKERS = (1, 8, 64)
Nets = Sequence[tuple[NetLabel, Network, str]]


def show(
    chosen: Sequence[Experiment],
    places: Sequence[tuple[Nets, Study]],
    limit: int | None,
    out: Path,
    console: Console,
) -> None:
    """Print counts, then for each of `places` (one a device) the expected times.

    What the run folder `out` holds already is not counted; nothing is written. What is being done
    is shown on the error stream.
    """
    plans = []
    with activity() as display:
        for number, experiment in enumerate(chosen, 1):
            display.now(f"choosing images: {experiment.name} ({number} of {len(chosen)})")
            plans.append((experiment, experiment.plan(places[0][1])[:limit]))
    done = stored(out)
    for number, (nets, study) in enumerate(places):
        start = time.perf_counter()
        study = replace(study, folder=None)  # a measured chunk exports nothing
        jobs = [(e, items, *each) for e, items in plans for each in taking_part(e, nets)]
        found: dict[tuple[str, str], Estimate] = {}
        with activity() as display:
            for experiment, items, label, net, _ in jobs:
                key = experiment.name, label.label
                on = f"{study.device.type}, {len(found) + 1} of {len(jobs)}"
                display.now(f"timing a few items: {' '.join(key)} ({on})")
                found[key] = estimate(experiment, net, items, done.get(key, set()), study)
        took = time.perf_counter() - start
        if number == 0:
            console.print(counts(found))
            console.print(transfers(study.images, nets), soft_wrap=True)
        device = f"{study.device.type} ({describe(study.device)})"
        console.print(times(list(found.values()), f"on {device}, calibrated in {took:.1f} s"))


def activity() -> Display:
    """Says what is being done."""
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
    """What is left to do, by experiment and network."""
    table = Table("experiment", "network", box=None, padding=(0, 2, 0, 0))
    for title in ("items", "composites", "forwards", "chunks", "results"):
        table.add_column(title, justify="right")
    for (experiment, label), e in found.items():
        numbers = (e.items, e.work.composites, e.work.forwards, len(e.chunks))
        table.add_row(experiment, label, *(f"{n:,}" for n in numbers), amount(e.stored))
    return table


def transfers(images: ImageSet, nets: Nets) -> str:
    """The bytes that every node of a cluster is sent once."""
    files = sum(item.path.stat().st_size for item in images.items)
    weights = sum(p.nbytes for _, net, _ in nets for p in net.parameters())
    return (
        f"\nsent once to each node of a cluster: {amount(files)} of images "
        f"({len(images)} files), {amount(weights)} of weights\n"
    )


def times(found: Sequence[Estimate], where: str) -> Table:
    """The plan for each number of workers, one after another experiment and network."""
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
    """Bytes to read."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(max(int(count).bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{count / 1024**power:.{bool(power):d}f} {units[power]}"


def duration(seconds: float) -> str:
    """Seconds to read."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 100 else f"{hours:.1f} h"
