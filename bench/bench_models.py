"""EDSR, RCAN, SwinIR at their built-in sizes: forward and input gradient, whole and in a window.

    python bench/bench_models.py [--record FILE]        ratios, and the error of each option
    python -m pytest bench --benchmark-only             the same ways under pytest-benchmark

Two workloads of the paper: `forward` restores the central 32x32 of 128x128 composites (8 of them,
LR 32x32; Table 1, Fig. 4), `gradient` is one step of LAM (LR 64x64, window 16x16). `image` restores
one whole image of LR 64x64. Ways:

    naive              NCHW weights, whole image, then crop; `gradient` includes those of weights
    whole              good PyTorch: frozen, channels_last; whole image, then crop
    window_torch       the same through forward_window(): the gain of leaving pixels out
    window             forward_window() as fastbg calls it: EDSR in one native call
    modules            the same module by module, with fastbg's convolution (EDSR only)
    window_contiguous  forward_window() in PyTorch, without channels_last
    window_bf16        with bf16 autocast: its error is printed, it is not checked

Weights are random if the trained ones are not installed.
"""

import argparse
import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

import fastbg
from bench import measure
from bench.baselines.networks_torch import in_torch
from fastbg.models.checkpoints import WEIGHTS
from fastbg.models.edsr import EDSR
from fastbg.models.network import Network
from fastbg.models.registry import BUILT_IN

# Relative difference allowed between kernels of the same arithmetic: the largest for values, the L2
# norm for gradients. Of EDSR's 4 million ReLUs about one is so near its kink that rounding decides;
# then gradients differ by 4e-5, also between PyTorch's two layouts.
EXACT = {"forward": 1e-5, "gradient": 1e-4, "image": 1e-5}
WAYS = (
    *("naive", "whole", "window_torch", "window", "modules"),
    *("window_contiguous", "window_bf16"),
)


@dataclass(frozen=True)
class Workload:
    """Input (B,3,lr,lr) and the SR window in its centre."""

    batch: int
    lr: int
    window: int

    def box(self) -> tuple[int, int, int, int]:
        """The centre window in SR pixels."""
        low = (4 * self.lr - self.window) // 2
        return (low, low, low + self.window, low + self.window)

    def image(self) -> Tensor:
        """Smooth random images in [0,1]."""
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(self.batch, 3, self.lr // 4, self.lr // 4, generator=generator)
        return torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 1)


WORKLOADS = {
    "forward": Workload(8, 32, 32),
    "gradient": Workload(1, 64, 16),
    "image": Workload(1, 64, 256),
}


def network(name: str) -> Network:
    """The built-in network: trained if its weights are installed."""
    if (WEIGHTS / f"{name}_x4.safetensors").is_file():
        return fastbg.load_model(name)
    torch.manual_seed(0)
    net = BUILT_IN[name]().eval().requires_grad_(False)
    net.to(memory_format=torch.channels_last)
    return net


def sr_window(net: Network, x: Tensor, box: tuple[int, ...], trimmed: bool) -> Tensor:
    """The window of the SR image: cut from the whole image, or computed alone if `trimmed`."""
    if trimmed:
        return net.forward_window(x, box)
    return net(x)[..., box[0] : box[2], box[1] : box[3]]


def forward(net: Network, work: Workload, x: Tensor, trimmed: bool, dtype: Any = None) -> Tensor:
    """SR windows (B,3,w,w)."""
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        return sr_window(net, x, work.box(), trimmed)


def gradient(net: Network, work: Workload, x: Tensor, trimmed: bool, dtype: Any = None) -> Tensor:
    """Gradient of the sum of squared vertical differences in the window, which has no kinks."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        sr = sr_window(net, x, work.box(), trimmed).float()
    target = sr.diff(dim=-2).square().sum()
    if any(p.requires_grad for p in net.parameters()):
        target.backward()
        net.zero_grad()
        assert x.grad is not None
        return x.grad
    return torch.autograd.grad(target, x)[0]


def prepared(name: str, task: str) -> dict[str, measure.Way]:
    """Each way as a call without arguments."""
    work, run = WORKLOADS[task], gradient if task == "gradient" else forward
    net = network(name)
    pure = in_torch(net)
    plain = in_torch(net).to(memory_format=torch.contiguous_format)
    naive = copy.deepcopy(plain).requires_grad_(True)
    x = work.image()
    fast = x.contiguous(memory_format=torch.channels_last)
    ways: dict[str, Callable[[], Tensor]] = {
        "naive": partial(run, naive, work, x, False),
        "whole": partial(run, pure, work, fast, False),
        "window_torch": partial(run, pure, work, fast, True),
        "window": partial(run, net, work, fast, True),
        "window_contiguous": partial(run, plain, work, x, True),
        "window_bf16": partial(run, net, work, fast, True, torch.bfloat16),
    }
    if isinstance(net, EDSR):
        by_modules = copy.deepcopy(net)
        by_modules.native = False
        ways["modules"] = partial(run, by_modules, work, fast, True)
    return dict(ways)


def errors(results: dict[str, Any], task: str) -> dict[str, float]:
    """Relative difference of each way from `whole`, see EXACT."""
    whole, order = results["whole"], 2 if task == "gradient" else torch.inf
    scale = whole.norm(order)
    return {way: float((r - whole).norm(order) / scale) for way, r in results.items()}


def check(results: dict[str, Any], task: str) -> None:
    """AssertionError unless all float32 ways agree."""
    for way, error in errors(results, task).items():
        assert error <= EXACT[task] or way == "window_bf16", f"{way}: differs by {error}"


def report(name: str, task: str, runs: int, clock: measure.Clock) -> measure.Result:
    """Check, time and print one network and task."""
    ways = prepared(name, task)
    error = errors({way: call() for way, call in ways.items()}, task)
    facts = {f"error_{way}": value for way, value in error.items()}
    right = partial(check, task=task)
    result = measure.compare(f"{name}_{task}", ways, right, runs, facts, clock)
    for way in ways:
        milliseconds = result.median(way) * 1e3
        print(f"{name} {task:8} {way:18} {milliseconds:8.1f} ms  error {error[way]:.1e}")
    for slow in ways:
        if slow == "window":
            continue
        ratio = result.ratio(slow, "window")
        measure.print_ratio(f"{name}_{task}_window_over_{slow}", ratio)
    return result


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("task", list(WORKLOADS))
@pytest.mark.parametrize("name", list(BUILT_IN))
def test_networks(benchmark: Any, name: str, task: str, way: str) -> None:
    """One call; the result is checked before it is timed."""
    ways = prepared(name, task)
    if way not in ways:
        pytest.skip(f"{name} runs module by module")
    results = {label: ways[label]() for label in {way, "whole"}}
    check(results, task)
    benchmark.group = f"{name} {task}"
    benchmark.extra_info |= measure.machine() | {"error": errors(results, task)[way]}
    benchmark.pedantic(ways[way], rounds=3, warmup_rounds=1)


def main() -> None:
    """Print times, errors and ratios of all networks; keep all runs in a JSON record."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--record", type=Path, help="JSON file for all runs and the machine")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=measure.CLOCKS, default="wall")
    parser.add_argument("--model", nargs="+", choices=BUILT_IN, default=list(BUILT_IN))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = measure.CLOCKS[arguments.clock]
    results = [
        report(name, task, arguments.runs, clock) for name in arguments.model for task in WORKLOADS
    ]
    if arguments.record is not None:
        measure.write_record(arguments.record, results)


if __name__ == "__main__":
    main()
