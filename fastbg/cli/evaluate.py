"""`fastbg evaluate`: the score table of a benchmark folder."""

import argparse
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table

from fastbg.cli.device import device_and_precision
from fastbg.cli.files import open_images, open_low
from fastbg.errors import InvalidArgument
from fastbg.evaluation import Score, described, evaluate, mean_scores
from fastbg.models.bicubic import Bicubic
from fastbg.models.options import load_choices, one_scale


def main(arguments: argparse.Namespace) -> None:
    """Score the networks and bicubic, and print the table."""
    with device_and_precision(arguments.device, arguments.precision) as device:
        score(arguments, device)


def score(arguments: argparse.Namespace, device: torch.device) -> None:
    """`main`, in the precision that was asked for."""
    if arguments.lr is not None and arguments.kernel is not None:
        raise InvalidArgument(
            "--kernel", arguments.kernel, "none beside --lr, whose images are used"
        )
    models = load_choices(arguments.model, device)
    scale = one_scale(models)
    console = Console(highlight=False)
    own = scale if arguments.lr is None and arguments.kernel is None else None
    images = open_images(arguments, lr_scale=own)
    lr = None if arguments.lr is None else open_low(arguments.lr)
    shave = scale if arguments.shave is None else arguments.shave
    line = described(images, scale, kernel=arguments.kernel, lr=lr)
    line += f"; channel {arguments.channel}, border of {shave} pixels left out"
    line += "" if arguments.precision == "ieee" else f"; precision {arguments.precision}"
    console.print(line, markup=False, soft_wrap=True)
    scores = []
    for each in evaluate(
        [Bicubic(models[0].scale), *models],
        images,
        channel=arguments.channel,
        shave=arguments.shave,
        kernel=arguments.kernel,
        lr=lr,
        lr_name=arguments.lr_name,
    ):
        line = f"{each.image}  {each.model}  {each.psnr:.2f} dB  {each.ssim:.4f}"
        console.print(line, markup=False, soft_wrap=True)
        scores.append(each)
    console.print(table(images.name, arguments.channel, scores))


def table(name: str, channel: str, scores: Sequence[Score]) -> Table:
    """The mean of each network."""
    result = Table("network", f"PSNR {channel}, dB", f"SSIM {channel}", title=name)
    for mean in mean_scores(scores):
        result.add_row(mean.model, f"{mean.psnr:.2f}", f"{mean.ssim:.4f}")
    return result
