"""Networks on the command line: ``NAME|FILE[,OPTION=VALUE...]``.

For example ``edsr``, ``EDSR_L.pth,res_scale=0.1`` or ``net.pth,img_range=1,mean=0.5:0.5:0.5``.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fastbg.errors import CheckpointError, InvalidArgument
from fastbg.models.checkpoints import load_model
from fastbg.models.network import Network
from fastbg.models.plausible import check_output
from fastbg.models.registry import BUILT_IN

Say = Callable[[str], None]


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(":"))


OPTIONS: dict[str, Callable[[str], Any]] = {
    "res_scale": float,
    "img_range": float,
    "mean": _numbers,
    "scale": int,
    "pooling": int,
}


class Choice(NamedTuple):
    """A network as a command line names it."""

    name: str  # built in, or the path of a file
    options: dict[str, Any]  # keywords of load_model
    text: str  # the options as written, for labels; empty if there are none
    argument: str = "--model"  # that names it


def parse_choice(text: str, argument: str = "--model") -> Choice:
    """Parse `text`; InvalidArgument on `argument` for unknown options or bad values."""
    name, *parts = [text] if Path(text).exists() else re.split(r",(?=\w+=)", text)
    options: dict[str, Any] = {}
    for part in parts:
        option, _, value = part.partition("=")
        if option not in OPTIONS or option in options:
            raise InvalidArgument(
                argument, repr(text), f"each of {', '.join(OPTIONS)} at most once"
            )
        try:
            options[option] = OPTIONS[option](value)
        except ValueError as error:
            expected = "three numbers R:G:B" if option == "mean" else "a number"
            raise InvalidArgument(f"{argument} {name},{option}", repr(value), expected) from error
    if not name:
        raise InvalidArgument(argument, repr(text), "a built-in network or a weights file")
    return Choice(name, options, ",".join(parts), argument)


def load_choice(
    choice: Choice,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    say: Say = print,
) -> Network:
    """Load the network and check its output (`check_output`).

    `say` receives a line that describes a network that is not built in, and a line for each doubt
    about its output. The options become part of its `name`. Raises CheckpointError, which names
    the argument.
    """
    try:
        net = load_model(choice.name, device, dtype, **choice.options)
        if choice.text:
            net.name = f"{net.name} ({choice.text})"
        doubt = check_output(net)
    except CheckpointError as error:
        raise CheckpointError(f"{choice.argument}: {error}") from error
    if choice.name not in BUILT_IN or choice.text:
        say(describe(net))
    if doubt:
        say(f"warning: {doubt}")
    return net


def load_choices(
    texts: Sequence[str], device: str | torch.device = "cpu", say: Say = print
) -> list[Network]:
    """Load several networks; equal names get numbers."""
    models: list[Network] = []
    for number, text in enumerate(texts, 1):
        model = load_choice(parse_choice(text), device, say=say)
        if model.name in (other.name for other in models):
            model.name = f"{model.name} ({number})"
        models.append(model)
    return models


def one_scale(models: Sequence[Network]) -> int:
    """The scale that all share; InvalidArgument if they do not."""
    scales = {model.name: model.scale for model in models}
    if len(set(scales.values())) > 1:
        told = ", ".join(f"{name} x{scale}" for name, scale in scales.items())
        raise InvalidArgument("--model", told, "networks of one scale")
    return models[0].scale


def describe(net: Network) -> str:
    """One line about a network: architecture, scale, options, where in the file it was found."""
    told = [f"{net.architecture} x{net.scale}"]
    for option in ("res_scale", "img_range", "pooling"):
        if net.config.get(option):
            told.append(f"{option} {net.config[option]:g}")
    told.append(f"mean {':'.join(f'{v:.4g}' for v in net.config['mean'])}")
    place = f", weights under {net.origin!r}" if net.origin else ""
    return f"{net.name}: {', '.join(told)}{place}"
