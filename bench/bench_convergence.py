"""How the quadrature's error falls with the steps, for each method: completeness and map.

    python bench/bench_convergence.py --images FOLDER [--networks edsr rcan swinir] [--out FILE.md]

Per network and method, over all images: the convergence delta relative to the objective's rise
(median of absolute values), and the L1 distance of the map to that of 400 right-Riemann steps
(mean over pixels / mean of the converged map; median over images). The last lines say with how
many `arc_midpoint` nodes both are at most those of the 50 published steps.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

import fastbg
from bench.bench_attribution import network
from fastbg.data.degradation import downsample
from fastbg.data.images import open_folder
from fastbg.models.sizes import BUILT_IN

SCALE, SIDE, WINDOW, CONVERGED = 4, 256, 16, 400
PUBLISHED = ("riemann_right", 50)
ROWS = [
    *(("riemann_right", n) for n in (8, 16, 25, 50, 100)),
    *(("trapezoid", n) for n in (8, 16, 25, 50)),
    *(("gausslegendre", n) for n in (8, 16, 25, 50)),
    *(("arc_midpoint", n) for n in (8, 12, 16, 20, 25, 32)),
]


def crops(folder: Path, count: int, side: int) -> Tensor:
    """LR images (count,3,side/4,side/4): the centres of the first large enough HR images."""
    found = []
    for item in open_folder(folder).items:
        hr = item.load()
        top, left = (hr.shape[0] - side) // 2, (hr.shape[1] - side) // 2
        if min(top, left) >= 0:
            lr = downsample(hr[top : top + side, left : left + side], SCALE)
            found.append(torch.from_numpy(lr).permute(2, 0, 1).float() / 255)
        if len(found) == count:
            return torch.stack(found)
    raise SystemExit(f"{folder} holds {len(found)} images of {side}x{side} or more, not {count}")


def study(name: str, images: Tensor, checkpoint: Path | None) -> dict[tuple[str, int], list[float]]:
    """(method, steps) -> [median relative delta, median distance of the map]."""
    side = SCALE * images.shape[-1]
    corner = (side - WINDOW) // 2
    window = (corner, corner, WINDOW)
    lam = fastbg.LocalAttribution(network(name, checkpoint))
    converged = lam.attribute(images, window, CONVERGED, return_convergence_delta=True)
    rise = converged.attribution.double().sum((1, 2, 3)) - converged.convergence_delta
    results = {}
    for method, steps in ROWS:
        result = lam.attribute(images, window, steps, method, return_convergence_delta=True)
        assert result.convergence_delta is not None
        delta = (result.convergence_delta / rise).abs()
        distance = (result.map - converged.map).abs().mean((1, 2)) / converged.map.mean((1, 2))
        results[method, steps] = [
            statistics.median(delta.tolist()),
            statistics.median(distance.tolist()),
        ]
    return results


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--images", type=Path, required=True)
    add("--count", type=int, default=20)
    add("--side", type=int, default=SIDE, help="HR pixels of the crops")
    add("--networks", nargs="+", choices=tuple(BUILT_IN), default=list(BUILT_IN))
    add("--checkpoint", type=Path, help="training state of EDSR, where no weights are installed")
    add("--out", type=Path)
    options = parser.parse_args()
    images = crops(options.images, options.count, options.side)
    lines = [
        f"{options.count} images of {images.shape[-1]}x{images.shape[-1]} LR pixels, window "
        f"{WINDOW}; converged: {CONVERGED} right-Riemann steps.",
        "",
        "| network | method | steps | relative delta | distance of the map |",
        "|---|---|---|---|---|",
    ]
    for name in options.networks:
        results = study(name, images, options.checkpoint)
        for (method, steps), (delta, distance) in results.items():
            lines.append(f"| {name} | {method} | {steps} | {delta:.3%} | {distance:.3%} |")
        target = results[PUBLISHED]
        matching = [
            steps
            for (method, steps), values in results.items()
            if method == "arc_midpoint"
            and all(ours <= theirs for ours, theirs in zip(values, target, strict=True))
        ]
        answer = f"{min(matching)} arc_midpoint nodes" if matching else "no arc_midpoint row"
        lines.append(f"| {name} | as good as 50 published steps in both: {answer} | | | |")
        print("\n".join(lines[-len(results) - 1 :]), flush=True)
    if options.out is not None:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
