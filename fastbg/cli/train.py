"""`fastbg train edsr`: train one of the networks on a folder of images."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch

from fastbg.cli.run import pick_device
from fastbg.errors import CheckpointError, InvalidArgument
from fastbg.evaluation import add_image_arguments, open_images
from fastbg.models.checkpoints import save_model
from fastbg.models.network import Network, fingerprint
from fastbg.models.options import HELP, METAVAR, load_choice, parse_choice
from fastbg.models.registry import BUILT_IN
from fastbg.training import TrainConfig, train


def register(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "train",
        help="train a network",
        description="L1 loss, Adam, warm-up and cosine; averaged weights are saved in float16. The "
        "state is kept in OUT.ckpt every few minutes; --resume goes on from it.",
    )
    default = TrainConfig()
    add = command.add_argument
    add_image_arguments(command)
    add("network", metavar="NETWORK", help=f"any of: {', '.join(BUILT_IN)}")
    add("--data", type=Path, required=True, metavar="DIR", help="folder of HR images")
    add("--out", type=Path, required=True, metavar="FILE", help="weights file (.safetensors)")
    add("--steps", type=int, default=default.steps, metavar="N")
    add("--batch", type=int, default=default.batch, metavar="N", help="patches per step")
    add("--patch", type=int, default=default.patch, metavar="N", help="LR pixels a side")
    add("--rate", type=float, default=default.learning_rate, metavar="R", help="highest one")
    add("--resize", type=float, nargs="+", default=(), metavar="F", help="smaller copies too")
    add("--start", metavar=METAVAR, help=f"go on from these weights, anew: {HELP}")
    add("--seed", type=int, default=default.seed, metavar="N")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    add("--resume", action="store_true", help="go on from OUT.ckpt")
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Train and save; the path of the weights file is printed last."""
    name, out = arguments.network, arguments.out
    if name not in BUILT_IN:
        raise InvalidArgument("NETWORK", repr(name), f"one of {', '.join(BUILT_IN)}")
    for option in ("steps", "batch", "patch"):
        if getattr(arguments, option) < 1:
            raise InvalidArgument(f"--{option}", getattr(arguments, option), "at least 1")
    if not 0 < arguments.rate < float("inf"):
        raise InvalidArgument("--rate", arguments.rate, "a positive number")
    for factor in arguments.resize:
        if not 0 < factor <= 1:
            raise InvalidArgument("--resize", factor, "in (0, 1]")
    checkpoint = out.with_name(out.name + ".ckpt")
    arguments.resume_hint = f"Repeat the command with --resume to go on from {checkpoint}."
    if out.exists():
        raise CheckpointError(f"{out} exists; choose another --out, or delete it")

    images = open_images(arguments)
    print(f"{images.name}: {len(images)} HR images; LR made by matlab bicubic")
    torch.manual_seed(arguments.seed)
    net, start = BUILT_IN[name](), ""
    if arguments.start:
        start = _load_start(net, arguments.start)
    config = TrainConfig(
        steps=arguments.steps,
        batch=arguments.batch,
        patch=arguments.patch,
        learning_rate=arguments.rate,
        seed=arguments.seed,
        resize=tuple(arguments.resize),
        start=start,
    )
    state = train(
        net,
        lambda: [item.load() for item in images.items],
        config,
        checkpoint,
        resume=arguments.resume,
        device=pick_device(arguments.device),
    )
    card = {
        "data": images.name,
        "images": len(images),
        "fingerprint": images.fingerprint(),
        "training": dataclasses.asdict(config),
    }
    save_model(net, out, card, state)
    print(out)


def _load_start(net: Network, text: str) -> str:
    """Gives `net` the weights of a file; returns what identifies them."""
    source = load_choice(parse_choice(text, "--start"))
    if (source.architecture, source.config) != (net.architecture, net.config):
        expected = f"{net.architecture} with {net.config}"
        raise CheckpointError(
            f"--start {text} is {source.architecture} {source.config}, not {expected}"
        )
    net.load_state_dict(source.state_dict())
    return fingerprint(net)[:16]
