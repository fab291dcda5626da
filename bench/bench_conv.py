"""conv3x3 against PyTorch's convolution, at the shapes of the SR networks.

    python bench/bench_conv.py [--record FILE]          ratios over the baselines
    python -m pytest bench --benchmark-only             the same ways under pytest-benchmark

On a shared machine, `--threads 1 --clock cpu` keeps most of the other processes' time out.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

import fastbg
from bench import measure
from fastbg.backends.cpu import conv as native
from fastbg.backends.cpu import conv_weight
from fastbg.backends.torch_reference import conv as plain

# Images, channels in and out, side, pixel shuffle: a body's layer at three sizes, both of the
# upsampler's.
SHAPES = {
    "8x64x24": (8, 64, 64, 24, 1),
    "8x64x32": (8, 64, 64, 32, 1),
    "2x64x64": (2, 64, 64, 64, 1),
    "8x64x32_shuffled": (8, 64, 256, 32, 2),
    "8x64x64_shuffled": (8, 64, 256, 64, 2),
}
WAYS = ("fastbg", "good_torch", "naive")
TOLERANCE = 5e-6  # of the largest value


def ways(shape: str) -> dict[str, measure.Way]:
    """Convolution with ReLU and its gradient to the input; calls without arguments."""
    count, inputs, outputs, side, upscale = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, inputs, side, side, generator=generator)
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator) / 24
    last = {"memory_format": torch.channels_last}

    def both(x: Tensor, weight: Tensor, fast: bool) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        if fast:
            y = fastbg.conv3x3(x, weight, relu=True, upscale=upscale)
        else:
            y = plain.conv3x3(x, weight, None, None, 1.0, True, upscale)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        return y.detach(), gradient

    columns = x.contiguous(**last), weight.contiguous(**last)
    return {
        "fastbg": partial(both, columns[0], weight, True),
        "good_torch": partial(both, *columns, False),
        "naive": partial(both, x, weight, False),
    }


def check(results: dict[str, Any]) -> None:
    """AssertionError unless values agree, and gradients apart from ReLUs that rounding flips."""
    value, gradient = results["fastbg"]
    for way, (other, other_gradient) in results.items():
        error = float((other - value).abs().max() / value.abs().max())
        assert error <= TOLERANCE, f"{way}: differs by {error}"
        limit = TOLERANCE * float(gradient.abs().max())
        flipped = ((other_gradient - gradient).abs() > limit).float().mean()
        assert flipped < 1e-2, f"{way}: {flipped:.1%} of the gradient differ"


def run(shape: str, runs: int, clock: measure.Clock) -> measure.Result:
    """One shape: times, ratios."""
    result = measure.compare(f"conv3x3_{shape}", ways(shape), check, runs, clock=clock)
    print(f"{result.name}: {result.median('fastbg') * 1e3:.2f} ms")
    for way in WAYS[1:]:
        measure.print_ratio(f"{result.name}_over_{way}", result.ratio(way, "fastbg"))
    return result


def weight_check(layers: int, runs: int, clock: measure.Clock) -> measure.Result:
    """Share of a call that checks whether the weight changed since its factors were computed.

    Calls `layers` layers of 64 channels on 16x16 pixels in turn, with and without the check. The
    weight of one layer stays in the second-level cache, those of a network do not.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 64, 16, 16, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last)
    weights = [torch.randn(64, 64, 3, 3, generator=generator) / 24 for _ in range(layers)]
    known = {id(weight): conv_weight.known_weight(weight)[0] for weight in weights}

    def unchecked(weight: Tensor) -> tuple[conv_weight.KnownWeight, conv_weight.Contents]:
        return known[id(weight)], conv_weight.NOTHING

    def calls(look: Any) -> Tensor:
        native.known_weight = look
        with torch.inference_mode():
            for weight in weights:
                y = fastbg.conv3x3(x, weight, relu=True, backend="cpu")
        native.known_weight = conv_weight.known_weight
        return y

    def equal(results: dict[str, Any]) -> None:
        assert torch.equal(results["checked"], results["unchecked"])

    both = {
        "checked": partial(calls, conv_weight.known_weight),
        "unchecked": partial(calls, unchecked),
    }
    result = measure.compare(f"weight_check_{layers}", both, equal, runs, clock=clock)
    checked, plain = (result.median(way) / layers * 1e6 for way in ("checked", "unchecked"))
    share = 1 - plain / checked
    print(f"{result.name}: {checked - plain:.2f} of {checked:.1f} us, {share:.1%} of a call")
    return result


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", WAYS)
def test_conv(benchmark: Any, shape: str, way: str) -> None:
    """One call; the result is checked before it is timed."""
    all_ways = ways(shape)
    check({label: all_ways[label]() for label in {way, "fastbg"}})
    benchmark.group = f"conv3x3 {shape}"
    benchmark.extra_info |= measure.machine()
    benchmark.pedantic(all_ways[way], rounds=5, warmup_rounds=1)


def main() -> None:
    """Print times and ratios; keep all runs in a JSON record."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--record", type=Path, help="JSON file for all runs and the machine")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=measure.CLOCKS, default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = measure.CLOCKS[arguments.clock]
    results = [run(shape, arguments.runs, clock) for shape in SHAPES]
    results += [weight_check(layers, 6000 // layers, clock) for layers in (1, 32)]
    if arguments.record is not None:
        measure.write_record(arguments.record, results)


if __name__ == "__main__":
    main()
