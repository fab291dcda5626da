"""Memory that one call of `LocalAttribution` takes, in a process of its own.

    python tests/attribution_peak.py NETWORK SIDE WINDOW BUDGET STEPS

A built-in network with random weights, an LR image of SIDE x SIDE, a window of WINDOW SR pixels in
its middle; BUDGET in MiB, 0 for the default. Prints the peak of the process and how far
it lies above what a tiny call needs, in MiB.
"""

import resource
import sys
from pathlib import Path

import torch

import fastbg
from fastbg.models.registry import BUILT_IN


def peak() -> float:
    """MiB of resident memory that this process has had at most.

    Not getrusage's, which begins with what the parent had when it started this process.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    line = next(v for v in status.read_text().splitlines() if v.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10


def main(name: str, side: int, window: int, budget: int, steps: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = BUILT_IN[name]()
    lam = fastbg.LocalAttribution(net, memory_budget=budget << 20 or None)
    tiny = torch.rand(1, 3, 16, 16), (0, 0, 16), 1
    fastbg.LocalAttribution(net, memory_budget=1).attribute(*tiny)  # imports what recomputing takes
    lam.attribute(*tiny)
    before = peak()
    corner = (4 * side - window) // 2
    lam.attribute(torch.rand(1, 3, side, side), (corner, corner, window), steps)
    print(peak(), peak() - before)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
