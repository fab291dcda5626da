"""How many draws does accuracy="published" take, and how far is it from the exact effect?

    python bench/bench_effect_draws.py [--images 20] [--reference 100] [--network edsr] [--skip 0]

The exact effect of a block is its mean over all replacements that the pool can give. It is
estimated here from `reference` more draws, which neither way has seen. Compared with it, on all
affected blocks of built-in images of 96x96 pixels (LR 24x24), window 32, blocks of 2:

    fixed       the plain mean of the published 50 replacements
    plain       the same replacements, in rounds until their plain mean is accurate enough
    rounds      accuracy="published": in rounds until the regression estimate is

An error includes the reference's own; its standard error is printed too. A sign is wrong if it is
not that of the reference. This is counted on blocks whose sign is known: |effect| is at least the
tolerance and more than two standard errors of the reference. As wrong signs are rare, the ways also
run on `ORDERS` random orders of all draws of a block, with the mean of all as the reference.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

import fastbg
from bench import measure
from fastbg.attribution.regression import Mean, Regression, is_enough, plain_mean, rounds
from fastbg.data.builtin import builtin_images
from fastbg.experiments.study import Study, detailed
from fastbg.geometry import centre
from fastbg.models.network import Network

SIZE, WINDOW, BLOCK, COARSE, FINE = 96, 32, 2, 3, 50
TOLERANCE = 0.01  # dB
ORDERS = 20

Values = NDArray[np.float64]
Estimate = Callable[[NDArray[np.intp]], Mean]  # of a block, from some of its draws


@dataclass
class Way:
    """What a way gave for every affected block (n): effect in dB, standard error, draws."""

    effect: Values
    error: Values
    draws: Values


@dataclass
class Image:
    """The affected blocks (n) of an image: ways, the reference, and signs in random orders."""

    ways: dict[str, Way]
    exact: Values
    exact_error: Values
    signs: dict[str, tuple[int, int]]  # wrong ones, and all


def measured(net: Network, lr: torch.Tensor, hr: torch.Tensor, reference: int) -> Image:
    """One map of an image with all draws; every way takes the first ones that it needs."""
    corner = (SIZE - WINDOW) // 2
    effects = fastbg.CausalEffectMap(net, BLOCK, COARSE, FINE + reference, TOLERANCE)
    whole = effects.effect(lr, (corner, corner, WINDOW), hr)
    rng, baseline = np.random.default_rng(0), float(whole.baseline)
    regression = Regression.of(lr[0], whole.interventions.coarse)
    ways: dict[str, list[tuple[float, float, int]]] = {name: [] for name in WAYS}
    signs = {name: [0, 0] for name in WAYS}
    exact = []
    for index, drawn in zip(
        whole.interventions.fine_index.tolist(), whole.interventions.fine, strict=True
    ):
        place = index[0], index[1]
        values = whole.fine_values[0][place].numpy()

        def plain(some: NDArray[np.intp], values: Values = values) -> Mean:
            return plain_mean(values[some])

        def adjusted(
            some: NDArray[np.intp],
            values: Values = values,
            drawn: NDArray[np.uint8] = drawn,
            place: tuple[int, int] = place,
        ) -> Mean:
            return regression.mean(place, drawn[some], values[some])

        estimates = {"fixed": plain, "plain": plain, "rounds": adjusted}
        rest = plain_mean(values[FINE:])
        exact.append((baseline - rest.value, rest.error))
        all_ = plain_mean(values)
        known = abs(baseline - all_.value) >= max(TOLERANCE, 2 * all_.error)
        for name, stops in WAYS.items():
            mean, count = stopped(estimates[name], np.arange(FINE), stops, baseline)
            ways[name].append((baseline - mean.value, mean.error, count))
            for _ in range(ORDERS if known else 0):
                order = rng.permutation(len(values))[:FINE]
                mean, _ = stopped(estimates[name], order, stops, baseline)
                signs[name][0] += (baseline - mean.value) * (baseline - all_.value) < 0
                signs[name][1] += 1
    check_rounds(whole, ways["rounds"])
    effect, error = np.array(exact).T
    return Image(
        {name: Way(*np.array(found).T) for name, found in ways.items()},
        effect,
        error,
        {name: (wrong, count) for name, (wrong, count) in signs.items()},
    )


WAYS = {"fixed": [FINE], "plain": rounds(FINE), "rounds": rounds(FINE)}


def stopped(
    estimate: Estimate, order: NDArray[np.intp], stops: list[int], baseline: float
) -> tuple[Mean, int]:
    """The estimate of a block from its draws in this order, and after how many it was enough."""
    for count in stops:
        mean = estimate(order[:count])
        if is_enough(mean, baseline):
            break
    return mean, count


def check_rounds(
    whole: fastbg.CausalEffectResult,
    found: list[tuple[float, float, int]],
) -> None:
    """That CausalEffectResult has the same estimates where those draws were taken."""
    values = torch.full_like(whole.fine_values, torch.nan)
    index = whole.interventions.fine_index.tolist()
    for (i, j), (_, _, count) in zip(index, found, strict=True):
        values[0, i, j, :count] = whole.fine_values[0, i, j, :count]
    result = replace(whole, fine_values=values, regression=True)
    told = torch.tensor([[effect, error] for effect, error, _ in found], dtype=torch.float64)
    tables = torch.stack([result.mean_effect[0], result.standard_error[0]], -1)
    torch.testing.assert_close(tables[tuple(np.transpose(index))], told, rtol=0, atol=1e-9)


def pictures(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """LR (1,3,24,24) and HR (1,3,96,96) of built-in photographs with detail in the middle."""
    study = Study(builtin_images())
    window = centre(WINDOW, SIZE, SIZE)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for item in study.sub_images(2 * count, SIZE):
        hr = study.ground_truth([item])
        if detailed(hr, window)[0] and len(found) < count:
            found.append((study.degrade(hr, "matlab"), hr))
    if len(found) < count:
        raise SystemExit(f"{len(found)} images have detail in the middle; expected {count}")
    return found


def print_summary(images: list[Image]) -> None:
    """Print the comparison."""
    exact, exact_error = (
        np.concatenate([getattr(image, name) for image in images])
        for name in ("exact", "exact_error")
    )
    known = np.abs(exact) >= np.maximum(TOLERANCE, 2 * exact_error)
    print(f"affected blocks: {len(exact)}; with a known sign: {int(known.sum())}")
    print(f"the reference's own standard error: {np.median(exact_error):.4f} dB (median)")
    for name in WAYS:
        effect, error, draws = (
            np.concatenate([getattr(image.ways[name], field) for image in images])
            for field in ("effect", "error", "draws")
        )
        short = [not is_enough(Mean(e, s), 0.0) for e, s in zip(effect, error, strict=True)]
        middle, most = np.quantile(np.abs(effect - exact), (0.5, 0.95))
        print(
            f"{name}: {draws.mean():.1f} draws ({FINE / draws.mean():.2f} times fewer), "
            f"{100 * np.mean(short):.0f} % of the blocks above the target at {FINE}; "
            f"error {middle:.4f} dB (median), {most:.4f} (95 %)"
        )
        wrong = (effect * exact < 0) & known
        largest = np.abs(exact[wrong]).max(initial=0.0)
        count, of = (sum(image.signs[name][i] for image in images) for i in range(2))
        print(
            f"    wrong signs: {int(wrong.sum())} (largest effect {largest:.3f} dB); in random "
            f"orders {count} of {of}, {100 * count / max(of, 1):.3f} %"
        )


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--reference", type=int, default=100)
    parser.add_argument("--network", default="edsr")
    parser.add_argument("--skip", type=int, default=0, help="first image, to share the work")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    net = fastbg.load_model(options.network)
    images: list[Image] = []
    for lr, hr in pictures(20)[options.skip : options.skip + options.images]:
        images.append(measured(net, lr, hr, options.reference))
        print(f"\nimages: {len(images)}")
        print_summary(images)
        sys.stdout.flush()
    print(measure.machine())


if __name__ == "__main__":
    main()
