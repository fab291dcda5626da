"""`fastbg effect`: the causal effect map of an image, as a picture."""

import argparse
import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from fastbg.attribution.effect import CausalEffectMap, Progress
from fastbg.attribution.effect_result import CausalEffectResult
from fastbg.attribution.interventions import Interventions
from fastbg.cli.attribute import FORMATS
from fastbg.cli.device import device_and_precision
from fastbg.cli.files import check_ending, check_folder, open_image
from fastbg.data.images import open_folder
from fastbg.errors import DataError, InvalidArgument
from fastbg.filters.dtypes import as_float
from fastbg.models.network import Network, fingerprint
from fastbg.models.options import load_choices
from fastbg.printable import printable
from fastbg.runs.parts import StoredParts
from fastbg.runs.progress import Display
from fastbg.runs.store import RunStore
from fastbg.runs.values import Json

# Options that decide the numbers, with the same name on the command line and in CausalEffectMap.
SETTINGS = ("block", "coarse", "fine", "tolerance", "metric", "seed", "reuse_coarse", "paths")
# Arguments of CausalEffectMap -> names on the command line, for error messages.
OPTIONS = {name: f"--{name.replace('_', '-')}" for name in (*SETTINGS, "patches", "interventions")}
OPTIONS |= {"accuracy": "--accuracy", "windows": "--window", "truth": "--hr", "images": "IMAGE"}
SAID = {", or include_window=True": "", "metric='mse'": "--metric mse"}


def main(arguments: argparse.Namespace) -> None:
    """Write the picture and other requested files; print the counts and the paths."""
    with device_and_precision(arguments.device, arguments.precision) as device:
        effect(arguments, device)


def effect(arguments: argparse.Namespace, device: torch.device) -> None:
    """`main`, in the precision that was asked for."""
    out: Path = arguments.out
    if out.suffix.lower() not in FORMATS:
        raise InvalidArgument("--out", str(out), f"a file that ends with {', '.join(FORMATS)}")
    written = {"--out": out, "--save": arguments.save, "--keep-interventions": arguments.keep}
    given = {option: path for option, path in written.items() if path is not None}
    taken: dict[Path, str] = {}
    for option, path in given.items():
        if option != "--out":
            check_ending(option, path, ".npz")
        check_folder(option, path)
        other = taken.setdefault(path.resolve(), option)
        if other != option:
            raise InvalidArgument(option, path, f"another file than {other}")
    pixels = open_image("IMAGE", arguments.image)
    if arguments.hr is None and arguments.metric != "change":
        expected = f"the HR image as a file, as --metric {arguments.metric} compares with it"
        raise InvalidArgument("--hr", None, expected)
    truth = None if arguments.hr is None else open_image("--hr", arguments.hr)
    read = {"IMAGE": arguments.image, "--hr": arguments.hr}
    for option, path in given.items():
        for name, source in read.items():
            if source is not None and path.exists() and path.samefile(source):
                raise InvalidArgument(option, path, f"another file than {name}")
    drawn = _interventions(arguments.interventions)
    say = partial(print, file=sys.stderr)  # standard output has results only
    (model,) = load_choices([arguments.model], device, say)
    height, width = (model.scale * side for side in pixels.shape[:2])
    y, x, size = arguments.window
    if size < 1 or y < 0 or x < 0 or y + size > height or x + size > width:
        expected = f"Y X SIZE inside the SR image, which has {height}x{width} pixels"
        raise InvalidArgument("--window", f"{y} {x} {size}", expected)
    if truth is not None and truth.shape[:2] != (height, width):
        got = f"{truth.shape[0]}x{truth.shape[1]} pixels"
        raise InvalidArgument("--hr", got, f"{height}x{width}, {model.scale} times IMAGE's")
    display = Display(Console(stderr=True, highlight=False))
    with _progress(arguments, model, pixels, truth) as progress, display:
        image = as_float(_tensor(pixels).to(device))
        result = _result(arguments, model, image, truth, drawn, progress, display)
    result.plot().savefig(out, dpi=200)
    print(_summary(result))
    print(printable(out))
    if arguments.save is not None:
        result.save(arguments.save)
        print(printable(arguments.save))
    if arguments.keep is not None:
        result.interventions.save(arguments.keep)
        print(printable(arguments.keep))


