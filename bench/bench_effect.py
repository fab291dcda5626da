"""A whole causal effect map: window 32, blocks of 2 LR pixels, 3 + 50 replacements.

    python bench/bench_effect.py --threads 1 --clock cpu [--networks edsr] [--sizes 64 128 256]
                                 [--paths direct] [--record FILE]

Ways, all under the same interventions:

    published   one pass over the whole image for each intervention, as the public code
    good        PyTorch as a skilled user would: batches, channels_last, only the part of the image
                that the window depends on, and no block outside of it
    fastbg      CausalEffectMap as it is called by default; measured as a whole
    rounds      fastbg with accuracy="published"

A baseline takes the same time for every intervention, so it is timed on a sample and scaled:
`published` to all blocks except the window's own, `good` to the blocks within reach. All ways take
turns, in five rounds; a map of fastbg that takes longer than a minute is made once. The SR windows
of the sample must agree, or there is no ratio. For ``--paths direct`` (RCAN) the baselines run the
same network with fixed channel weights.
"""

import argparse
import os
import sys
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

import fastbg
from bench import measure
from bench.baselines import effect_torch
from bench.baselines.networks_torch import in_torch
from fastbg.attribution.changed import Change, ChangedWindow
from fastbg.attribution.passes import WindowPasses
from fastbg.data.builtin import example_images
from fastbg.data.degradation import downsample
from fastbg.geometry import Box
from fastbg.models.network import Network
from fastbg.models.rcan import RCAN
from fastbg.models.rcan_direct import DirectRCAN

WINDOW, BLOCK, COARSE, FINE = 32, 2, 3, 50
EXACT = 1e-5  # of SR values in [0,1]; fastbg's convolutions round differently from PyTorch's
SAMPLE, BATCHES = 6, (1, 2, 4)
ROUNDS, LONG = 5, 60.0


def photograph(size: int) -> tuple[Tensor, Tensor]:
    """LR (1,3,size,size) in [0,1] and HR uint8; mirrored where the photograph is smaller."""
    hr = example_images()["astronaut"].load()[:512, :512]
    missing = max(4 * size - 512, 0) // 2
    hr = np.pad(hr, ((missing, missing), (missing, missing), (0, 0)), mode="symmetric")
    start = (len(hr) - 4 * size) // 2
    hr = hr[start : start + 4 * size, start : start + 4 * size]
    lr = torch.from_numpy(downsample(hr, 4)).permute(2, 0, 1)[None].float() / 255
    return lr, torch.from_numpy(hr.copy()).permute(2, 0, 1)[None]


