"""The arguments of every command. Loads neither PyTorch nor any other package, so that help and
refusals come at once; the module of a command is loaded when it runs.
"""

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastbg.cli.parser import Parser, number, whole
from fastbg.version import __version__
from fastbg.vocabulary import (
    BACKENDS,
    CHANNELS,
    DTYPES,
    EFFECT_METRICS,
    EXPERIMENTS,
    KERNELS,
    METHODS,
    NETWORK,
    NETWORK_HELP,
    NETWORKS,
)

ABOUT = "Which pixels did a super-resolution network use, and did they help?"
# Options that several experiments have; each is set in all that have it.
SHARED_OPTIONS = {
    "kernel": KERNELS,
    "channel": CHANNELS,
    "lr": ("made", "paired"),
    "domain": ("hr", "lr"),
}


def parser() -> Parser:
    """The whole command line."""
    line = Parser(prog="fastbg", description=ABOUT)
    line.add_argument("--version", action="version", version=f"fastbg {__version__}")
    commands = line.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for register in (run, report, attribute, effect, evaluate, train, info, options):
        register(commands)
    return line


def loaded(module: str, function: str = "main") -> Callable[[argparse.Namespace], None]:
    """A command whose module `fastbg.cli.<module>` is loaded when it is called."""

    def command(arguments: argparse.Namespace) -> None:
        getattr(importlib.import_module(f"fastbg.cli.{module}"), function)(arguments)

    return command


def run(commands: Any) -> None:
    """`fastbg run`."""
    command = commands.add_parser(
        "run",
        help="run experiments and write a report",
        description="Run experiments, keep every result in the run folder, write report.html "
        "there. A run that was stopped resumes with the same command.",
    )
    command.set_defaults(command=loaded("run"))
    add = command.add_argument
    known = ", ".join(EXPERIMENTS)
    add("experiments", nargs="*", metavar="EXPERIMENT", help=f"any of: {known} (default: all)")
    add(
        "--model",
        action="append",
        metavar=NETWORK,
        help=f"{NETWORK_HELP}; may be repeated (default: every built-in network that is installed)",
    )
    add(
        "--pooling",
        type=whole(1),
        metavar="N",
        help="beside each RCAN, the same weights with channel means over N x N LR pixels instead "
        "of the whole input (the built-in one was trained on 24)",
    )
    add("--data", type=Path, metavar="DIR", help="folder of HR images (default: built-in images)")
    images(command)
    add("--out", type=Path, default=Path("fastbg-run"), metavar="DIR", help="run folder")
    add("--seed", type=whole(0), default=0, metavar="N", help="draws sub-images and resamples")
    add("--limit", type=whole(1), metavar="N", help="at most N items per experiment")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    add("--dtype", default="float32", choices=DTYPES, help="of the networks")
    add("--backend", default="auto", choices=("auto", *BACKENDS), help="of fastbg's operators")
    for name, choices in SHARED_OPTIONS.items():
        add(f"--{name}", choices=choices, help=f"option {name} of every experiment that has it")
    add(
        "-o",
        "--option",
        action="append",
        default=[],
        metavar="EXPERIMENT.NAME=VALUE",
        help="set one option of one experiment; `fastbg options` tells what they mean",
    )
    add("--engine", default="local", choices=("local", "ray"), help="one process, or many")
    add("--address", metavar="HOST:PORT", help="Ray cluster, or auto (default: start one here)")
    add("--workers", type=whole(1), metavar="N", help="of Ray (default: one per GPU share or core)")
    add("--gpus-per-worker", type=number, metavar="G", help="of Ray; 0.5 lets two share one GPU")
    add("--dry-run", action="store_true", help="say what the run would take, and stop")
    told = command.add_mutually_exclusive_group()
    told.add_argument("-q", "--quiet", action="store_true", help="print the report's path only")
    told.add_argument("-v", "--verbose", action="store_true", help="print what is planned, too")


def report(commands: Any) -> None:
    """`fastbg report`."""
    command = commands.add_parser("report", help="write the report of a run folder again")
    command.set_defaults(command=loaded("report"))
    command.add_argument("folder", type=Path, metavar="DIR", help="run folder")


def attribute(commands: Any) -> None:
    """`fastbg attribute`."""
    command = commands.add_parser(
        "attribute",
        help="which pixels did the networks use for a window?",
        description="Local attribution maps of one or more networks side by side, with the SR "
        "crops and the diffusion index of each.",
    )
    command.set_defaults(command=loaded("attribute"))
    add = command.add_argument
    add("image", metavar="IMAGE", help="the networks' LR input; with --hr it is made from IMAGE")
    add("--model", nargs="+", required=True, metavar=NETWORK, help=NETWORK_HELP)
    add(
        "--window",
        nargs=3,
        type=whole(),
        required=True,
        metavar=("Y", "X", "SIZE"),
        help="top left corner and side, SR pixels",
    )
    add("--out", type=Path, required=True, metavar="FILE", help="FILE.png, .pdf or .svg")
    add("--hr", action="store_true", help="IMAGE is high resolution: reduce it first")
    add("--html", type=Path, metavar="FILE", help="also an interactive page")
    add("--grid", type=whole(1), metavar="N", help="SR pixels between the page's windows; 2 SIZE")
    add("--steps", type=whole(1), default=50, metavar="N", help="nodes of the path (default 50)")
    add("--method", default="riemann_right", choices=METHODS)
    add(
        "--accuracy",
        choices=("published",),
        help="as accurate as 50 published steps in fewer passes; for --steps and --method",
    )
    add("--device", default="cpu", help="cpu, cuda, cuda:1 ...")