def _result(
    arguments: argparse.Namespace,
    model: Network,
    image: Tensor,
    truth: NDArray[np.uint8] | None,
    drawn: Interventions | None,
    progress: Progress | None,
    display: Display,
) -> CausalEffectResult:
    settings = {name: getattr(arguments, name) for name in SETTINGS}

    def watch(stage: str, done: int, blocks: int) -> None:
        display.now(f"{model.name}, {stage} replacements: {done} of {blocks} blocks")
        display.tick()

    display.now(f"{model.name}: the unchanged image")
    try:
        effects = CausalEffectMap(model, patches=arguments.patches, **settings)
        return effects.effect(
            image,
            arguments.window,
            None if truth is None else _tensor(truth),
            drawn,
            arguments.accuracy,
            progress,
            watch,
        )
    except InvalidArgument as error:
        raise _in_options(error) from error


def _in_options(error: InvalidArgument) -> InvalidArgument:
    """The error of `CausalEffectMap` with the names of the command line."""
    argument, got, expected = error.parts
    name, _, rest = argument.partition(".")
    if name in OPTIONS:
        argument = OPTIONS[name] + (f" ({rest})" if rest else "")
    for python, option in SAID.items():
        expected = expected.replace(python, option)
    return InvalidArgument(argument, got, expected)


def _tensor(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def _interventions(path: Path | None) -> Interventions | None:
    if path is None:
        return None
    try:
        return Interventions.load(path)
    except DataError as error:
        raise InvalidArgument("--interventions", path, f"such a file; {error}") from error


@contextmanager
def _progress(
    arguments: argparse.Namespace,
    model: Network,
    pixels: NDArray[np.uint8],
    truth: NDArray[np.uint8] | None,
) -> Iterator[Progress | None]:
    """Finished parts in the folder of ``--resume``; all parts in a folder belong to one map."""
    if arguments.resume is None:
        yield None
        return
    config: dict[str, Json] = {name: getattr(arguments, name) for name in SETTINGS}
    config |= {
        "command": "effect",
        "image": _digest(pixels),
        "truth": None if truth is None else _digest(truth),
        "window": list(arguments.window),
        "model": fingerprint(model),
        "accuracy": arguments.accuracy,
        "patches": _folder_digest(arguments.patches),
        "interventions": _file_digest(arguments.interventions),
    }
    if arguments.precision != "ieee":  # which folders from before --precision resume with
        config["precision"] = arguments.precision
    with RunStore.open(arguments.resume, config) as store:
        yield StoredParts(store, "effect", model.name)


def _digest(pixels: NDArray[np.uint8]) -> str:
    shape = f"{pixels.shape}\n".encode()
    return hashlib.sha256(shape + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _folder_digest(folder: Path | None) -> str | None:
    """Digest of the pixels of its images, in the order in which patches are drawn from them."""
    if folder is None:
        return None
    try:
        images = [_digest(item.load()) for item in open_folder(folder).items]
    except DataError as error:
        raise InvalidArgument("--patches", folder, f"a folder of images; {error}") from error
    return hashlib.sha256("\n".join(images).encode()).hexdigest()


def _file_digest(path: Path | None) -> str | None:
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def _summary(result: CausalEffectResult) -> str:
    """The result in one line."""
    harm, help_, idle = (int(kind[0]) for kind in result.counts())
    extremes = result.range
    unit = result.unit
    return (
        f"{result.metric} {float(result.baseline[0]):.2f} {unit}; of {harm + help_ + idle} blocks "
        f"{help_} help, {harm} harm, {idle} are idle; "
        f"effects from {float(extremes.low[0]):.3f} to {float(extremes.high[0]):.3f} {unit}"
        + ("" if result.precision == "ieee" else f"; precision {result.precision}")
    )
