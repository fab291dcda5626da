"""The path family's operators at LAM's shapes, against plain PyTorch.

    python bench/bench_path.py [--record FILE] [--threads 1 --clock cpu]

One LR image of 64x64 with all 50 nodes. `torch` is good PyTorch: depthwise convolutions on padded
images, stored steps, autograd through the objective. Then the density of a map of 64x64, as drawn
in pictures, against scipy's gaussian_kde; `large` is a map of 256x256, where scipy takes minutes.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import gaussian_kde
from torch import Tensor
from torch.nn.functional import conv2d, pad

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

import fastbg
from bench import measure
from bench.baselines.lam_torch import kernels
from fastbg.attribution import kde_density
from fastbg.attribution.diffusion import attribution_map

STEPS = 50
SIGMAS = torch.linspace(1.2, 0, STEPS + 1, dtype=torch.float64)


def convolved(image: Tensor, table: Tensor) -> Tensor:
    """(1,3,h,w) under kernels (K,9,9): (1,K,3,h,w)."""
    padded = pad(image, (4,) * 4, mode="reflect").transpose(0, 1)
    return conv2d(padded, table[:, None]).transpose(0, 1)[None]


def integral(gradients: Tensor, image: Tensor, table: Tensor) -> Tensor:
    """Sum of gradients times stored steps."""
    return (gradients * convolved(image, table[1:] - table[:-1])).sum(1)


def detector(sr: Tensor) -> Tensor:
    """Gradient of the objective on the window."""
    sr = sr.detach().requires_grad_()
    down = sr[..., 1:17, :16] - sr[..., :16, :16]
    right = sr[..., :16, 1:17] - sr[..., :16, :16]
    value = (down**2 + right**2).clamp(min=1e-24).sqrt().sum()
    return torch.autograd.grad(value, sr)[0]


def fused_detector(sr: Tensor) -> Tensor:
    """The same by fastbg."""
    sr = sr.detach().requires_grad_()
    value = fastbg.gradient_detector(sr, (0, 0, 16, 16))
    return torch.autograd.grad(value.sum(), sr)[0]


def scipy_density(map_: NDArray[np.float32]) -> Tensor:
    """Density as in the public code: a sum over all pairs of pixels."""
    points = np.indices(map_.shape)[::-1].reshape(2, -1)
    values = gaussian_kde(points, weights=map_.ravel())(points)
    return torch.from_numpy(values / values.max()).reshape(map_.shape)


def density(map_: NDArray[np.float32]) -> Tensor:
    """The same by fastbg."""
    return torch.from_numpy(kde_density(map_))


def check(results: dict[str, Any]) -> None:
    """AssertionError unless both ways agree."""
    torch.testing.assert_close(results["fastbg"], results["torch"], rtol=1e-5, atol=1e-5)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--runs", type=int, default=15)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--clock", choices=tuple(measure.CLOCKS), default="wall")
    add("--record", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 64, 64, generator=generator).to(measure.device())
    gradients = torch.randn(1, STEPS, 3, 64, 64, generator=generator).to(measure.device())
    sr = torch.rand(STEPS, 3, 17, 17, generator=generator).to(measure.device())
    table = kernels(STEPS).float().to(measure.device())
    cases: dict[str, dict[str, measure.Way]] = {
        "blur_path": {
            "torch": partial(convolved, image, table[1:]),
            "fastbg": partial(fastbg.blur_path, image, SIGMAS[1:]),
        },
        "path_integral": {
            "torch": partial(integral, gradients, image, table),
            "fastbg": partial(fastbg.path_integral, gradients, image, SIGMAS),
        },
        "gradient_detector": {
            "torch": partial(detector, sr),
            "fastbg": partial(fused_detector, sr),
        },
    }
    map_ = attribution_map(gradients[0, 0].cpu())
    large = attribution_map(torch.randn(3, 256, 256, generator=generator))
    cases["density"] = {
        "torch": partial(scipy_density, map_.numpy()),
        "fastbg": partial(density, map_.numpy()),
        "large": partial(kde_density, large.numpy()),
    }
    results = []
    for name, ways in cases.items():
        result = measure.compare(
            name, ways, check, options.runs, clock=measure.CLOCKS[options.clock]
        )
        print(*(f"{name} {way}: {1e3 * result.median(way):.3f} ms" for way in ways), sep="\n")
        measure.print_ratio(f"{name}_fastbg_over_torch", result.ratio("torch", "fastbg"))
        results.append(result)
    if options.record is not None:
        measure.write_record(options.record, results)


if __name__ == "__main__":
    main()