def sample_of(result: fastbg.CausalEffectResult, reach: Box) -> list[Change]:
    """SAMPLE interventions on blocks spread evenly over the reach."""
    chosen = []
    places = np.argwhere(result.grid.touching(reach) & ~result.own[0].numpy())
    for row, column in places[:: max(len(places) // SAMPLE, 1)][:SAMPLE]:
        patch = torch.from_numpy(result.interventions.coarse[row, column, 0])
        chosen.append(Change(result.grid.box(row, column), patch.permute(2, 0, 1).float() / 255))
    return chosen


def timed(clock: measure.Clock, way: measure.Way) -> tuple[float, object]:
    start = clock()
    answer = way()
    return clock() - start, answer


def report(name: str, size: int, options: argparse.Namespace) -> measure.Result:
    """Check, time and print one network and size."""
    clock = measure.CLOCKS[options.clock]
    lr, hr = photograph(size)
    net = fastbg.load_model(name)
    corner = 2 * size - WINDOW // 2
    window = Box(corner, corner, corner + WINDOW, corner + WINDOW)
    effects = fastbg.CausalEffectMap(net, BLOCK, COARSE, FINE, paths=options.paths)
    asked = lr, (corner, corner, WINDOW), hr
    run: Network = net
    if options.paths == "direct":
        assert isinstance(net, RCAN)
        run = DirectRCAN(net, lr)
    plain = _plain(run)
    last = _plain(run).to(memory_format=torch.channels_last)
    reach = run.reach(window, size, size)

    def whole(accuracy: str | None) -> tuple[float, fastbg.CausalEffectResult]:
        seconds, made = timed(clock, lambda: effects.effect(*asked, accuracy=accuracy))
        assert isinstance(made, fastbg.CausalEffectResult)
        return seconds, made

    first, result = whole(None)
    sample = sample_of(result, reach)
    with torch.no_grad():
        windows = torch.cat(list(ChangedWindow(WindowPasses(run), lr, window).changed(sample)))
    slow: list[float] = []
    fast: list[float] = []

    def baselines() -> None:
        """One round: times of the sample's published passes, and of the best batch of good ones."""
        os.environ["FASTBG_BACKEND"] = "torch"
        seconds, passes = timed(clock, lambda: effect_torch.published(plain, lr, sample, window))
        slow.append(seconds)
        times = []
        for batch in BATCHES:
            seconds, batched = timed(
                clock,
                lambda batch=batch: effect_torch.good(
                    last, lr, sample, window, reach, net.scale, batch
                ),
            )
            times.append(seconds)
            for other in (passes, batched):
                error = float((windows - other).abs().max())  # type: ignore[operator]
                assert error < EXACT, f"SR windows differ by {error}"
        fast.append(min(times))
        del os.environ["FASTBG_BACKEND"]

    second, fewer = whole("published")
    ours, rounds = [first], [second]
    baselines()
    while len(slow) < ROUNDS:  # a long map of ours is an average of thousands of interventions
        ours.append(whole(None)[0] if first < LONG else first)
        baselines()
        rounds.append(whole("published")[0] if first < LONG else second)
    affected = int(result.affected.sum())
    own = int(result.own.sum())
    blocks = result.own.numel() - own
    in_reach = int((result.samples > 0).sum())
    count = COARSE * in_reach + FINE * affected
    published = [s / SAMPLE * (1 + COARSE * blocks + FINE * affected) for s in slow]
    good = [s / SAMPLE * (1 + count) for s in fast]
    slow_pass, fast_pass = (1e3 * median(seconds) / SAMPLE for seconds in (slow, fast))
    few = COARSE * in_reach + int((~fewer.fine_values.isnan()).sum())
    print(
        f"{name} {options.paths} LR {size}: {blocks} blocks, {in_reach} in reach, {affected} "
        f"affected; {count} interventions, {few} in rounds"
    )
    print(
        f"  seconds: published {median(published):.0f}, good {median(good):.0f}, "
        f"fastbg {median(ours):.1f}, rounds {median(rounds):.1f}; ms an intervention: published "
        f"{slow_pass:.0f}, good {fast_pass:.0f}, fastbg {1e3 * median(ours) / count:.2f}"
    )
    label = f"effect_{name}_{size}" + ("_direct" if options.paths == "direct" else "")
    for ending, theirs, own_times in (
        ("over_published", published, ours),
        ("over_good", good, ours),
        ("rounds_over_published", published, rounds),
    ):
        each = [t / o for t, o in zip(theirs, own_times, strict=True)]
        measure.print_ratio(f"{label}_{ending}", measure.Ratio.of(each))
    facts = {"affected": affected, "in_reach": in_reach, "interventions": count, "rounds": few}
    return measure.Result(
        label,
        {"published": published, "good": good, "fastbg": ours, "rounds": rounds},
        {k: float(v) for k, v in facts.items()},
    )


def _plain(net: Network) -> Network:
    """`net` in PyTorch's own functions."""
    plain = in_torch(net)
    plain.native = False  # type: ignore[assignment]
    return plain


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", default=["edsr"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--paths", choices=("total", "direct"), default="total")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=tuple(measure.CLOCKS), default="wall")
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = [report(name, size, options) for name in options.networks for size in options.sizes]
    print(measure.machine())
    if options.record is not None:
        measure.write_record(options.record, results)


if __name__ == "__main__":
    main()
