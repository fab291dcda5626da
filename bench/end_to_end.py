"""Whole experiments, on the same items: naive code, good PyTorch, and fastbg.

    python bench/end_to_end.py [EXPERIMENT ...] [--model NAME|PATH ...] [--items N] [--record FILE]

Prints `ratio NAME_over_naive` and `ratio NAME_over_good`: how many times faster fastbg is. For
several networks or experiments it also prints `ratio suite_over_...` for all of them together: the
seconds per item times the number of items that `fastbg run` plans on these images. All ways start
from decoded ground truth; the baselines get their LR images ready-made. Records must agree to
1e-3 dB before anything is timed (`ring` and `inward`, whose items are pairs: see `nested_ways`).
On a shared machine, `--threads 1 --clock cpu` keeps most of the other processes' time out.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

from bench import measure, nested_ways
from bench.baselines import experiments_good as good
from bench.baselines import experiments_naive as naive
from bench.baselines import mosaic_good, mosaic_naive
from bench.baselines.networks_torch import in_torch
from fastbg.data.builtin import builtin_images
from fastbg.data.images import open_folder
from fastbg.experiments import EXPERIMENTS
from fastbg.experiments.experiment import Experiment
from fastbg.experiments.groups import lr_composites, sources
from fastbg.experiments.mosaic import Mosaic, MosaicOptions, inside
from fastbg.experiments.seams import HARD
from fastbg.experiments.slicing import Slicing
from fastbg.experiments.study import Item, Study, as_image
from fastbg.experiments.swap import Swap, SwapOptions
from fastbg.experiments.table1 import Table1
from fastbg.models.checkpoints import load_model
from fastbg.models.network import PIXELS_PER_CALL, Network

TOLERANCE = 1e-3  # dB
SIDES = ("naive", "good", "fastbg")
Ways = dict[str, measure.Way]


def table1(net: Network, study: Study, count: int) -> Ways:
    """Table 1: `count` images of 256x256."""
    experiment = Table1()
    items = experiment.plan(study)[:count]
    hr, lr = materialised(study, items)
    o = experiment.options
    batch = PIXELS_PER_CALL["cpu"] // lr[0][0].numel()
    pictures = [[as_image(x) for x in side] for side in (hr, lr)]
    return {
        "naive": partial(naive.table1, plain(net), *pictures, o.region, o.shave),
        "good": partial(
            good.table1, in_torch(net), torch.stack(hr), torch.stack(lr), o.region, o.shave, batch
        ),
        "fastbg": partial(records, experiment, net, items, study, ("psnr_full", "psnr_partial")),
    }


def slicing(net: Network, study: Study, count: int) -> Ways:
    """Section 3.1: whole images against slices of 64x64."""
    experiment = Slicing()
    items = experiment.plan(study)[:count]
    hr, lr = materialised(study, items)
    tile = experiment.options.tile
    pictures = [[as_image(x) for x in side] for side in (hr, lr)]
    return {
        "naive": partial(naive.slicing, plain(net), *pictures, tile),
        "good": partial(good.slicing, in_torch(net), hr, lr, tile, PIXELS_PER_CALL["cpu"]),
        "fastbg": partial(records, experiment, net, items, study, ("psnr_whole", "psnr_sliced")),
    }


def mosaic(net: Network, study: Study, count: int) -> Ways:
    """Table 2: regions of 64x64 in their photographs, alone, in 5x5 mosaics, with 25-fold TTA."""
    experiment = Mosaic(MosaicOptions(seam=HARD))  # as the baselines
    items = experiment.plan(study)[:count]
    around = [experiment.surroundings(item, study) for item in items]
    boxes = [inside(item.box, whole.box) for item, whole in zip(items, around, strict=True)]
    regions, lr = materialised(study, items)[0], materialised(study, around)[1]
    draws = experiment.draws(items, study)
    pictures = [[as_image(x) for x in side] for side in (regions, lr)]
    arrays = [drawn.numpy() for drawn in draws]
    stacked, pixels = torch.stack(regions), PIXELS_PER_CALL["cpu"]
    names = ("psnr_whole", "psnr_alone", "psnr_mosaic", "psnr_tta")
    return {
        "naive": partial(mosaic_naive.mosaic, plain(net), *pictures, boxes, *arrays),
        "good": partial(mosaic_good.mosaic, in_torch(net), stacked, lr, boxes, *draws, pixels),
        "fastbg": partial(records, experiment, net, items, study, names),
    }


def swap(net: Network, study: Study, count: int) -> Ways:
    """Section 4.3: `count` foregrounds of 32x32 in 32 images of 128x128.

    The baselines read composites from memory, 8 bit, as such scripts read them from disk; fastbg
    composes them and measures how alike their regions look besides.
    """
    experiment = Swap(SwapOptions(seam=HARD))  # as the baselines
    items = experiment.plan(study)[:count]
    side = experiment.options.region
    hr = [sources(item, study) for item in items]
    lr = [
        lr_composites(item, images, study, experiment.options)
        for item, images in zip(items, hr, strict=True)
    ]
    truth = [as_image(images[0]) for images in hr]
    pictures = [[as_image(x) for x in composites] for composites in lr]
    batch = PIXELS_PER_CALL["cpu"] // lr[0][0, 0].numel()
    own = torch.stack([images[0] for images in hr])
    return {
        "naive": partial(naive.swap, plain(net), truth, pictures, side),
        "good": partial(good.swap, in_torch(net), own, torch.stack(lr), side, batch),
        "fastbg": partial(curve, experiment, net, items, study, "psnr"),
    }


WAYS_OF: dict[str, Callable[[Network, Study, int], Ways]] = {
    "table1": table1,
    "slicing": slicing,
    "swap": swap,
    "mosaic": mosaic,
    "ring": nested_ways.ring,
    "inward": nested_ways.inward,
}
# Experiments whose records are more than PSNR, or agree to other tolerances.
CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "ring": nested_ways.agree,
    "inward": nested_ways.agree,
}


def records(
    experiment: Experiment, net: Network, items: list[Item], study: Study, names: tuple[str, ...]
) -> NDArray[np.float64]:
    """What `fastbg run` measures: PSNR (n, names)."""
    rows = []
    for first in range(0, len(items), experiment.chunk):
        columns = experiment.measure(net, items[first : first + experiment.chunk], study)
        rows.append(torch.stack([columns[name] for name in names], dim=1))
    return torch.cat(rows).numpy()


def curve(
    experiment: Experiment, net: Network, items: list[Item], study: Study, name: str
) -> NDArray[np.float64]:
    """A column with K values per item, as `fastbg run` measures it: (n,K)."""
    with torch.inference_mode():
        rows = [
            experiment.measure(net, items[first : first + experiment.chunk], study)[name]
            for first in range(0, len(items), experiment.chunk)
        ]
    return torch.cat(rows).numpy()


def materialised(study: Study, items: list[Item]) -> tuple[list[Tensor], list[Tensor]]:
    """Ground truth (3,H,W) uint8 and LR (3,h,w) in [0,1] of each item."""
    hr = [study.ground_truth([item])[0] for item in items]
    return hr, [study.degrade(image[None], "matlab")[0] for image in hr]


def plain(net: Network) -> Network:
    """The network as a script loads it: contiguous, its parameters not frozen."""
    return in_torch(net).to(memory_format=torch.contiguous_format).requires_grad_(True)


def whole(result: measure.Result, way: str) -> float:
    """Seconds that `way` takes for all planned items."""
    return result.median(way) * result.facts["planned"] / result.facts["items"]


def agree(results: dict[str, Any]) -> None:
    """All records agree to 1e-3 dB."""
    ours = np.asarray(results["fastbg"])
    for label, result in results.items():
        error = np.abs(np.asarray(result) - ours).max()
        assert error <= TOLERANCE, f"{label} differs from fastbg by {error:.2e} dB"


def main() -> None:
    """Check, time, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("experiments", nargs="*", metavar="EXPERIMENT", help=f"default: {' '.join(WAYS_OF)}")
    add("--model", nargs="+", default=["edsr"], metavar="NAME|PATH")
    add("--data", type=Path, metavar="DIR", help="default: built-in images")
    add("--items", type=int, default=20, metavar="N", help="of each experiment")
    add("--runs", type=int, default=5, metavar="N", help="of each way")
    add("--threads", type=int, metavar="N")
    add("--clock", choices=measure.CLOCKS, default="wall")
    add("--record", type=Path, metavar="FILE", help="write all runs as JSON")
    options = parser.parse_args()
    unknown = [name for name in options.experiments if name not in WAYS_OF]
    if unknown:
        parser.error(f"experiments: got {unknown[0]!r}; expected some of {', '.join(WAYS_OF)}")
    if options.threads:
        torch.set_num_threads(options.threads)
    images = builtin_images() if options.data is None else open_folder(options.data)
    results = []
    for path in options.model:
        net = load_model(path)
        study = Study(images, net.scale)
        for name in options.experiments or WAYS_OF:
            planned = len(EXPERIMENTS[name]().plan(study))
            items = min(options.items, planned)
            result = measure.compare(
                f"{net.name} {name}",
                WAYS_OF[name](net, study, items),
                CHECKS.get(name, agree),
                options.runs,
                {"items": items, "planned": planned},
                measure.CLOCKS[options.clock],
            )
            results.append(result)
            for label in result.seconds:
                print(f"{result.name} {label}: {result.median(label):.3f} s")
            for slow in ("naive", "good"):
                key = f"{result.name.replace(' ', '_')}_over_{slow}"
                measure.print_ratio(key, result.ratio(slow, "fastbg"))
    if len(results) > 1:
        total = {way: sum(whole(result, way) for result in results) for way in SIDES}
        for slow in ("naive", "good"):
            measure.print_ratio(f"suite_over_{slow}", total[slow] / total["fastbg"])
    if options.record:
        measure.write_record(options.record, results)


if __name__ == "__main__":
    main()
