"""`fastbg evaluate`: the score table of a benchmark folder, as text, CSV and JSON."""

import argparse
import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from rich.console import Console
from rich.table import Table

from fastbg.cli.device import device_and_precision
from fastbg.cli.files import (
    check_apart,
    check_ending,
    check_folder,
    check_lr_name,
    check_writable,
    file_name,
    in_options,
    open_low,
)
from fastbg.data.images import open_folder
from fastbg.data.sets import ImageSet
from fastbg.errors import DataError, FastbgError, InvalidArgument
from fastbg.evaluation import Image, Score, described, evaluate, has_low, mean_scores
from fastbg.measures.iqa import iqa_measures
from fastbg.models.bicubic import Bicubic
from fastbg.models.network import Network
from fastbg.models.options import load_choices, one_scale
from fastbg.models.tiles import OVERLAP, is_exact
from fastbg.printable import named, printable
from fastbg.runs.forecast import Forecast
from fastbg.runs.progress import Display
from fastbg.version import __version__
from fastbg.writing import replacing

SHOWN = 10  # number of left-out images that are named


def main(arguments: argparse.Namespace) -> int:
    """Score the networks and bicubic, and print the table. 1 if images were left out."""
    with device_and_precision(arguments.device, arguments.precision) as device:
        return compare(arguments, device)


def compare(arguments: argparse.Namespace, device: torch.device) -> int:
    """`main` in the requested precision."""
    if arguments.lr is not None and arguments.kernel is not None:
        raise InvalidArgument(
            "--kernel", arguments.kernel, "none with --lr, as its images are used"
        )
    check_outputs(arguments)
    check_measures(arguments.measure)
    loaded = load_choices(arguments.model, device)
    scale = one_scale(loaded)
    models = [Bicubic(scale).to(loaded[0].mean.device), *loaded]
    images = open_images(arguments)
    lr = None if arguments.lr is None else open_low(arguments.lr)
    shave = scale if arguments.shave is None else arguments.shave
    about = described(images, scale, kernel=arguments.kernel, lr=lr)
    about += f"; channel {arguments.channel}, border of {shave} pixels left out"
    about += "" if arguments.precision == "ieee" else f"; precision {arguments.precision}"
    console = Console(highlight=False)
    console.print(about, markup=False, soft_wrap=True)
    tiled = tiles_text(models, arguments.tile)
    console.print(tiled, markup=False, soft_wrap=True, end="\n" if tiled else "")
    scores, left_out = scored(arguments, models, images, lr, console)
    if not scores:
        raise DataError(f"--data: {images.name}: no image can be scored:\n{listed(left_out)}")
    means = table(images.name, arguments.channel, scores)
    unlimited = console.options.update(max_width=10_000)
    console.width = max(console.width, console.measure(means, options=unlimited).maximum)
    console.print(means)  # on narrow terminals lines wrap; numbers are never cut
    if arguments.csv is not None:
        write_csv(arguments.csv, arguments.channel, scores)
        print(printable(arguments.csv))
    if arguments.json is not None:
        setting = {"images": about, "tiles": tiled, "channel": arguments.channel, "border": shave}
        write_json(arguments.json, setting, scores, left_out)
        print(printable(arguments.json))
    if left_out:
        count = f"{len(left_out)} of {len(images)} images"
        console.print(f"left out, {count}:\n{listed(left_out)}", markup=False, soft_wrap=True)
    return 1 if left_out and not arguments.skip_bad else 0


def scored(
    arguments: argparse.Namespace,
    models: Sequence[Network],
    images: ImageSet,
    lr: ImageSet | None,
    console: Console,
) -> tuple[list[Score], dict[str, str]]:
    """Scores, printed as they are computed; images without a score, with the reason."""
    scores: list[Score] = []
    reasons: dict[str, str] = {}
    key = ("evaluate", images.name)
    with Display(console) as display:
        display.forecast = Forecast({key: float(len(images))})
        done = display.follow(key, len(images) * len(models), 0)

        def left_out(image: str, error: FastbgError) -> None:
            reasons[image] = str(error)
            done.advance(len(models))

        def save(network: str, image: str, sr: Image) -> None:
            name = image if image.lower().endswith(".png") else f"{image}.png"
            path = arguments.save / file_name(network) / named(name)
            with replacing(path) as partial:
                PIL.Image.fromarray(sr).save(partial, "PNG")

        given = lr is not None or has_low(images, models[0].scale)
        found = evaluate(
            models,
            images,
            channel=arguments.channel,
            shave=arguments.shave,
            kernel=arguments.kernel or (None if given else "matlab"),
            lr=lr,
            lr_name=arguments.lr_name,
            tile=arguments.tile,
            measures=arguments.measure,
            save=None if arguments.save is None else save,
            left_out=left_out,
        )
        try:
            for score in found:
                display.print(score_text(score))
                scores.append(score)
                done.advance(1)
        except DataError as error:  # errors of single images go to `left_out`
            raise DataError(f"--lr: {error}") from error
        done.finish()
    return scores, reasons


