"""`fastbg train edsr`: train one of the networks on a folder of images."""

import argparse
import dataclasses

import torch

from fastbg.cli.device import pick_device
from fastbg.cli.files import check_folder, in_options, open_images
from fastbg.errors import CheckpointError, DataError, InvalidArgument
from fastbg.models.checkpoints import save_model
from fastbg.models.network import Network, fingerprint
from fastbg.models.options import load_choice, parse_choice
from fastbg.models.registry import BUILT_IN
from fastbg.precision import check_precision
from fastbg.printable import printable
from fastbg.training import TrainConfig, train

# Fields of TrainConfig -> options.
OPTIONS = {name: f"--{name}" for name in ("steps", "batch", "patch", "resize", "seed")}
OPTIONS |= {"learning_rate": "--rate"}


def main(arguments: argparse.Namespace) -> None:
    """Train and save; the path of the weights file is printed last."""
    name, out = arguments.network, arguments.out
    if name not in BUILT_IN:
        raise InvalidArgument("NETWORK", repr(name), f"one of {', '.join(BUILT_IN)}")
    named = ("steps", "batch", "patch", "learning_rate")
    given = {
        each: getattr(arguments, each) for each in named if getattr(arguments, each) is not None
    }
    if given.get("learning_rate", 1) <= 0:
        raise InvalidArgument("--rate", given["learning_rate"], "a positive number")
    for factor in arguments.resize:
        if not 0 < factor <= 1:
            raise InvalidArgument("--resize", factor, "in (0, 1]")
    checkpoint = out.with_name(out.name + ".ckpt")
    arguments.resume_hint = (
        f"Repeat the command with --resume to continue from {printable(checkpoint)}."
    )
    if out.exists():
        raise CheckpointError(f"--out: {printable(out)} exists; choose another file, or delete it")
    check_folder("--out", out)
    if arguments.resume and not checkpoint.exists():
        raise InvalidArgument(
            "--resume", checkpoint, "that file to exist: train without --resume first"
        )

    device = pick_device(arguments.device)
    check_precision(arguments.precision, device, name="--precision")
    images = open_images(arguments)
    print(f"{images.name}: {len(images)} HR images; LR made by matlab bicubic")
    torch.manual_seed(arguments.seed)
    net, start = BUILT_IN[name](), ""
    if arguments.start:
        start = _load_start(net, arguments.start)
    config = TrainConfig(
        seed=arguments.seed,
        resize=tuple(arguments.resize),
        precision=arguments.precision,
        start=start,
        **given,
    )
    try:
        state = train(
            net,
            lambda: [item.load() for item in images.items],
            config,
            checkpoint,
            resume=arguments.resume,
            device=device,
        )
    except InvalidArgument as error:
        raise in_options(error, **OPTIONS) from error
    except DataError as error:  # "patch: got 24; ...": no image is that large
        raise DataError(str(error).replace("patch: ", "--patch: ", 1)) from error
    card = {
        "data": images.name,
        "images": len(images),
        "fingerprint": images.fingerprint(),
        "training": dataclasses.asdict(config),
    }
    save_model(net, out, card, state)
    print(printable(out))


def _load_start(net: Network, text: str) -> str:
    """Gives `net` the weights of a file; returns what identifies them."""
    source = load_choice(parse_choice(text, "--start"))
    if (source.architecture, source.config) != (net.architecture, net.config):
        raise CheckpointError(f"--start {text} is {told(source, net)}, not {told(net, source)}")
    net.load_state_dict(source.state_dict())
    return fingerprint(net)[:16]


def told(net: Network, other: Network) -> str:
    """The architecture, with the sizes and settings in which it differs from `other`."""
    if net.architecture != other.architecture:
        return net.architecture
    apart = (name for name, value in net.config.items() if other.config.get(name) != value)
    return f"{net.architecture} with {', '.join(f'{name} {net.config[name]}' for name in apart)}"
