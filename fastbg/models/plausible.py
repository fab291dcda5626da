"""Checks whether a network returns images, with three flat inputs of 20, 50 and 80 % grey.

A trained SR network returns a flat image for a flat image: the root-mean-square error of the
built-in ones is below 0.0006 (of 1). A wrong `img_range` makes the error 30 to 200 times as large,
a wrong `res_scale` 10 to 20 times; with random weights it is above 0.2. On photographs these
mistakes look like a mediocre network, so a score would not reveal them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastbg.errors import CheckpointError
from fastbg.models.checkpoints import ARCHITECTURES
from fastbg.models.network import DIV2K_MEAN, Network, made_in_float32

LEVELS = (0.2, 0.5, 0.8)
SIDE = 24  # LR pixels
CLEAN = 0.002  # error of a network whose options fit
DOUBTFUL = 0.003  # from here on other options are tried
BETTER = 5.0  # times smaller must their error be
UNTRAINED = 0.1  # from here on the answer has little to do with the image
GROSS = 1.0  # so far outside [0,1] is no image
OTHERS: dict[str, tuple[Any, ...]] = {
    "img_range": (1.0, 255.0),
    "res_scale": (1.0, 0.1, 0.2),
    "mean": (DIV2K_MEAN, (0.0, 0.0, 0.0), (0.5, 0.5, 0.5)),
}


class Answer(NamedTuple):
    """A network's output for the flat images."""

    error: float  # root mean square, the largest of the three
    lowest: float
    highest: float
    residue: bool  # nothing but a clean zero (or its mean), whatever the level


def check_output(net: Network) -> str:
    """A warning about `net`'s output for flat images; empty if it is as expected.

    Raises CheckpointError if they cannot be images in [0,1], or if another `img_range`,
    `res_scale` or `mean` gives clean ones; it names the option.
    """
    answer = ask(net)
    seen = (
        f"{net.name} answers to flat grey images with {answer.lowest:.3g} to {answer.highest:.3g}"
    )
    if not answer.error < float("inf"):
        raise CheckpointError(f"{net.name}: its output is not a number; are its weights finite?")
    if answer.error > DOUBTFUL:
        for option, value, error in _alternatives(net):
            if error < min(CLEAN, answer.error / BETTER):
                shown = ":".join(f"{v:g}" for v in value) if option == "mean" else f"{value:g}"
                raise CheckpointError(
                    f"{seen}, an error of {answer.error:.2g} where {option}={shown} leaves"
                    f" {error:.2g}; pass that, or load with what the network was trained with"
                )
    if answer.residue:
        raise CheckpointError(
            f"{seen} whatever their level: it seems to give the difference to an enlarged image;"
            " add that in a module, and pass it to fastbg.wrap"
        )
    if answer.lowest < -GROSS or answer.highest > 1 + GROSS:
        raise CheckpointError(
            f"{seen}, expected about 0.2 to 0.8: img_range, mean or res_scale are not those of"
            " its training, or the weights belong to another network"
        )
    if answer.error > UNTRAINED:
        return f"{seen}, expected 0.2 to 0.8: like untrained weights. What follows is no result."
    return ""


def ask(net: Network) -> Answer:
    """`net`'s output for the flat images, on its device and in its dtype."""
    levels = torch.tensor(LEVELS, dtype=torch.float32, device="cpu").view(-1, 1, 1, 1)
    with torch.inference_mode():
        images = levels.expand(-1, 3, SIDE, SIDE).to(net.mean)
        sr = net(images.contiguous(memory_format=torch.channels_last)).double().cpu()
    error = float((sr - levels).square().mean(dim=(1, 2, 3)).sqrt().max())
    error = error if bool(sr.isfinite().all()) else float("inf")
    rest = sr - net.mean.double().cpu()
    return Answer(error, float(sr.min()), float(sr.max()), bool(rest.abs().max() < CLEAN))


def _alternatives(net: Network) -> Iterator[tuple[str, Any, float]]:
    """Every other value of the options in OTHERS, with the error that it gives."""
    state: dict[str, Tensor] = net.state_dict()
    if net.architecture not in ARCHITECTURES:
        return
    for option, values in OTHERS.items():
        for value in values:
            if option in net.config and net.config[option] != value:
                with torch.random.fork_rng(devices=[]), made_in_float32():
                    other = type(net)(**{**net.config, option: value})
                other.load_state_dict(state)
                other.eval().to(net.mean)
                yield option, value, ask(other).error