def effect(commands: Any) -> None:
    """`fastbg effect`."""
    command = commands.add_parser(
        "effect",
        help="which blocks of the input help a window, and which harm it?",
        description="Causal effect map: every block of the input is replaced by patches of other "
        "images; its effect is what the window's PSNR loses by that on average.",
    )
    command.set_defaults(command=loaded("effect"))
    add = command.add_argument
    add("image", metavar="IMAGE", help="the network's LR input")
    add("--model", required=True, metavar=NETWORK, help=NETWORK_HELP)
    add(
        "--window",
        nargs=3,
        type=whole(),
        required=True,
        metavar=("Y", "X", "SIZE"),
        help="top left corner and side, SR pixels",
    )
    add("--hr", metavar="FILE", help="what the SR image should be; not for --metric change")
    add("--out", type=Path, required=True, metavar="FILE", help="FILE.png, .pdf or .svg")
    add("--save", type=Path, metavar="FILE", help="also every number, as .npz")
    add("--block", type=whole(1), default=2, metavar="N", help="side in LR pixels (default 2)")
    add("--coarse", type=whole(1), default=3, metavar="N", help="patches for each block")
    add("--fine", type=whole(1), default=50, metavar="N", help="more for those that matter")
    add(
        "--tolerance",
        type=number,
        default=0.01,
        metavar="T",
        help="smaller effects are 0; dB, or what the metric is in (default 0.01)",
    )
    add("--metric", default="psnr", choices=EFFECT_METRICS, help="default: psnr")
    add("--patches", type=Path, metavar="DIR", help="LR images to cut patches from")
    add("--seed", type=whole(0), default=0, metavar="N", help="draws the patches")
    add(
        "--paths",
        default="total",
        choices=("total", "direct"),
        help="direct: of RCAN, with the channel weights of the unchanged image (default: total)",
    )
    add("--reuse-coarse", action="store_true", help="average over the coarse patches too")
    add(
        "--accuracy",
        choices=("published",),
        help="as accurate as 50 patches, with fewer where fewer do",
    )
    add("--interventions", type=Path, metavar="FILE", help="take these patches, of another map")
    add(
        "--keep-interventions",
        type=Path,
        dest="keep",
        metavar="FILE",
        help="keep the patches for another network, as .npz",
    )
    add("--resume", type=Path, metavar="DIR", help="keep finished parts there, and go on from them")
    add("--device", default="cpu", help="cpu, cuda, cuda:1 ...")


def evaluate(commands: Any) -> None:
    """`fastbg evaluate`."""
    command = commands.add_parser("evaluate", help="PSNR and SSIM of networks on a folder")
    command.set_defaults(command=loaded("evaluate"))
    add = command.add_argument
    add(
        "--model",
        nargs="+",
        action="extend",
        required=True,
        metavar=NETWORK,
        help=NETWORK_HELP,
    )
    add("--data", type=Path, required=True, metavar="DIR", help="HR images")
    add("--channel", choices=CHANNELS, default="y", help="default: y")
    add(
        "--shave", type=whole(0), metavar="N", help="border left out, SR pixels; default: the scale"
    )
    add(
        "--kernel",
        choices=KERNELS,
        help="bicubic that makes the LR images; default: the data set's own, else matlab",
    )
    add("--lr", type=Path, metavar="DIR", help="LR images to use")
    images(command)
    add("--device", default="cpu", help="default: cpu")


def train(commands: Any) -> None:
    """`fastbg train`; what is not given is None, and left to `fastbg.training.TrainConfig`."""
    command = commands.add_parser(
        "train",
        help="train a network",
        description="L1 loss, Adam, warm-up and cosine; averaged weights are saved in float16. The "
        "state is kept in OUT.ckpt every few minutes; --resume goes on from it.",
    )
    command.set_defaults(command=loaded("train"))
    add = command.add_argument
    add("network", metavar="NETWORK", help=f"any of: {', '.join(NETWORKS)}")
    add("--data", type=Path, required=True, metavar="DIR", help="folder of HR images")
    images(command)
    add("--out", type=Path, required=True, metavar="FILE", help="weights file (.safetensors)")
    add("--steps", type=whole(1), metavar="N")
    add("--batch", type=whole(1), metavar="N", help="patches per step")
    add("--patch", type=whole(1), metavar="N", help="LR pixels a side")
    add("--rate", type=number, dest="learning_rate", metavar="R", help="highest one")
    add("--resize", type=number, nargs="+", default=(), metavar="F", help="smaller copies too")
    add("--start", metavar=NETWORK, help=f"go on from these weights, anew: {NETWORK_HELP}")
    add("--seed", type=whole(0), default=0, metavar="N")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    add("--resume", action="store_true", help="go on from OUT.ckpt")


def info(commands: Any) -> None:
    """`fastbg info`."""
    command = commands.add_parser("info", help="versions, devices, backends, experiments")
    command.set_defaults(command=loaded("info"))


def options(commands: Any) -> None:
    """`fastbg options`."""
    command = commands.add_parser(
        "options",
        help="what the options of experiments mean",
        description="Every option of the experiments: default, the values it takes, meaning.",
    )
    command.set_defaults(command=loaded("options"))
    known = ", ".join(EXPERIMENTS)
    command.add_argument(
        "experiments", nargs="*", metavar="EXPERIMENT", help=f"any of: {known} (default: all)"
    )


def images(command: argparse.ArgumentParser) -> None:
    """Options of every command that reads a folder of images."""
    command.add_argument(
        "--lr-name",
        metavar="TEMPLATE",
        help="how LR files are named, where it is not found: the HR name as {}, such as "
        "'{}_bicLRx{scale}'",
    )
    command.add_argument(
        "--skip-bad", action="store_true", help="go on without images that cannot be read"
    )
