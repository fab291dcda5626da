"""How many replacements does accuracy="published" draw, and how far is it from the true effect?

    python bench/bench_effect_draws.py [--images 20] [--reference 100] [--network edsr]

The true effect of a block is the mean over all replacements in the pool. It is estimated from
`--reference` other draws, used by neither of the two ways. Both are compared with this reference on
all affected blocks of built-in images of 96x96 pixels (LR 24x24), window 32, blocks of 2:

    fixed       50 replacements for each block, as published
    rounds      the same replacements in rounds, until the standard error is small enough

An error includes the reference's own; its standard error is printed too. A sign is wrong if it is
not that of the reference. This is counted on blocks whose sign is known: |effect| is at least the
tolerance and more than two standard errors of the reference.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

import fastbg
from bench import measure
from fastbg.data.builtin import builtin_images
from fastbg.experiments.study import Study, detailed
from fastbg.geometry import centre
from fastbg.models.network import Network

SIZE, WINDOW, BLOCK, COARSE, FINE = 96, 32, 2, 3, 50
TOLERANCE = 0.01  # dB
# Targets of the standard error, as in fastbg.attribution.effect: in dB, and as a share of the
# effect; the larger one counts.
TARGET, RELATIVE_TARGET = 0.0025, 0.1

Values = NDArray[np.float64]


@dataclass
class Blocks:
    """Effect and standard error (dB), and number of draws, of n affected blocks; arrays (n)."""

    fixed: Values
    rounds: Values
    rounds_error: Values
    draws: Values
    exact: Values
    exact_error: Values

    def joined(self, other: "Blocks") -> "Blocks":
        """The blocks of both."""
        return Blocks(
            *(
                np.concatenate([getattr(self, name), getattr(other, name)])
                for name in self.__dataclass_fields__
            )
        )


def measured(net: Network, lr: torch.Tensor, hr: torch.Tensor, reference: int) -> Blocks:
    """One image, mapped both ways and with the reference's draws."""
    corner = (SIZE - WINDOW) // 2
    arguments = lr, (corner, corner, WINDOW), hr
    settings = {"block": BLOCK, "coarse": COARSE, "tolerance": TOLERANCE}
    fixed = fastbg.CausalEffectMap(net, fine=FINE, **settings).effect(*arguments)  # type: ignore[arg-type]
    rounds = fastbg.CausalEffectMap(net, fine=FINE, **settings).effect(  # type: ignore[arg-type]
        *arguments, accuracy="published"
    )
    same = fixed.interventions  # the same coarse draws: the same blocks are affected
    none = np.empty((0, reference, BLOCK, BLOCK, 3), np.uint8)
    given = fastbg.Interventions(same.coarse, np.empty((0, 2), np.int64), none, same.images)
    exact = fastbg.CausalEffectMap(net, fine=reference, seed=1, **settings).effect(  # type: ignore[arg-type]
        *arguments, interventions=given
    )
    mask = fixed.affected[0]
    for other in (rounds, exact):
        assert other.affected[0].equal(mask), "other blocks are affected"

    def of(table: torch.Tensor) -> Values:
        return table[0][mask].numpy()

    return Blocks(
        of(fixed.mean_effect),
        of(rounds.mean_effect),
        of(rounds.standard_error),
        of(rounds.samples.double()),
        of(exact.mean_effect),
        of(exact.standard_error),
    )


def pictures(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """LR (1,3,24,24) in [0,1] and HR (1,3,96,96) uint8 crops with detail in the middle."""
    study = Study(builtin_images())
    window = centre(WINDOW, SIZE, SIZE)
    found = []
    for item in study.sub_images(2 * count, SIZE):
        hr = study.ground_truth([item])
        if detailed(hr, window)[0] and len(found) < count:
            found.append((study.degrade(hr, "matlab"), hr))
    if len(found) < count:
        raise SystemExit(f"{len(found)} images have detail in the middle; expected {count}")
    return found


def print_summary(blocks: Blocks) -> None:
    """Print the comparison."""
    known = np.abs(blocks.exact) >= np.maximum(TOLERANCE, 2 * blocks.exact_error)
    signs = {
        "rounds": (blocks.rounds * blocks.exact < 0) & known,
        "fixed": (blocks.fixed * blocks.exact < 0) & known,
    }
    target = np.maximum(TARGET, RELATIVE_TARGET * np.abs(blocks.rounds))
    print(f"affected blocks: {len(blocks.draws)}; with a known sign: {int(known.sum())}")
    saved = FINE / blocks.draws.mean()
    print(f"draws: {blocks.draws.mean():.1f} on average instead of {FINE}, {saved:.2f} times fewer")
    missed = (blocks.rounds_error > target) & (blocks.draws == FINE)
    print(f"blocks that took all {FINE} and stay above the target: {100 * missed.mean():.1f} %")
    for name, wrong in signs.items():
        share = 100 * wrong.sum() / known.sum()
        largest = np.abs(blocks.exact[wrong]).max(initial=0.0)
        print(
            f"{name}: {int(wrong.sum())} wrong signs, {share:.3f} %; the largest effect among them "
            f"{largest:.3f} dB"
        )
    for name in ("rounds", "fixed"):
        error = np.abs(getattr(blocks, name) - blocks.exact)
        middle, most, last = np.quantile(error, (0.5, 0.95, 1.0))
        print(
            f"{name}: error against the reference {middle:.4f} dB (median), {most:.4f} (95 %), "
            f"{last:.4f} (largest)"
        )
    print(f"the reference's own standard error: {np.median(blocks.exact_error):.4f} dB (median)")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--reference", type=int, default=100)
    parser.add_argument("--network", default="edsr")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    net = fastbg.load_model(options.network)
    blocks: Blocks | None = None
    for number, (lr, hr) in enumerate(pictures(options.images), start=1):
        found = measured(net, lr, hr, options.reference)
        blocks = found if blocks is None else blocks.joined(found)
        print(f"\nimages: {number}")
        print_summary(blocks)
        sys.stdout.flush()
    print(measure.machine())


if __name__ == "__main__":
    main()
