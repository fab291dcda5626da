"""Arguments that several commands share, see `fastbg.cli.arguments`."""

import argparse
import importlib
from collections.abc import Callable

from fastbg.cli.parser import number, whole
from fastbg.vocabulary import BACKENDS, CHANNELS, DTYPES, KERNELS, PRECISIONS

# Options of several experiments; the argument sets them in all of these.
SHARED_OPTIONS = {
    "kernel": KERNELS,
    "channel": CHANNELS,
    "lr": ("made", "paired"),
    "domain": ("hr", "lr"),
    "seam": None,  # hard, a decay length, or several
}
# Help texts of options that `fastbg diffusion` also has.
SHARED_MEANINGS = {
    "kernel": "bicubic kernel that makes the LR images (default: matlab)",
    "channel": "channels of PSNR (default: rgb)",
    "lr": "LR images: made from the HR images, or paired, the data set's own (default: made)",
}


def loaded(module: str, function: str = "main") -> Callable[[argparse.Namespace], int | None]:
    """A command whose module `fastbg.cli.<module>` is imported when the command is called.

    The command returns the exit status, or None for 0.
    """

    def command(arguments: argparse.Namespace) -> int | None:
        status: int | None = getattr(importlib.import_module(f"fastbg.cli.{module}"), function)(
            arguments
        )
        return status

    return command


def images(command: argparse.ArgumentParser) -> None:
    """Options of every command that reads a folder of images."""
    command.add_argument(
        "--lr-name",
        metavar="TEMPLATE",
        help="template for LR file names that are not recognised; {} is the name of the HR file, "
        "for example '{}_bicLRx{scale}'",
    )
    command.add_argument(
        "--skip-bad", action="store_true", help="leave out images that cannot be read"
    )


def arithmetic(command: argparse.ArgumentParser) -> None:
    """The option of every command that runs a network."""
    command.add_argument(
        "--precision",
        default="ieee",
        choices=PRECISIONS,
        help="precision of float32 products: exact (ieee), or faster, with inputs rounded to 10 "
        "bits of mantissa (tf32, NVIDIA GPUs only) or 7 (bf16)",
    )


def device(command: argparse.ArgumentParser) -> None:
    """Options for the device and the arithmetic of experiments."""
    add = command.add_argument
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    add("--dtype", default="float32", choices=DTYPES, help="number format of the networks")
    arithmetic(command)
    add(
        "--backend",
        default="auto",
        choices=("auto", *BACKENDS),
        help="implementation of fastbg's operators",
    )


def engine(command: argparse.ArgumentParser) -> None:
    """Options for the measuring processes, and for output."""
    add = command.add_argument
    add(
        "--engine",
        default="local",
        choices=("local", "ray"),
        help="local: one process; ray: many processes, on one machine or a cluster",
    )
    add(
        "--address",
        metavar="HOST:PORT",
        help="Ray cluster to connect to; auto: one that runs on this machine (default: start one)",
    )
    add(
        "--workers",
        type=whole(1),
        metavar="N",
        help="number of Ray workers (default: one per GPU share, or per core)",
    )
    add(
        "--gpus-per-worker",
        type=number,
        metavar="G",
        help="GPUs of a Ray worker; with 0.5 two workers share a GPU",
    )
    add("--dry-run", action="store_true", help="estimate work and time, and stop")
    told = command.add_mutually_exclusive_group()
    told.add_argument("-q", "--quiet", action="store_true", help="print the report's path only")
    told.add_argument("-v", "--verbose", action="store_true", help="print more, such as the plan")
