"""How the quadrature's error falls with the nodes, for each method: completeness and map.

    python bench/bench_convergence.py --record FILE.jsonl [--images FOLDER ...] [--networks edsr]

Images are the centres of the built-in photographs and of the images in the FOLDERs. For each image,
network, method and number of nodes: the convergence delta relative to the objective's rise, the L1
distance of the map to the converged map (relative to its mean), and the difference of the diffusion
index. The converged result is `riemann_trapezoid` with 401 nodes, four times as many as any method
has. The last lines tell how many `arc_midpoint` nodes are as near as the 50 published steps in
delta and map. An image takes minutes. Each is appended to FILE when it is done, and a repeated run
computes only images that FILE lacks.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

import fastbg
from bench.bench_attribution import difference, network
from fastbg.attribution.diffusion import attribution_map, diffusion_index
from fastbg.attribution.quadrature import Array, Cells, quadrature
from fastbg.data.builtin import builtin_images
from fastbg.data.degradation import downsample
from fastbg.data.images import open_folder
from fastbg.models.network import Network, fingerprint
from fastbg.models.registry import BUILT_IN

SCALE, WINDOW, CONVERGED = 4, 16, 400
NEGLIGIBLE = 1e-7  # LocalAttribution's skip_tolerance
PUBLISHED = "riemann_right 50"
# The nodes of the first two rows are among the converged ones, so they cost nothing more.
NODES = {
    "riemann_right": (8, 16, 25, 50, 100),
    "riemann_trapezoid": (9, 17, 26, 51, 101),
    "gausslegendre": (8, 16, 25),
    "arc_midpoint": (8, 10, 12, 14, 16, 20, 25, 32),
}
Entry = dict[str, Any]


def crops(folders: list[Path], count: int, side: int) -> Iterator[tuple[str, Tensor]]:
    """(name, LR image (1,3,side/4,side/4)) of the first `count` images that are large enough."""
    found = 0
    for images in (builtin_images(), *map(open_folder, folders)):
        for item in images.items:
            height, width = item.size()
            if min(height, width) < side or found == count:
                continue
            found += 1
            y, x = (height - side) // 2, (width - side) // 2
            lr = downsample(item.load()[y : y + side, x : x + side], SCALE)
            image = torch.from_numpy(lr).permute(2, 0, 1)[None].float() / 255
            yield f"{images.name}/{item.key}", image
    if found < count:
        print(f"only {found} of {count} images have {side}x{side} pixels or more", flush=True)


class Integrals:
    """Attributions of one image by any quadrature rule; gradients are kept and shared."""

    def __init__(self, net: Network, image: Tensor) -> None:
        side = SCALE * image.shape[-1]
        corner = (side - WINDOW) // 2
        self.window = (corner, corner, WINDOW)
        self._box = (corner, corner, corner + WINDOW + 1, corner + WINDOW + 1)
        self._net, self._image, self._path = net, image, fastbg.GaussianBlurPath()
        self._gradients: dict[float, Tensor] = {}

    def attribution(self, method: str, n: int) -> Tensor:
        """(3,h,w)"""
        return self._integral(quadrature(method, n, self._path.at_length))

    def converged(self) -> Tensor:
        """(3,h,w), from many more nodes than any compared method takes."""
        return self._integral(quadrature("riemann_trapezoid", CONVERGED + 1, self._path.at_length))

    def rise(self) -> float:
        """Objective at the image minus objective at the baseline."""
        with torch.no_grad():
            start, end = (self._value(self._node(t)).item() for t in (0.0, 1.0))
        return end - start

    def _integral(self, cells: Cells) -> Tensor:
        cells = cells[self._path.step_sizes(cells) > NEGLIGIBLE]
        gradients = torch.stack([self._gradient(t) for t in cells.node.tolist()])
        return self._path.integral(gradients[None], self._image, cells)[0]

    def _gradient(self, position: float) -> Tensor:
        key = round(position, 9)
        if key not in self._gradients:
            node = self._node(position).requires_grad_()
            (gradient,) = torch.autograd.grad(self._value(node), node)
            self._gradients[key] = gradient[0].contiguous()
        return self._gradients[key]

    def _node(self, position: float) -> Tensor:
        positions: Array = np.array([position])
        node = self._path.nodes(self._image, positions)[0]
        return node.contiguous(memory_format=torch.channels_last)

    def _value(self, node: Tensor) -> Tensor:
        patch = self._net.forward_window(node, self._box)
        return fastbg.gradient_detector(patch, (0, 0, WINDOW, WINDOW)).sum()


def errors(integrals: Integrals) -> dict[str, list[float]]:
    """ "method nodes" -> [relative delta, distance of the map, difference of the DI]."""
    converged = integrals.converged()
    rise = integrals.rise()
    map_ = attribution_map(converged)
    table = {}

    def add(label: str, attribution: Tensor) -> None:
        ours = attribution_map(attribution)
        table[label] = [
            abs(float(attribution.double().sum()) / rise - 1),
            float((ours - map_).abs().mean() / map_.mean()),
            abs(float(diffusion_index(ours) - diffusion_index(map_))),
        ]

    add("converged", converged)
    for method, counts in NODES.items():
        for n in counts:
            add(f"{method} {n}", integrals.attribution(method, n))
    return table


def check(net: Network, integrals: Integrals, image: Tensor) -> None:
    """AssertionError unless the sums here equal the result of `LocalAttribution`."""
    for method, n in (("riemann_right", 8), ("arc_midpoint", 8)):
        expected = fastbg.LocalAttribution(net).attribute(image, integrals.window, n, method)
        error = difference(integrals.attribution(method, n), expected.attribution[0])
        assert error < 1e-5, f"{method} differs from LocalAttribution by {error}"


def summary(entries: list[Entry]) -> list[str]:
    """Lines for one network: a table of medians over the entries, and the conclusion."""
    name, images = entries[0]["network"], [entry["errors"] for entry in entries]
    rows = []
    for label in images[0]:
        delta, distance, index = (
            statistics.median(image[label][i] for image in images) for i in range(3)
        )
        rows.append(f"| {name} | {label} | {delta:.2%} | {distance:.2%} | {index:.3f} |")

    def medians(label: str) -> list[float]:
        return [statistics.median(image[label][i] for image in images) for i in range(2)]

    def nearer(ours: list[float], theirs: list[float]) -> bool:
        return all(a <= b for a, b in zip(ours, theirs, strict=True))

    for n in NODES["arc_midpoint"]:
        label = f"arc_midpoint {n}"
        each = sum(nearer(image[label][:2], image[PUBLISHED][:2]) for image in images)
        verdict = "as near" if nearer(medians(label), medians(PUBLISHED)) else "not as near"
        rows.append(
            f"{name}: {n} arc_midpoint nodes are {verdict} as {PUBLISHED} in the medians of delta "
            f"and map, and as near in both on {each} of {len(images)} images"
        )
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--record", type=Path, required=True, help="JSON lines; images in it are skipped")
    add("--images", type=Path, nargs="*", default=[], help="folders, besides the built-in images")
    add("--count", type=int, default=20, help="images, at most")
    add("--side", type=int, default=128, help="HR pixels of the crops")
    add("--networks", nargs="+", choices=tuple(BUILT_IN), default=list(BUILT_IN))
    add("--checkpoint", type=Path, help="training state of EDSR, where no weights are installed")
    add("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = options.record.read_text().splitlines() if options.record.exists() else []
    entries: list[Entry] = [json.loads(line) for line in lines]
    for name in options.networks:
        net = network(name, options.checkpoint).requires_grad_(False)
        kind = {"network": name, "weights": fingerprint(net)[:12], "side": options.side}
        done = {e["image"]: e for e in entries if kind.items() <= e.items()}
        for key, image in crops(options.images, options.count, options.side):
            if key in done:
                continue
            integrals = Integrals(net, image)
            if not done:
                check(net, integrals, image)
            done[key] = {**kind, "image": key, "errors": errors(integrals)}
            with options.record.open("a") as file:
                file.write(json.dumps(done[key]) + "\n")
            print(f"{name} {key}: {done[key]['errors'][PUBLISHED]}", flush=True)
        print("| network | method, nodes | delta | map | DI |", "|---|---|---|---|---|", sep="\n")
        print(*summary(list(done.values())), sep="\n", flush=True)


if __name__ == "__main__":
    main()