def score_text(score: Score) -> str:
    """A score as one line of text."""
    others = "".join(f"  {name} {value:.4f}" for name, value in score.others.items())
    return f"{score.image}  {score.model}  {score.psnr:.2f} dB  {score.ssim:.4f}{others}"


def check_outputs(arguments: argparse.Namespace) -> None:
    """Raises InvalidArgument for files that cannot be written."""
    for option, path in (("--csv", arguments.csv), ("--json", arguments.json)):
        if path is not None:
            check_ending(option, path, f".{option[2:]}")
            check_folder(option, path)
    save: Path | None = arguments.save
    if save is None:
        return
    if save.exists() and not save.is_dir():
        raise InvalidArgument("--save", save, "a folder; this is a file")
    if not save.parent.is_dir():
        raise InvalidArgument("--save", save, "a folder, or a new one in a folder that exists")
    check_apart("--save", save, arguments.data)
    check_writable("--save", save, save if save.is_dir() else save.parent)


def check_measures(names: Sequence[str]) -> None:
    """Raises InvalidArgument for a measure that pyiqa cannot create here."""
    try:
        iqa_measures(names)
    except InvalidArgument as error:
        raise InvalidArgument("--measure", *error.parts[1:]) from error


def open_images(arguments: argparse.Namespace) -> ImageSet:
    """The HR images of ``--data``; DataError if there are none, or they are LR by their names."""
    try:
        images = open_folder(arguments.data, arguments.lr_name)
        images.refuse_low()
    except DataError as error:
        raise DataError(f"--data: {error}") from error
    except InvalidArgument as error:
        raise in_options(error, lr_name="--lr-name") from error
    if arguments.lr is None:
        check_lr_name(arguments.lr_name, images)
    return images


def tiles_text(models: Sequence[Network], tile: int | None) -> str:
    """Text on the exactness of tiles for each network; empty without tiles."""
    if tile is None:
        return ""
    same = [model.name for model in models if is_exact(model)]
    other = [model.name for model in models if not is_exact(model)]
    said = f"tiles of {tile} LR pixels a side: the same SR image for {', '.join(same)}"
    if other:
        said += (
            f"; NOT the same for {', '.join(other)}, whose receptive field is the whole image or "
            f"unknown: each tile gets {OVERLAP} LR pixels around it"
        )
    return said


def listed(left_out: Mapping[str, str]) -> str:
    """A line for each left-out image, with the reason."""
    lines = [f"  {reason}" for reason in left_out.values()]  # which names the file
    more = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([*lines[:SHOWN], *more])


def table(name: str, channel: str, scores: Sequence[Score]) -> Table:
    """The mean of each network."""
    means = mean_scores(scores)
    others = list(means[0].others)
    title = f"{name}, {means[0].image} images"
    result = Table("network", f"PSNR {channel}, dB", f"SSIM {channel}", *others, title=title)
    for mean in means:
        more = (f"{mean.others[key]:.4f}" for key in others)
        result.add_row(mean.model, f"{mean.psnr:.2f}", f"{mean.ssim:.4f}", *more)
    return result


def write_csv(path: Path, channel: str, scores: Sequence[Score]) -> None:
    """Write every score and each network's mean as CSV."""
    names = list(scores[0].others)
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "network", f"psnr_{channel}_db", f"ssim_{channel}", *names])
        for score in (*scores, *mean_scores(scores)):
            more = (f"{score.others[name]:.6f}" for name in names)
            rows.writerow(
                [score.image, score.model, f"{score.psnr:.4f}", f"{score.ssim:.6f}", *more]
            )


def write_json(
    path: Path, setting: Mapping[str, Any], scores: Sequence[Score], left_out: Mapping[str, str]
) -> None:
    """Write settings, scores, means and left-out images as JSON; infinity is null."""

    def record(score: Score) -> dict[str, Any]:
        values = {"psnr": score.psnr, "ssim": score.ssim, **score.others}
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}
        return {"image": score.image, "network": score.model, **known}

    content = {
        "fastbg": __version__,
        **setting,
        "scores": [record(score) for score in scores],
        "means": [record(score) for score in mean_scores(scores)],
        "left_out": dict(left_out),
    }
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
