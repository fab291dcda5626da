"""Timing for the benchmarks: results are checked, then runs interleave; medians and a record.

result = compare("composite", {"fastbg": f, "good": g}, check=check)
print_ratio("composite_over_good", result.ratio("good", "fastbg"))
write_record(Path("record.json"), [result])
"""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch

Way = Callable[[], object]
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


class Ratio(NamedTuple):
    """Median over the runs, and their lower and upper quartiles."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(runs: list[float]) -> "Ratio":
        """Median and quartiles of the ratios of all runs; for a single run all three are equal."""
        if len(runs) == 1:
            return Ratio(runs[0], runs[0], runs[0])
        low, value, high = statistics.quantiles(runs, n=4, method="inclusive")
        return Ratio(value, low, high)


@dataclass(frozen=True)
class Result:
    """Seconds of each way for each run; run k of all ways was measured one after the other."""

    name: str
    seconds: dict[str, list[float]]
    facts: dict[str, float] = field(default_factory=dict)  # bytes, pairs, ...

    def median(self, way: str) -> float:
        """Median seconds of one run."""
        return statistics.median(self.seconds[way])

    def ratio(self, slow: str, fast: str, factor: float = 1.0) -> Ratio:
        """How many times faster `fast` is than `slow`, as a ratio for each interleaved run.

        `factor`: the whole work of `slow` divided by the part of it that was timed.
        """
        runs = zip(self.seconds[slow], self.seconds[fast], strict=True)
        return Ratio.of([factor * s / f for s, f in runs])


def compare(
    name: str,
    ways: Mapping[str, Way],
    check: Callable[[dict[str, object]], None],
    runs: int = 9,
    facts: Mapping[str, float] | None = None,
    clock: Clock = time.perf_counter,
) -> Result:
    """Time all `ways` in turn, `runs` times, after `check` has passed their results.

    Args:
        ways: label -> call to time, which can be repeated.
        check: gets label -> result, and raises AssertionError for a wrong one; then nothing is
            timed, so that a wrong result never has a ratio.
        clock: `time.process_time` for ways with one thread on a shared machine. On a GPU, CUDA
            events measure the time instead, with cold L2.
    """
    check({label: way() for label, way in ways.items()})
    seconds: dict[str, list[float]] = {label: [] for label in ways}
    for run in range(runs):
        # Every second round is reversed, so that no way always runs after the same one.
        for label in list(ways) if run % 2 == 0 else reversed(list(ways)):
            seconds[label].append(_seconds_of(ways[label], clock))
    return Result(name, seconds, dict(facts or {}))


def device() -> torch.device:
    """The device for benchmarks of operators: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def print_ratio(name: str, ratio: Ratio | float) -> None:
    """Print the line that `bench/all.py` reads: name, median, quartiles if known."""
    if isinstance(ratio, Ratio):
        print(f"ratio {name} {ratio.value:.3g} {ratio.low:.3g} {ratio.high:.3g}", flush=True)
    else:
        print(f"ratio {name} {ratio:.3g}", flush=True)


def machine() -> dict[str, object]:
    """Everything a measurement depends on: hardware, versions, commit, threads."""
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip() or None,
    }


def write_record(path: Path, results: list[Result]) -> None:
    """Write all runs and the machine as JSON."""
    record = {"machine": machine(), "results": [asdict(result) for result in results]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


def _seconds_of(way: Way, clock: Clock) -> float:
    if torch.cuda.is_available():
        return gpu_seconds(way)
    start = clock()
    result = way()
    elapsed = clock() - start
    del result  # freed after the clock has stopped
    return elapsed


def gpu_seconds(way: Way, cold: bool = True) -> float:
    """Seconds between two events around one call; with `cold`, L2 contains none of its data."""
    if cold:
        _larger_than_l2().zero_()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    result = way()
    end.record()
    end.synchronize()
    del result
    return float(start.elapsed_time(end)) / 1e3


@cache
def _larger_than_l2() -> torch.Tensor:
    return torch.empty(256 << 20, dtype=torch.uint8, device=device())


def _processor() -> str:
    """ "AMD EPYC (family 25, model 1)": some virtual machines' names leave the generation open."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        pairs = (line.partition(":") for line in info.read_text().splitlines())
        said = {name.strip(): value.strip() for name, _, value in pairs}
        if "model name" in said:
            return f"{said['model name']} (family {said['cpu family']}, model {said['model']})"
    return platform.processor() or platform.machine()
