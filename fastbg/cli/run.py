"""`fastbg run`: measure, keep, report. The same command resumes."""

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fastbg.cli import dry_run
from fastbg.cli.info import devices
from fastbg.data.builtin import builtin_images
from fastbg.data.images import ImageSet
from fastbg.errors import InvalidArgument
from fastbg.evaluation import add_image_arguments, described, open_images
from fastbg.experiments import EXPERIMENTS
from fastbg.experiments.experiment import Experiment, NetLabel
from fastbg.experiments.study import CPU, Study
from fastbg.filters.bicubic import KERNELS
from fastbg.measures.quality import CHANNELS
from fastbg.models.checkpoints import installed
from fastbg.models.network import fingerprint
from fastbg.models.options import HELP, METAVAR, load_choice, parse_choice
from fastbg.models.rcan import RCAN
from fastbg.models.registry import BUILT_IN
from fastbg.registration.dispatch import BACKENDS
from fastbg.runs.local import Job
from fastbg.runs.ray import RayEngine
from fastbg.runs.running import (
    Execute,
    Labelled,
    chosen_experiments,
    common_scale,
    configuration,
    environment,
    measure_all,
)
from fastbg.runs.store import RunStore

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Options that several experiments have; each is set in all that have it.
SHARED_OPTIONS = {
    "kernel": KERNELS,
    "channel": CHANNELS,
    "lr": ("made", "paired"),
    "domain": ("hr", "lr"),
}


def register(commands: Any) -> None:
    """Add the command to the parser."""
    known = ", ".join(EXPERIMENTS)
    command = commands.add_parser(
        "run",
        help="run experiments and write a report",
        description="Run experiments, keep every result in the run folder, write report.html "
        "there. A run that was stopped resumes with the same command.",
    )
    add = command.add_argument
    add("experiments", nargs="*", metavar="EXPERIMENT", help=f"any of: {known} (default: all)")
    add(
        "--model",
        action="append",
        metavar=METAVAR,
        help=f"{HELP}; may be repeated (default: every built-in network that is installed)",
    )
    add(
        "--pooling",
        type=int,
        metavar="N",
        help="beside each RCAN, the same weights with channel means over N x N LR pixels instead "
        "of the whole input (the built-in one was trained on 24)",
    )
    add("--data", type=Path, metavar="DIR", help="folder of HR images (default: built-in images)")
    add_image_arguments(command)
    add("--out", type=Path, default=Path("fastbg-run"), metavar="DIR", help="run folder")
    add("--seed", type=int, default=0, metavar="N", help="draws sub-images and resamples")
    add("--limit", type=int, metavar="N", help="at most N items per experiment")
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
        help="set one option of one experiment; `fastbg info` lists them",
    )
    add("--engine", default="local", choices=("local", "ray"), help="one process, or many")
    add("--address", metavar="HOST:PORT", help="Ray cluster, or auto (default: start one here)")
    add("--workers", type=int, metavar="N", help="of Ray (default: one per GPU share or core)")
    add("--gpus-per-worker", type=float, metavar="G", help="of Ray; 0.5 lets two share one GPU")
    add("--dry-run", action="store_true", help="say what the run would take, and stop")
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure what the run folder lacks, then write the report; its path is printed last."""
    arguments.resume_hint = (
        f"Every finished result is kept in {arguments.out}; the same command resumes:\n"
        f"  fastbg {shlex.join(sys.argv[1:])}"
    )
    if arguments.pooling is not None and arguments.pooling < 1:
        raise InvalidArgument("--pooling", arguments.pooling, "a side of at least 1 LR pixel")
    if arguments.limit is not None and arguments.limit < 1:
        raise InvalidArgument("--limit", arguments.limit, "at least 1")
    chosen = experiments(arguments)
    images = builtin_images() if arguments.data is None else open_images(arguments)
    console = Console(highlight=False)
    if arguments.dry_run:
        named = arguments.device != "auto"
        places = [pick_device(arguments.device)] if named else devices()
        prepared = [prepare(arguments, images, device) for device in places]
        dry_run.show(chosen, prepared, arguments.limit, arguments.out, console)
        return
    device = where(arguments)
    own = CPU if arguments.engine == "ray" else device  # of this process
    nets, study = prepare(arguments, images, own)
    config = configuration(study) | {"device": device.type}
    console.print(inputs(chosen, images, study.scale, arguments.kernel), markup=False)
    with (
        RunStore.open(
            arguments.out,
            config,
            seeds={"seed": arguments.seed},
            environment=environment(study),
        ) as store,
        engine(arguments, nets, study, console) as execute,
    ):
        path = measure_all(chosen, nets, study, store, arguments.limit, console, execute)
    print(path)


def inputs(chosen: Sequence[Experiment], images: ImageSet, scale: int, kernel: str | None) -> str:
    """One line: which images, and the LR images of each experiment."""
    paired = [experiment.name for experiment in chosen if experiment.options.lr == "paired"]
    if len(paired) == len(chosen):
        return described(images, scale)
    line = described(images, scale, kernel=kernel or "matlab")
    return f"{line}; own LR images read by {', '.join(paired)}" if paired else line


def prepare(
    arguments: argparse.Namespace, images: ImageSet, device: torch.device
) -> tuple[list[Labelled], Study]:
    """The networks on `device`, and what they are studied on."""
    names = arguments.model or installed()
    nets = networks(names, device, DTYPES[arguments.dtype], arguments.pooling)
    study = Study(
        images=images,
        scale=common_scale(nets),
        seed=arguments.seed,
        device=device,
        dtype=DTYPES[arguments.dtype],
        backend=arguments.backend,
        folder=arguments.out,
    )
    return nets, study


def experiments(arguments: argparse.Namespace) -> list[Experiment]:
    """The experiments asked for, in the report's order, with their options."""
    shared = {name: getattr(arguments, name) for name in SHARED_OPTIONS}
    given = {name: value for name, value in shared.items() if value is not None}
    return chosen_experiments(arguments.experiments, given, arguments.option, arguments.seed)


