"""Overhead of an operator's call: its time minus the time in the native function.

    python bench/bench_host.py [--record FILE]

conv3x3 of 64 to 64 channels on 4x4 pixels, where the kernel is short; forward, and forward with the
gradient to the input. A stopwatch around the native functions measures their time, including the
conversion of arguments; the stopwatch's own time is measured and subtracted. One thread, medians.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

import fastbg
from bench import measure
from fastbg.backends.cpu import native

CALLS = 200
TARGETS = {"forward": 40.0, "gradient": 100.0}  # microseconds of overhead, at most


class Stopwatch:
    """Seconds spent in native functions while it is on."""

    def __init__(self, *names: str) -> None:
        self.seconds, self.calls, self._names = 0.0, 0, names

    def __enter__(self) -> "Stopwatch":
        self._whole = {name: getattr(native(), name) for name in self._names}
        for name, function in self._whole.items():
            setattr(native(), name, self._timed(function))
        return self

    def __exit__(self, *_: object) -> None:
        for name, function in self._whole.items():
            setattr(native(), name, function)

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            start = time.perf_counter()
            result = function(*args)
            self.seconds += time.perf_counter() - start
            self.calls += 1
            return result

        return run


def host_cost(call: Callable[[], object], runs: int) -> list[float]:
    """Overhead of one call in microseconds: for each run the median of CALLS calls."""
    found, wrapper = [], wrapper_cost()
    for _ in range(runs):
        single = []
        for _ in range(CALLS):
            with Stopwatch("conv3x3") as watch:
                start = time.perf_counter()
                call()
                whole = time.perf_counter() - start
            single.append(1e6 * (whole - watch.seconds) - watch.calls * wrapper)
        found.append(statistics.median(single))
    return found


def wrapper_cost() -> float:
    """Microseconds that the stopwatch adds to a native call."""
    watch = Stopwatch()
    timed, plain = watch._timed(lambda *_: None), lambda *_: None
    seconds = []
    for function in (timed, plain):
        start = time.perf_counter()
        for _ in range(20_000):
            function(1, 2, 3)
        seconds.append(time.perf_counter() - start)
    return 1e6 * (seconds[0] - seconds[1]) / 20_000


def ways() -> dict[str, Callable[[], object]]:
    """The two calls."""
    made = torch.Generator().manual_seed(0)
    x = torch.rand(1, 64, 4, 4, generator=made).contiguous(memory_format=torch.channels_last)
    weight = torch.rand(64, 64, 3, 3, generator=made) / 24
    bias, leaf = torch.rand(64, generator=made), x.clone().requires_grad_()

    def forward() -> Tensor:
        with torch.no_grad():
            return fastbg.conv3x3(x, weight, bias, relu=True)

    def gradient() -> Tensor:
        y = fastbg.conv3x3(leaf, weight, bias, relu=True)
        return torch.autograd.grad(y, leaf, y.detach())[0]

    return {"forward": forward, "gradient": gradient}


def main() -> None:
    """Print overheads and their targets; keep all runs in a JSON record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path)
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: host_cost(call, options.runs) for name, call in ways().items()}
    for name, runs in found.items():
        middle = measure.Ratio.of(runs)
        print(
            f"conv3x3 4x4 {name}: {middle.value:.0f} us overhead "
            f"({middle.low:.0f} to {middle.high:.0f}), target {TARGETS[name]:.0f}"
        )
    if options.record is not None:
        seconds = {name: [1e-6 * one for one in runs] for name, runs in found.items()}
        measure.write_record(options.record, [measure.Result("host_cost", seconds)])


if __name__ == "__main__":
    main()
