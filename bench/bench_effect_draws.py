"""How many draws does accuracy="published" take, and how far is it from the exact effect?

    python bench/bench_effect_draws.py [--images 20] [--reference 100] [--network edsr]

The exact effect of a block is its mean over all replacements that the pool can give. It is
estimated here from `reference` more draws, which neither way has seen. Compared with it, on all
affected blocks of built-in images of 96x96 pixels (LR 24x24), window 32, blocks of 2:

    fixed       the published 50 replacements
    rounds      the same replacements, in rounds until they are enough

An error holds the reference's own, whose standard error is told as well. A sign is wrong if it is
not the reference's, on blocks where that is known: at least the tolerance, and more than two of its
standard errors.
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
# dB and parts: what the standard error is brought down to, as fastbg.attribution.effect has it.
TARGET, PART = 0.0025, 0.1

Values = NDArray[np.float64]


@dataclass
class Blocks:
    """The affected blocks (n) of an image: effect in dB, standard error, draws."""

    fixed: Values
    rounds: Values
    rounds_error: Values
    draws: Values
    exact: Values
    exact_error: Values

    def joined(self, other: "Blocks") -> "Blocks":
        """Both together."""
        return Blocks(
            *(
                np.concatenate([getattr(self, name), getattr(other, name)])
                for name in self.__dataclass_fields__
            )
        )


def measured(net: Network, lr: torch.Tensor, hr: torch.Tensor, reference: int) -> Blocks:
    """Three maps of one image."""
    corner = (SIZE - WINDOW) // 2
    asked = lr, (corner, corner, WINDOW), hr
    settings = {"block": BLOCK, "coarse": COARSE, "tolerance": TOLERANCE}
    fixed = fastbg.CausalEffectMap(net, fine=FINE, **settings).effect(*asked)  # type: ignore[arg-type]
    rounds = fastbg.CausalEffectMap(net, fine=FINE, **settings).effect(  # type: ignore[arg-type]
        *asked, accuracy="published"
    )
    same = fixed.interventions  # the same coarse draws: the same blocks are affected
    none = np.empty((0, reference, BLOCK, BLOCK, 3), np.uint8)
    given = fastbg.Interventions(same.coarse, np.empty((0, 2), np.int64), none, same.images)
    exact = fastbg.CausalEffectMap(net, fine=reference, seed=1, **settings).effect(  # type: ignore[arg-type]
        *asked, interventions=given
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
    """LR (1,3,24,24) and HR (1,3,96,96) of built-in photographs with detail in the middle."""
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


def told(blocks: Blocks) -> None:
    """The numbers, line by line."""
    known = np.abs(blocks.exact) >= np.maximum(TOLERANCE, 2 * blocks.exact_error)
    signs = {
        "rounds": (blocks.rounds * blocks.exact < 0) & known,
        "fixed": (blocks.fixed * blocks.exact < 0) & known,
    }
    target = np.maximum(TARGET, PART * np.abs(blocks.rounds))
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
    """See the module's text."""
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
        told(blocks)
        sys.stdout.flush()
    print(measure.machine())


if __name__ == "__main__":
    main()
