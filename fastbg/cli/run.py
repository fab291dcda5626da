"""`fastbg run`: measures, stores and reports; the same command resumes a run."""

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from functools import partial

import torch
from rich.console import Console

from fastbg import vocabulary
from fastbg.cli import dry_run
from fastbg.cli.device import pick_device
from fastbg.cli.files import check_apart, open_images
from fastbg.cli.info import describe, devices
from fastbg.cli.shared_arguments import SHARED_OPTIONS
from fastbg.data.builtin import builtin_images
from fastbg.data.images import ImageSet
from fastbg.errors import InvalidArgument
from fastbg.evaluation import described
from fastbg.experiments.experiment import Experiment, NetLabel
from fastbg.experiments.study import CPU, Study
from fastbg.models.checkpoints import installed
from fastbg.models.network import fingerprint
from fastbg.models.options import load_choice, parse_choice
from fastbg.models.rcan import RCAN
from fastbg.models.registry import BUILT_IN
from fastbg.precision import check_precision
from fastbg.printable import printable
from fastbg.runs.limits import Limits
from fastbg.runs.progress import NORMAL, QUIET, VERBOSE
from fastbg.runs.running import (
    Labelled,
    chosen_experiments,
    common_scale,
    configuration,
    environment,
    executing,
    measure_all,
)
from fastbg.runs.store import RunStore

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in vocabulary.DTYPES}


def main(arguments: argparse.Namespace) -> None:
    """Measure missing results, then write the report; its path is printed last."""
    if arguments.data is not None:
        check_apart("--out", arguments.out, arguments.data)
    carry_out(arguments, experiments(arguments), images_of(arguments))


def images_of(arguments: argparse.Namespace) -> ImageSet:
    """The images of ``--data``, or the built-in ones."""
    return builtin_images() if arguments.data is None else open_images(arguments)


def carry_out(
    arguments: argparse.Namespace, chosen: Sequence[Experiment], images: ImageSet
) -> None:
    """Run the experiments on opened images: `main` after reading its arguments."""
    arguments.resume_hint = (
        f"Every finished result is kept in {printable(arguments.out)}; the same command resumes:\n"
        f"  fastbg {shlex.join(sys.argv[1:])}"
    )
    if arguments.out.exists() and not arguments.out.is_dir():
        raise InvalidArgument("--out", arguments.out, "a folder for the run; this is a file")
    console = Console(highlight=False)
    limits = Limits(arguments.limit, arguments.quick)
    if arguments.dry_run:
        named = arguments.device != "auto" or arguments.precision == "tf32"  # which no CPU has
        places = [pick_device(arguments.device)] if named else devices()
        check_arithmetic(arguments, *places)
        prepared = [prepare(arguments, images, device) for device in places]
        dry_run.show(chosen, prepared, limits, arguments.out, console)
        return
    device = where(arguments)
    check_arithmetic(arguments, device)
    own = CPU if arguments.engine == "ray" else device  # of this process
    nets, study = prepare(arguments, images, own)
    for experiment in chosen:
        experiment.check_study(study)
    config = configuration(study) | {"device": device.type}
    level = QUIET if arguments.quiet else VERBOSE if arguments.verbose else NORMAL
    if level > QUIET:
        console.print(inputs(chosen, images, study.scale, arguments.kernel), markup=False)
    if level >= VERBOSE:
        told = {
            "device": describe(device),
            "dtype": arguments.dtype,
            "precision": arguments.precision,
            **environment(study),
        }
        console.print("; ".join(f"{name}: {value}" for name, value in told.items()), markup=False)
    with (
        RunStore.open(
            arguments.out,
            config,
            seeds={"seed": arguments.seed},
            environment=environment(study),
        ) as store,
        executing(
            arguments.engine,
            nets,
            study,
            partial(console.print, markup=False, soft_wrap=True),
            arguments.address,
            arguments.workers,
            arguments.gpus_per_worker or 0.0,
        ) as execute,
    ):
        path = measure_all(chosen, nets, study, store, limits, console, execute, level)
    print(printable(path))


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
        precision=arguments.precision,
    )
    return nets, study


def experiments(arguments: argparse.Namespace) -> list[Experiment]:
    """The experiments asked for, in the report's order, with their options."""
    shared = {name: getattr(arguments, name) for name in SHARED_OPTIONS}
    given = {name: value for name, value in shared.items() if value is not None}
    return chosen_experiments(arguments.experiments, given, arguments.option, arguments.seed)


def check_arithmetic(arguments: argparse.Namespace, *devices: torch.device) -> None:
    """InvalidArgument for a precision that one of the devices, or the networks' dtype, lacks."""
    for device in devices:
        check_precision(arguments.precision, device, DTYPES[arguments.dtype], name="--precision")


def where(arguments: argparse.Namespace) -> torch.device:
    """The device that measures; InvalidArgument for options that do not go together."""
    ray = arguments.engine == "ray"
    gpus = arguments.gpus_per_worker
    for name in ("address", "workers", "gpus_per_worker"):
        value = getattr(arguments, name)
        if value is not None and not ray:
            raise InvalidArgument(f"--{name.replace('_', '-')}", value, "none without --engine ray")
    if gpus is not None and not gpus >= 0:
        raise InvalidArgument("--gpus-per-worker", gpus, "0 (workers on CPUs) or more")
    if not ray:
        return pick_device(arguments.device)
    device = torch.device("cuda" if gpus else "cpu")
    if arguments.device not in ("auto", device.type):
        expected = f"{device.type}, as --gpus-per-worker is {gpus or 0:g}"
        raise InvalidArgument("--device", repr(arguments.device), expected)
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
