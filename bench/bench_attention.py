"""Swin Transformer layers: fastbg's kernel against PyTorch's modules, a block and all of SwinIR.

    python bench/bench_attention.py --threads 1 --clock cpu [--record FILE]

Frozen float32, channels_last. The network is the built-in one (with random weights if its file is
not installed) at LR 64x64; blocks have its size or that of the published networks. Both ways use
fastbg's convolution, so the ratio is that of the blocks.
"""

import argparse
import copy
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

from bench import measure
from bench.bench_models import network
from fastbg.models.swinir import Block
from fastbg.models.window import whole_map

# Width, heads, side of the map, shift.
BLOCKS = {
    "block_64": (64, 4, 64, 0),
    "block_64_shifted": (64, 4, 64, 4),
    "block_64_small": (64, 4, 32, 4),
    "block_60_shifted": (60, 6, 64, 4),
    "block_180_shifted": (180, 6, 64, 4),
}
TOLERANCE = {"forward": 1e-5, "gradient": 1e-4}  # of the largest value


def in_modules(net: torch.nn.Module) -> torch.nn.Module:
    """A copy whose blocks are PyTorch's modules."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, Block):
            module.fused = False
    return net


def forward(net: Any, x: Tensor) -> Tensor:
    """Forward pass without gradients."""
    with torch.no_grad():
        result: Tensor = net(x)
    return result


def gradient(net: Any, x: Tensor) -> Tensor:
    """Forward pass and gradient to the input, of a sum of squares."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(net(x).square().sum(), x)[0]


def on_map(block: Any, x: Tensor) -> Tensor:
    """A block on the whole map; the mask is computed once, as in a network."""
    patch, masks = whole_map(x), MASKS.setdefault(id(block), {})
    result: Tensor = block(patch, patch.box, *x.shape[-2:], masks).data
    return result


MASKS: dict[int, Any] = {}


def cases() -> dict[str, tuple[Any, Any, Tensor]]:
    """Cases by name: the native network, the one with PyTorch's modules, the input."""
    found: dict[str, tuple[Any, Any, Tensor]] = {}
    last = {"memory_format": torch.channels_last}
    for name, (width, heads, side, shift) in BLOCKS.items():
        torch.manual_seed(0)
        block = Block(width, heads, 8, shift, 2.0).eval().requires_grad_(False)
        x = torch.randn(1, width, side, side).contiguous(**last)
        found[name] = partial(on_map, block), partial(on_map, in_modules(block)), x
    net = network("swinir")
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, 64, 64, generator=generator).contiguous(**last)
    found["swinir_64"] = net, in_modules(net), x
    return found


def check(results: dict[str, Any], task: str) -> None:
    """AssertionError unless the native result equals that of the modules."""
    native, modules = results["native"], results["modules"]
    error = float((native - modules).abs().max() / modules.abs().max())
    assert error <= TOLERANCE[task], f"differs by {error}"


def main() -> None:
    """Print times and ratios; keep all runs in a JSON record."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--record", type=Path, help="JSON file for all runs and the machine")
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=measure.CLOCKS, default="wall")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = []
    for name, (native, modules, x) in cases().items():
        for task, run in {"forward": forward, "gradient": gradient}.items():
            ways: dict[str, measure.Way] = {
                "native": partial(run, native, x),
                "modules": partial(run, modules, x),
            }
            result = measure.compare(
                f"{name}_{task}",
                ways,
                partial(check, task=task),
                arguments.runs,
                clock=measure.CLOCKS[arguments.clock],
            )
            times = ", ".join(f"{way} {result.median(way) * 1e3:.2f} ms" for way in ways)
            print(f"{result.name}: {times}")
            measure.print_ratio(
                f"{result.name}_modules_over_native", result.ratio("modules", "native")
            )
            results.append(result)
    if arguments.record is not None:
        measure.write_record(arguments.record, results)


if __name__ == "__main__":
    main()
