"""Composites, seams hard and bridged: 22,500 pairs of 150 x 150 sources at 128x128, in chunks.

    python bench/bench_composite.py [--record FILE]     ratios over the baselines and copying
    python -m pytest bench --benchmark-only             the same ways under pytest-benchmark

A chunk is the 2,250 composites of one call, a tenth of all. The naive way, one pair at a time, is
timed on a part of a chunk and compared per pair. On a shared machine, `--threads 1 --clock cpu`
keeps most of the other processes' time out of the numbers.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

import fastbg
from bench import measure
from bench.baselines import composite_torch as baseline
from bench.baselines import seam_torch as bridged
from bench.workloads import Workload, composite_bytes, composite_lr_bytes, composites

BIG_COPY = 512 << 20  # bytes
BORDER = 2  # LR pixels where PyTorch's bicubic cuts the kernel and MATLAB's mirrors the image
NAIVE_PAIRS = 50  # of a chunk that the naive way computes


@dataclass(frozen=True)
class Case:
    """One operator: fastbg's function, the baselines, necessary bytes, pairs of a chunk."""

    chunk: int
    ways: dict[str, Callable[..., torch.Tensor]]
    necessary_bytes: Callable[[Workload, torch.Tensor], int]
    border: int  # output pixels at the edges where the baselines compute something else
    tolerance: float

    def prepared(self, work: Workload, pairs: torch.Tensor) -> dict[str, measure.Way]:
        """Each way as a call without arguments."""
        return {
            label: partial(
                way,
                work.a,
                work.b,
                pairs[:NAIVE_PAIRS] if label == "naive" else pairs,
                work.inner,
            )
            for label, way in self.ways.items()
        }

    def check(self, results: dict[str, Any]) -> None:
        """AssertionError unless all results equal fastbg's, apart from the border."""
        inside = slice(self.border, -self.border if self.border else None)
        for label, result in results.items():
            if label in self.ways:
                expected = results["fastbg"][: len(result)]
                difference = (result - expected)[..., inside, inside].abs().max()
                assert difference <= self.tolerance, f"{label}: differs by {difference}"


CASES = {
    "composite": Case(
        2250,
        {
            "fastbg": fastbg.composite,
            "good_torch": baseline.good_composite,
            "naive": baseline.naive_composite,
        },
        composite_bytes,
        border=0,
        tolerance=0.0,
    ),
    "composite_lr": Case(
        2250,
        {
            "fastbg": fastbg.composite_lr,
            "good_torch": baseline.good_composite_lr,
            "batched_torch": baseline.batched_composite_lr,
            "naive": baseline.naive_composite_lr,
        },
        composite_lr_bytes,
        border=BORDER,
        tolerance=1e-5,
    ),
    "bridged_composite": Case(
        2250,
        {
            "fastbg": partial(fastbg.composite, seam=bridged.TAU),
            "good_torch": bridged.good_bridged,
            "naive": bridged.naive_bridged,
        },
        composite_bytes,
        border=0,
        tolerance=1e-5,
    ),
    "bridged_composite_lr": Case(
        2250,
        {
            "fastbg": partial(fastbg.composite_lr, seam=bridged.TAU),
            "good_torch": bridged.good_bridged_lr,
            "naive": bridged.naive_bridged_lr,
        },
        composite_lr_bytes,
        border=BORDER,
        tolerance=1e-5,
    ),
}


def copier(size: int) -> measure.Way:
    """A call that copies `size` bytes with PyTorch into memory that is already mapped."""
    source, target = (torch.rand(size // 4, device=measure.device()) for _ in range(2))
    return partial(target.copy_, source)


def run(name: str, chunk: int | None, runs: int, clock: measure.Clock) -> measure.Result:
    """Time an operator against its baselines and against a copy of the bytes it must move."""
    case = CASES[name]
    work = composites(chunk or case.chunk)
    pairs = work.chunks[len(work.chunks) // 2]
    necessary = case.necessary_bytes(work, pairs)
    # copy: reads half of the necessary bytes and writes half. big_copy: much larger than any cache.
    copies = {"copy": copier(necessary // 2), "big_copy": copier(BIG_COPY // 2)}
    facts = {"pairs": len(pairs), "necessary_bytes": necessary, "big_copy_bytes": BIG_COPY}
    ways = case.prepared(work, pairs) | copies
    result = measure.compare(name, ways, case.check, runs, facts, clock)

    per_pair = result.median("fastbg") / len(pairs)
    print(f"{name}: {per_pair * 1e6:.2f} us per pair, {len(pairs)} pairs per call")
    measure.print_ratio(f"{name}_over_good_torch", result.ratio("good_torch", "fastbg"))
    if "batched_torch" in case.ways:
        measure.print_ratio(f"{name}_over_batched", result.ratio("batched_torch", "fastbg"))
    naive = result.ratio("naive", "fastbg", len(pairs) / min(NAIVE_PAIRS, len(pairs)))
    measure.print_ratio(f"{name}_over_naive", naive)
    for way, size in (("copy", necessary), ("big_copy", BIG_COPY)):
        of_copy = result.ratio(way, "fastbg", necessary / size)
        measure.print_ratio(f"{name}_of_{way}_bandwidth", of_copy)
        print(f"{name}: {way} {size / result.median(way) / 1e9:.1f} GB/s, read and written")
    return result


@pytest.mark.parametrize(
    ("name", "way"), [(name, way) for name, case in CASES.items() for way in case.ways]
)
def test_composites(benchmark: Any, name: str, way: str) -> None:
    """One chunk (for `naive` a part of it); the result is checked before it is timed."""
    case = CASES[name]
    work = composites(case.chunk)
    pairs = work.chunks[0]
    ways = case.prepared(work, pairs)
    case.check({label: ways[label]() for label in {way, "fastbg"}})
    benchmark.group = name
    benchmark.extra_info |= measure.machine() | {
        "pairs": min(NAIVE_PAIRS, len(pairs)) if way == "naive" else len(pairs),
        "necessary_bytes": case.necessary_bytes(work, pairs),
    }
    benchmark.pedantic(ways[way], rounds=5, warmup_rounds=1)


def main() -> None:
    """Print the ratios of both operators; keep all runs in a JSON record."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--record", type=Path, help="JSON file for all runs and the machine")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--chunk", type=int, help="pairs per call, instead of 2,250")
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=measure.CLOCKS, default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = measure.CLOCKS[arguments.clock]
    results = [run(name, arguments.chunk, arguments.runs, clock) for name in arguments.only]
    if arguments.record is not None:
        measure.write_record(arguments.record, results)


if __name__ == "__main__":
    main()
