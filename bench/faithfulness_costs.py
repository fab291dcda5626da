"""Cost of each explanation and of a pair of faithfulness curves: CPU seconds on one thread.

    OMP_NUM_THREADS=1 python bench/faithfulness_costs.py

One image of the experiment `faithfulness` (LR 48 x 48, window 16). The column "passes" is the
largest number of network passes, forward and backward, that an explanation takes. In a run several
maps share work such as the gradient; here it is counted for each. A pair of curves, deletion and
insertion for one ranking of the pixels, takes 2 passes for each of the experiment's points.
"""

import time
from collections.abc import Callable
from functools import partial

import torch

import fastbg
from fastbg.data.builtin import builtin_images
from fastbg.experiments.faithfulness import (
    EXPLANATIONS,
    Explained,
    Faithfulness,
    FaithfulnessOptions,
    passes,
)
from fastbg.experiments.study import Item, Study
from fastbg.models.network import Network

NETWORKS = ("edsr", "rcan", "swinir")
RANKINGS = 4  # of the pixels: by a map and by its three controls
RUNS = 3  # the fastest counts, as other programs can only slow a run down


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of the fastest of RUNS calls."""
    found = []
    for _ in range(RUNS):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


def main() -> None:
    """Print a table."""
    torch.set_num_threads(1)
    study = Study(builtin_images())
    experiment = Faithfulness(FaithfulnessOptions(count=1, explanations="all"))
    options, items = experiment.options, experiment.plan(study)
    nets = {name: fastbg.load_model(name) for name in NETWORKS}
    print(f"{'':16}{'passes':>8}" + "".join(f"{name:>10}" for name in nets))
    for name, explain in EXPLANATIONS.items():
        took = [
            seconds(partial(explain_once, explain, net, experiment, items, study))
            for net in nets.values()
        ]
        count = passes(name, options, study.scale)
        print(f"{name:16}{count:8}" + "".join(f"{t:9.2f}s" for t in took), flush=True)
    took = [seconds(partial(curves, net, experiment, items, study)) for net in nets.values()]
    pair = "".join(f"{t / RANKINGS:9.2f}s" for t in took)
    print(f"{'pair of curves':16}{2 * options.points:8}{pair}")


def explain_once(
    explain: Callable[[Explained], object],
    net: Network,
    experiment: Faithfulness,
    items: list[Item],
    study: Study,
) -> None:
    """Compute one map, without results kept from earlier maps."""
    explain(experiment.explained(net, items, study))


def curves(net: Network, experiment: Faithfulness, items: list[Item], study: Study) -> None:
    """Compute both curves for RANKINGS rankings."""
    explained = experiment.explained(net, items, study)
    height, width = explained.lr.shape[-2:]
    fastbg.faithfulness(
        net,
        torch.arange(height * width).reshape(1, height, width),
        explained.lr,
        experiment.window,
        counts=experiment.options.points,
        draws=1,
    )


if __name__ == "__main__":
    main()
