"""LocalAttribution of one LR 64x64 image, window 16, 50 steps, for EDSR, RCAN and SwinIR.

    python bench/bench_attribution.py [--record FILE] [--networks edsr rcan swinir]
    python bench/bench_attribution.py --images 150 [--steps 10] [--networks edsr]

Ways, all with the same map (to 1e-4; checked before anything is timed):

    published   the public script's way: one image per step, gradients of all parameters
    good        frozen, channels_last, the best of --batches, objective on the window
    fastbg      LocalAttribution as it is called by default

and two that differ: `quick` (accuracy="published") and `bf16` (autocast), whose error is printed.
bf16 takes ten times as long on CPUs without AMX: there it is measured with --bf16 alone.
A baseline takes equal time for every node, so it is timed on --sample of the 50 nodes and scaled.
`fixed` is fastbg's own overhead: its time with a network that costs nothing. On a shared machine,
`--threads 1 --clock cpu` keeps most of the other processes' time out. With --images only one thing
is measured: the time per image, in one call with all images and in one call for each.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

import fastbg
from bench import measure
from bench.baselines import lam_torch
from bench.baselines.networks_torch import in_torch
from fastbg.attribution.diffusion import attribution_map
from fastbg.data.builtin import example_images
from fastbg.data.degradation import downsample
from fastbg.models.checkpoints import WEIGHTS
from fastbg.models.network import Network
from fastbg.models.registry import BUILT_IN

STEPS, WINDOW = 50, (120, 120, 16)
EXACT = 1e-4
# For a map over 50 steps. If rounding moves a ReLU's input across 0, the gradient of that step
# changes by up to 1 % (PyTorch against float64: 0.1 %); the other steps agree to 3e-6.
EXACT_MAP = 1e-3


def network(name: str, checkpoint: Path | None) -> Network:
    """The built-in network, trained if weights are installed or a training state is given."""
    if (WEIGHTS / f"{name}_x4.safetensors").is_file():
        return fastbg.load_model(name)
    torch.manual_seed(0)
    net = BUILT_IN[name]().eval().requires_grad_(False)
    if checkpoint is not None and name == "edsr":
        average = torch.load(checkpoint, weights_only=True)["average"]
        for parameter, value in zip(net.parameters(), average, strict=True):
            parameter.copy_(value)
    net.to(memory_format=torch.channels_last)
    return net


def photograph(size: int = 64) -> Tensor:
    """An LR image (1,3,size,size): a crop of a built-in photograph, down-sampled by 4.

    Not a synthetic image: in flat windows the objective's derivative, difference over length,
    amplifies rounding errors to 1e-4.
    """
    hr = example_images()["astronaut"].load()[: 4 * size, 100 : 100 + 4 * size]
    return torch.from_numpy(downsample(hr, 4)).permute(2, 0, 1)[None].float() / 255


class Free(nn.Module):
    """A network that costs nothing, to measure the cost of everything else."""

    scale = 4

    def forward_window(self, x: Tensor, box: tuple[int, int, int, int]) -> Tensor:
        """A part of the input with the size of the window."""
        return x[..., : box[2] - box[0], : box[3] - box[1]]


def best_batch(net: Network, image: Tensor, batches: list[int], clock: measure.Clock) -> int:
    """The batch at which `good` is fastest per node."""
    per_node = {}
    for batch in batches:
        run = partial(lam_torch.good, net, image, WINDOW, STEPS, range(batch), batch)
        run()
        start = clock()
        run()
        per_node[batch] = (clock() - start) / batch
    return min(per_node, key=per_node.__getitem__)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def report(name: str, options: argparse.Namespace) -> measure.Result:
    """Check, time and print one network."""
    clock = measure.CLOCKS[options.clock]
    image, net = photograph(), network(name, options.checkpoint)
    good = in_torch(net)
    plain = in_torch(net).to(memory_format=torch.contiguous_format).requires_grad_(True)
    batch = best_batch(good, image, options.batches, clock)
    lam = fastbg.LocalAttribution(net)

    exact = lam.attribute(image, WINDOW, STEPS)
    whole = lam_torch.good(good, image, WINDOW, STEPS, range(STEPS), batch)
    error = float((exact.map[0] - attribution_map(whole)).abs().max())
    part = range(STEPS // 2, STEPS // 2 + batch)
    part_error = difference(
        lam_torch.published(plain, image, WINDOW, STEPS, part),
        lam_torch.good(good, image, WINDOW, STEPS, part, batch),
    )
    assert error < EXACT_MAP, f"fastbg's map differs from good PyTorch's by {error}"
    assert part_error < EXACT, f"published differs from good PyTorch by {part_error}"

    sample = range(10, 10 + options.sample)
    good_sample = range(10, 10 + max(batch, options.sample // batch * batch))
    ways: dict[str, measure.Way] = {
        "published": partial(lam_torch.published, plain, image, WINDOW, STEPS, sample),
        "good": partial(lam_torch.good, good, image, WINDOW, STEPS, good_sample, batch),
        "fastbg": partial(lam.attribute, image, WINDOW, STEPS),
        "quick": partial(lam.attribute, image, WINDOW, accuracy="published"),
        "fixed": partial(fastbg.LocalAttribution(Free()).attribute, image, (0, 0, 16), STEPS),
    }
    facts = {
        "map_error": error,
        "attribution_error": difference(exact.attribution[0], whole),
        "batch_of_good": batch,
        "nodes": exact.passes,
        "diffusion_index": float(exact.diffusion_index),
    }
    # Without AMX, bfloat16 convolutions ran at half of float32's rate.
    if options.bf16 or torch.cpu.get_capabilities().get("amx_bf16", False):
        bf16 = fastbg.LocalAttribution(net, autocast=torch.bfloat16)
        ways["bf16"] = partial(bf16.attribute, image, WINDOW, STEPS)
        rounded: Any = ways["bf16"]()
        facts["bf16_error"] = difference(rounded.attribution, exact.attribution)
        facts["bf16_diffusion_index"] = float(rounded.diffusion_index)
    result = measure.compare(name, ways, lambda _: None, options.runs, facts, clock)
    scale = {"published": STEPS / len(sample), "good": STEPS / len(good_sample)}
    for way in ways:
        print(f"{name} {way}: {result.median(way) * scale.get(way, 1.0):.3f} s")
    for key, value in facts.items():
        print(f"{name} {key}: {value:.4g}")
    for fast in ("fastbg", "quick"):
        for slow in ("published", "good"):
            ratio = result.ratio(slow, fast, scale[slow])
            measure.print_ratio(f"attribution_{name}_{fast}_over_{slow}", ratio)
    if "bf16" in ways:
        measure.print_ratio(f"attribution_{name}_bf16_over_fastbg", result.ratio("fastbg", "bf16"))
    measure.print_ratio(
        f"attribution_{name}_fixed_share", 1 / (result.ratio("fastbg", "fixed").value - 1)
    )
    return result


def report_many(name: str, options: argparse.Namespace) -> measure.Result:
    """Time one call with --images images against calls with one image each."""
    lam = fastbg.LocalAttribution(network(name, options.checkpoint))
    turned = [photograph().rot90(i % 4, (2, 3)) for i in range(options.images)]
    images = torch.cat([image + 1e-3 * (i // 4) for i, image in enumerate(turned)]).clamp(0, 1)

    def each() -> Tensor:
        parts = [lam.attribute(image, WINDOW, options.steps) for image in images.split(1)]
        return torch.cat([part.attribution for part in parts])

    def check(results: dict[str, Any]) -> None:
        error = difference(results["together"], results["each"])
        assert error < EXACT, f"one call differs from many by {error}"

    ways: dict[str, measure.Way] = {
        "each": each,
        "together": lambda: lam.attribute(images, WINDOW, options.steps).attribution,
    }
    facts = {"images": options.images, "steps": options.steps}
    clock = measure.CLOCKS[options.clock]
    result = measure.compare(f"{name}_many", ways, check, options.runs, facts, clock)
    for way in ways:
        print(f"{name} {way}: {result.median(way) / options.images:.3f} s per image")
    ratio = result.ratio("each", "together")
    measure.print_ratio(f"attribution_{name}_together_over_each", ratio)
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--networks", nargs="+", choices=tuple(BUILT_IN), default=list(BUILT_IN))
    add("--checkpoint", type=Path, help="training state of EDSR, where no weights are installed")
    add("--batches", nargs="+", type=int, default=[1, 2, 4])
    add("--sample", type=int, default=5, help="nodes on which the baselines are timed")
    add("--bf16", action="store_true", help="measure bf16 where it is slow, too")
    add("--images", type=int, help="measure this many images in one call instead")
    add("--steps", type=int, default=STEPS, help="with --images")
    add("--runs", type=int, default=5)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--clock", choices=tuple(measure.CLOCKS), default="wall")
    add("--record", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = report if options.images is None else report_many
    results = [task(name, options) for name in options.networks]
    if options.record is not None:
        measure.write_record(options.record, results)


if __name__ == "__main__":
    main()