def where(arguments: argparse.Namespace) -> torch.device:
    """The device that measures; InvalidArgument for options that do not go together."""
    ray = arguments.engine == "ray"
    gpus = arguments.gpus_per_worker
    for name in ("address", "workers", "gpus_per_worker"):
        value = getattr(arguments, name)
        if value is not None and not ray:
            raise InvalidArgument(f"--{name.replace('_', '-')}", value, "--engine ray beside it")
    if gpus is not None and not gpus >= 0:
        raise InvalidArgument("--gpus-per-worker", gpus, "0 (workers on CPUs) or more")
    if not ray:
        return pick_device(arguments.device)
    device = torch.device("cuda" if gpus else "cpu")
    if arguments.device not in ("auto", device.type):
        expected = f"{device.type}, as --gpus-per-worker is {gpus or 0:g}"
        raise InvalidArgument("--device", repr(arguments.device), expected)
    return device


@contextmanager
def engine(
    arguments: argparse.Namespace,
    nets: Sequence[Labelled],
    study: Study,
    console: Console,
) -> Iterator[Execute]:
    """What runs a job."""
    if arguments.engine == "local":
        yield Job.run
        return
    with RayEngine(
        {label.label: net for label, net, _ in nets},
        study,
        address=arguments.address,
        workers=arguments.workers,
        gpus=arguments.gpus_per_worker or 0.0,
        say=partial(console.print, markup=False, soft_wrap=True),
    ) as workers:
        yield workers.run


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first GPU, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        cause = str(error).splitlines()[0]
        raise InvalidArgument(
            "--device", repr(name), f"a device of this machine ({cause})"
        ) from error
    return device


def networks(
    names: Sequence[str], device: torch.device, dtype: torch.dtype, pooling: int | None = None
) -> list[Labelled]:
    """Label, network and fingerprint of each of `names`.

    With `pooling`, each RCAN is followed by itself with local channel means.
    """
    found: list[Labelled] = []
    for name in dict.fromkeys(names):
        choice = parse_choice(name)
        net = load_choice(choice, device, dtype)
        digest = fingerprint(net)
        label = net.name if choice.name in BUILT_IN else f"{net.name}-{digest[:6]}"
        found.append((NetLabel(label, net.architecture), net, digest))
        if pooling is not None and isinstance(net, RCAN) and "pooling" not in choice.options:
            local = deepcopy(net)
            local.pool_over(pooling)
            about = NetLabel(f"{label} (pooled over {pooling})", net.architecture)
            found.append((about, local, fingerprint(local)))
    if pooling is not None and not any(isinstance(net, RCAN) for _, net, _ in found):
        raise InvalidArgument("--pooling", pooling, "an RCAN among the networks (--model)")
    twice = [label for label, n in Counter(label.label for label, _, _ in found).items() if n > 1]
    if twice:
        raise InvalidArgument("--model", twice[0], "each network once")
    return found
