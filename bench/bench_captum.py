"""Captum's IntegratedGradients and fastbg's straight path: the same numbers, side by side.

    python bench/bench_captum.py [--record FILE] [--steps 50] [--threads 1 --clock cpu]

EDSR 16x64, LR 64x64, window 16, black baseline.
"""

import argparse
import importlib.util
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

import fastbg
from bench import measure
from bench.bench_attribution import WINDOW, difference, network, photograph

METHODS = {"riemann_right": "riemann_right", "gausslegendre": "gausslegendre"}


def main() -> None:
    """Command line; prints the reason and stops if captum is not installed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--steps", type=int, default=50)
    add("--batch", type=int, default=2, help="Captum's internal batch size; it refuses 1")
    add("--runs", type=int, default=3)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--clock", choices=tuple(measure.CLOCKS), default="wall")
    add("--record", type=Path)
    options = parser.parse_args()
    if importlib.util.find_spec("captum") is None:
        print("skipped: the package captum is not installed")
        return
    from captum.attr import IntegratedGradients

    torch.set_num_threads(options.threads)
    clock = measure.CLOCKS[options.clock]
    net, image = network("edsr", None), photograph()
    y, x, size = WINDOW

    def objective(batch: Tensor) -> Tensor:
        return fastbg.gradient_detector(net(batch), (y, x, y + size, x + size))

    lam = fastbg.LocalAttribution(net, fastbg.LinearPath())
    gradients = IntegratedGradients(objective)
    results = []
    for ours, theirs in METHODS.items():

        def captum(method: str = theirs) -> Tensor:
            parts: Any = gradients.attribute(
                image, n_steps=options.steps, method=method, internal_batch_size=options.batch
            )
            return parts.float()

        def check(results: dict[str, Any]) -> None:
            error = difference(results["fastbg"].attribution, results["captum"])
            assert error < 1e-4, f"differs from Captum by {error}"

        ways: dict[str, measure.Way] = {
            "captum": captum,
            "fastbg": partial(lam.attribute, image, WINDOW, options.steps, ours),
        }
        result = measure.compare(f"captum_{ours}", ways, check, options.runs, clock=clock)
        print(*(f"{ours} {way}: {result.median(way):.3f} s" for way in ways), sep="\n")
        results.append(result)
        measure.print_ratio(f"captum_{ours}_fastbg_over_captum", result.ratio("captum", "fastbg"))
    if options.record is not None:
        measure.write_record(options.record, results)


if __name__ == "__main__":
    main()
