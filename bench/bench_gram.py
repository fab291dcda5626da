"""conv_gram and gram against plain PyTorch, and against the rate of a large matrix product.

    python bench/bench_gram.py [--record FILE]          ratios over the baselines
    python -m pytest bench --benchmark-only             the same ways under pytest-benchmark

Operations are counted for a direct convolution and one triangle of the Gram matrix. On a shared
machine, `--threads 1 --clock cpu` keeps most of the other processes' time out.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

import fastbg
from bench import measure
from bench.baselines import gram_torch as baseline
from fastbg.models.vgg import conv1_1

CONV_SHAPES = {"16x128": (16, 128), "150x32": (150, 32), "4x512": (4, 512)}  # images, side
GRAM_SHAPES = {  # images, channels, pixels: the maps of a VGG at 128x128, its first also at 32x32
    "64x16384": (16, 64, 16384),
    "64x1024": (150, 64, 1024),
    "128x4096": (16, 128, 4096),
    "256x4096": (8, 256, 4096),
    "512x1024": (8, 512, 1024),
}
TOLERANCE = 1e-5  # of the largest entry: the rounding error of PyTorch's float32 sums
MATMUL = 1024  # side of the square matrices whose product measures the machine's rate


def check(results: dict[str, Any]) -> None:
    """AssertionError unless every way gives fastbg's Gram matrices, up to rounding."""
    expected = results["fastbg"]
    for way, result in results.items():
        if way != "matmul":
            error = (result - expected).abs().max() / expected.abs().max()
            assert error <= TOLERANCE, f"{way}: differs by {error}"


def conv_gram_ways(shape: str) -> tuple[dict[str, measure.Way], float]:
    """Each way as a call without arguments, and the operations of the result."""
    count, side = CONV_SHAPES[shape]
    images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) - 0.5
    images = images.to(measure.device())
    weight, bias = conv1_1(images.device, images.dtype)
    last = {"memory_format": torch.channels_last}
    ways: dict[str, measure.Way] = {
        "fastbg": partial(fastbg.conv_gram, images, weight, bias),
        "good_torch": partial(
            baseline.good_conv_gram, images.contiguous(**last), weight.contiguous(**last), bias
        ),
        "naive": partial(baseline.naive_conv_gram, images, weight, bias),
    }
    return ways, count * side**2 * (2 * 27 * 64 + 64 * 65)


def gram_ways(shape: str) -> tuple[dict[str, measure.Way], float]:
    """The same for given features."""
    count, channels, pixels = GRAM_SHAPES[shape]
    features = torch.randn(
        count, channels, pixels, generator=torch.Generator().manual_seed(0)
    ).relu_()
    features = features.to(measure.device())
    ways: dict[str, measure.Way] = {
        "fastbg": partial(fastbg.gram, features),
        "bmm": partial(baseline.bmm_gram, features),
    }
    if features.device.type == "cpu":
        ways["ssyrk"] = partial(baseline.ssyrk_gram, features)
    return ways, count * pixels * channels * (channels + 1)


OPERATORS = {"conv_gram": (conv_gram_ways, CONV_SHAPES), "gram": (gram_ways, GRAM_SHAPES)}


def run(operator: str, shape: str, runs: int, clock: measure.Clock) -> measure.Result:
    """Check, time and print one operator and shape."""
    ways, operations = OPERATORS[operator][0](shape)
    square = torch.rand(MATMUL, MATMUL, generator=torch.Generator().manual_seed(0))
    square = square.to(measure.device())
    matmul: dict[str, measure.Way] = {"matmul": partial(torch.mm, square, square)}
    name = f"{operator}_{shape}"
    result = measure.compare(name, ways | matmul, check, runs, {"operations": operations}, clock)
    rate = operations / result.median("fastbg") / 1e9
    print(f"{name}: {result.median('fastbg') * 1e3:.2f} ms, {rate:.0f} GFLOP/s")
    for way in ways:
        if way != "fastbg":
            measure.print_ratio(f"{name}_over_{way}", result.ratio(way, "fastbg"))
    share = result.ratio("matmul", "fastbg", operations / (2 * MATMUL**3))
    measure.print_ratio(f"{name}_of_matmul_rate", share)
    return result


@pytest.mark.parametrize(
    ("operator", "shape", "way"),
    [
        (operator, shape, way)
        for operator, ways in (
            ("conv_gram", ("fastbg", "good_torch", "naive")),
            ("gram", tuple(gram_ways("64x1024")[0])),
        )
        for shape in OPERATORS[operator][1]
        for way in ways
    ],
)
def test_gram(benchmark: Any, operator: str, shape: str, way: str) -> None:
    """One call; the result is checked before it is timed."""
    ways, operations = OPERATORS[operator][0](shape)
    check({label: ways[label]() for label in {way, "fastbg"}})
    benchmark.group = f"{operator} {shape}"
    benchmark.extra_info |= measure.machine() | {"operations": operations}
    benchmark.pedantic(ways[way], rounds=5, warmup_rounds=1)


def main() -> None:
    """Print times, rates and ratios of both operators; keep all runs in a JSON record."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--record", type=Path, help="JSON file for all runs and the machine")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=measure.CLOCKS, default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = measure.CLOCKS[arguments.clock]
    results = [
        run(operator, shape, arguments.runs, clock)
        for operator, (_, shapes) in OPERATORS.items()
        for shape in shapes
    ]
    if arguments.record is not None:
        measure.write_record(arguments.record, results)


if __name__ == "__main__":
    main()
