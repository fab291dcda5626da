"""Two Ray workers of one core each against one, and the engine's overhead per chunk.

    python bench/bench_engine_ray.py [--model NAME|PATH] [--items N] [--rounds N]

Prints `ratio ray_workers_2_over_1 RATIO` (medians of interleaved rounds, workers already started
and their networks built) and the overhead of the engine in ms per chunk. Records of one and of two
workers must be equal bit for bit before anything is timed.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

from fastbg.data.builtin import builtin_images
from fastbg.experiments.experiment import NetLabel
from fastbg.experiments.study import Item, Study
from fastbg.experiments.table1 import Table1
from fastbg.models.checkpoints import load_model
from fastbg.runs.estimate import timed
from fastbg.runs.local import Job
from fastbg.runs.ray import RayEngine
from fastbg.runs.store import RunStore


class Measuring(Table1):
    """Table 1 without its gallery, so that only chunks are measured."""

    def cases(self, measured: object) -> list[int]:
        """None."""
        return []


def main() -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="edsr")
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    net, study = load_model(arguments.model), Study(builtin_images())
    experiment = Measuring()
    items = experiment.plan(study)[: arguments.items]
    chunks = len(items) / experiment.chunk
    with tempfile.TemporaryDirectory() as name, RayEngine({"net": net}, study, workers=2) as engine:

        def run(workers: int, items: list[Item], folder: str) -> tuple[float, object]:
            """Seconds, and the records."""
            aside = [engine._idle.pop() for _ in range(len(engine._idle) - workers)]
            with RunStore.open(Path(name, folder), {}) as store:
                job = Job(experiment, net, NetLabel("net", "edsr"), items, study, store)
                start = time.perf_counter()
                engine.run(job, lambda _: None)
                seconds = time.perf_counter() - start
                engine._idle += aside
                return seconds, store.records()

        while len(engine._idle) < 2:  # workers start
            engine._welcome(engine._wait([*engine._starting], lambda: None)[0])
        run(2, items[: 2 * experiment.chunk], "warm")
        assert run(1, items, "check1")[1] == run(2, items, "check2")[1], "records differ"
        times: dict[int, list[float]] = {1: [], 2: []}
        for round_ in range(arguments.rounds):
            for workers, seconds in times.items():
                seconds.append(run(workers, items, f"{round_}-{workers}")[0])
        # The same chunks in this process: the difference to one worker is the engine's overhead.
        alone = [
            sum(
                timed(experiment, net, items[i : i + 10], study)[0]
                for i in range(0, len(items), 10)
            )
            for _ in range(arguments.rounds)
        ]
    one, two, here = (statistics.median(t) for t in (times[1], times[2], alone))
    print(f"one worker {one:.2f} s, two {two:.2f} s, this process {here:.2f} s")
    print(f"ratio ray_workers_2_over_1 {one / two:.2f}")
    print(f"overhead {1000 * (one - here) / chunks:.1f} ms per chunk of {experiment.chunk} items")


if __name__ == "__main__":
    main()
