"""`ring` and `inward` for `bench/end_to_end.py`: ways to time, and the check that they agree.

`fastbg` runs the default of `fastbg run`: 8 nodes, as accurate as the 50 published
steps in the shares of the attribution.
`same_nodes` takes those 50, so its diffusion indices must equal those of the baselines.
"""

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import torch

from bench import measure
from bench.baselines import nested_torch
from bench.baselines.networks_torch import in_torch
from fastbg.experiments.inward import Inward, InwardOptions
from fastbg.experiments.nested import Nested
from fastbg.experiments.ring import Ring, RingOptions
from fastbg.experiments.seams import HARD
from fastbg.experiments.study import Item, Study, as_image
from fastbg.experiments.windows import NODES
from fastbg.models.network import PIXELS_PER_CALL, Network

DECIBELS, INDEX = 1e-3, 1e-2
GOOD_BATCH = 2  # nodes per pass


def ring(net: Network, study: Study, count: int) -> dict[str, measure.Way]:
    """Method 1: `count` pairs in every ring size."""
    return ways(Ring(RingOptions(seam=HARD)), net, study, count)


def inward(net: Network, study: Study, count: int) -> dict[str, measure.Way]:
    """Method 2: `count` pairs in every size."""
    return ways(Inward(InwardOptions(seam=HARD)), net, study, count)


def ways(experiment: Nested, net: Network, study: Study, count: int) -> dict[str, measure.Way]:
    """The ways on `count` pairs; the baselines get the composites' LR images ready-made."""
    items = experiment.plan(study)[:count]
    hr = study.ground_truth(items)
    lr = experiment.inputs(items, hr, study)
    hr = hr.repeat_interleave(len(experiment.sizes), dim=0)
    y, x, bottom, _ = experiment.window_box
    window, steps = (y, x, bottom - y), NODES["published"]["n_steps"]
    theirs = in_torch(net)
    plain = in_torch(net).to(memory_format=torch.contiguous_format).requires_grad_(True)
    pictures = [[as_image(image) for image in side] for side in (hr, lr)]
    same = type(experiment)(dataclasses.replace(experiment.options, nodes="published"))
    pixels = PIXELS_PER_CALL["cpu"]
    return {
        "naive": partial(nested_torch.naive, plain, *pictures, window, steps),
        "good": partial(nested_torch.good, theirs, hr, lr, window, steps, pixels, GOOD_BATCH),
        "fastbg": partial(records, experiment, net, items, study),
        "same_nodes": partial(records, same, net, items, study),
    }


def records(
    experiment: Nested, net: Network, items: list[Item], study: Study
) -> dict[str, np.ndarray]:
    """PSNR and diffusion index (N) as `fastbg run` measures them, item by item."""
    rows: dict[str, list[torch.Tensor]] = {"psnr": [], "di": []}
    for first in range(0, len(items), experiment.chunk):
        with torch.inference_mode():
            columns = experiment.measure(net, items[first : first + experiment.chunk], study)
        for name, row in rows.items():
            row.append(torch.stack([columns[f"{name}_{s}"] for s in experiment.sizes], dim=1))
    return {name: torch.cat(row).flatten().numpy() for name, row in rows.items()}


def agree(results: dict[str, Any]) -> None:
    """AssertionError unless PSNR agrees to 1e-3 dB, diffusion indices of equal nodes to 1e-2."""
    ours = results["same_nodes"]
    for label, result in results.items():
        error = np.abs(result["psnr"] - ours["psnr"]).max()
        assert error <= DECIBELS, f"{label} differs from fastbg by {error:.2e} dB"
        error = np.abs(result["di"] - ours["di"]).max()
        if label == "fastbg":
            print(f"diffusion index, 8 nodes against 50: {error:.3f} at most")
        else:
            assert error <= INDEX, f"{label}'s diffusion index differs by {error:.2e}"
