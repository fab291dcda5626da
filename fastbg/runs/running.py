"""Experiments on networks: measure what the run folder lacks, keep it, write the report."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console

from fastbg.data.builtin import builtin_images
from fastbg.data.readable import open_readable
from fastbg.errors import CheckpointError, InvalidArgument
from fastbg.experiments import EXPERIMENTS, experiment_type
from fastbg.experiments.experiment import NO_NETWORK, Experiment, NetLabel
from fastbg.experiments.study import Item, Study
from fastbg.models.network import Network, fingerprint
from fastbg.models.plausible import check_output
from fastbg.precision import check_precision, current
from fastbg.registration.dispatch import FAMILIES, Place, instruction_set, select
from fastbg.runs.estimate import pixels
from fastbg.runs.forecast import Forecast
from fastbg.runs.local import Job, taking_part
from fastbg.runs.progress import NORMAL, QUIET, VERBOSE, Display
from fastbg.runs.records import headline, report, settle, settle_network, settle_pairing
from fastbg.runs.store import RunStore

Labelled: TypeAlias = tuple[NetLabel, Network, str]  # with a digest of its weights
Execute: TypeAlias = Callable[[Job, Callable[[int], None]], int]  # Job.run, or another engine's


def run_experiments(
    networks: Mapping[str, Network],
    experiments: Sequence[str] = (),
    *,
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "fastbg-run",
    options: Mapping[str, object] | None = None,
    seed: int = 0,
    limit: int | None = None,
    backend: str = "auto",
    precision: str | None = None,
    progress: bool = True,
) -> Path:
    """What `fastbg run` does, for networks that are in memory, in one process.

    Args:
        networks: name in the report -> `fastbg.load_model(...)` or `fastbg.wrap(...)`; all of one
            scale, device and dtype, which the run takes over.
        experiments: names that `fastbg info` lists; none means all.
        data: folder of HR images; default: the built-in ones.
        out: run folder; what it holds already is not measured again.
        options: such as ``{"ring.count": 8}``; `fastbg info` lists them.
        seed: draws sub-images and resamples.
        limit: at most so many items per experiment.
        backend: of fastbg's operators.
        precision: "ieee", "tf32" (GPUs only) or "bf16" float32 products, see
            `fastbg.use_precision`; None: what that says, "ieee" outside of it.
        progress: print results and progress; warnings are printed either way.

    Returns the path of the report. Raises InvalidArgument for a bad argument, CheckpointError for
    networks of several scales, or whose output is not a number or no image in [0,1],
    RunStoreError if `out` holds a run of other images, options or weights.
    """
    if not networks or not all(isinstance(net, Network) for net in networks.values()):
        kinds = {name: type(net).__name__ for name, net in networks.items()}
        raise InvalidArgument("networks", kinds, "networks of load_model() or wrap(), by name")
    places = {(str(net.mean.device), net.mean.dtype) for net in networks.values()}
    if len(places) > 1:
        raise InvalidArgument("networks", sorted(map(str, places)), "one device and dtype")
    if limit is not None and limit < 1:
        raise InvalidArgument("limit", limit, "at least 1")
    nets = [
        (NetLabel(name, net.architecture), net, fingerprint(net)) for name, net in networks.items()
    ]
    like = nets[0][1].mean
    assignments = [f"{name}={value}" for name, value in (options or {}).items()]
    chosen = chosen_experiments(experiments, {}, assignments, seed)
    asked = check_precision(precision or current(), like.device, like.dtype)
    images = builtin_images() if data is None else open_readable(data)
    study = Study(
        images,
        common_scale(nets),
        seed,
        like.device,
        like.dtype,
        backend,
        folder=Path(out),
        precision=asked,
    )
    console = Console(highlight=False)
    for doubt in filter(None, (check_output(net) for net in networks.values())):
        console.print(f"warning: {doubt}", markup=False, soft_wrap=True)
    config = configuration(study)
    around = environment(study)
    with RunStore.open(Path(out), config, seeds={"seed": seed}, environment=around) as store:
        level = NORMAL if progress else QUIET
        return measure_all(chosen, nets, study, store, limit, console, Job.run, level)


def chosen_experiments(
    names: Sequence[str], shared: Mapping[str, str], assignments: Sequence[str], seed: int
) -> list[Experiment]:
    """The experiments of these names and those they build on, in the report's order.

    Without names all, but for those that are `extra`. `shared` options are set in every experiment
    that has them, `assignments` such as "ring.count=8" in one. Raises InvalidArgument.
    """
    usual = (name for name, kind in EXPERIMENTS.items() if not kind.extra)
    asked = [experiment_type(name) for name in dict.fromkeys(names or usual)]
    needed = [kind.uses for kind in asked if kind.uses]
    kinds = {kind.name: kind for kind in (*needed, *asked)}
    texts: dict[str, dict[str, str]] = {name: {} for name in kinds}
    for option, value in shared.items():
        if not any(hasattr(kind.options_type(), option) for kind in kinds.values()):
            raise InvalidArgument(f"--{option}", repr(value), f"none, as {[*kinds]} have no such")
        for name, kind in kinds.items():
            if hasattr(kind.options_type(), option):
                texts[name][option] = value
    for text in assignments:
        owner, _, assignment = text.partition(".")
        name, equals, value = assignment.partition("=")
        if not equals:
            raise InvalidArgument("--option", repr(text), "EXPERIMENT.NAME=VALUE")
        experiment_type(owner)
        if owner not in texts:
            raise InvalidArgument("--option", repr(text), f"an experiment of this run: {[*kinds]}")
        texts[owner][name] = value
    made: dict[str, Experiment] = {}
    for name, kind in EXPERIMENTS.items():
        if name in kinds:
            options = kind.options_type.parse(texts[name], name)
            made[name] = kind(options, seed, made[kind.uses.name] if kind.uses else None)
    return list(made.values())


def common_scale(nets: Sequence[Labelled]) -> int:
    """The magnification that all networks share."""
    scales = {label.label: net.scale for label, net, _ in nets}
    if len(set(scales.values())) > 1:
        raise CheckpointError(f"networks of one run magnify alike, these do not: {scales}")
    return next(iter(scales.values()))


def configuration(study: Study) -> dict[str, Any]:
    """What decides the records, beside networks, LR images and each experiment's options.

    Those are noted in the run when it first has to do with them (fastbg.runs.records).
    """
    return {
        "images": study.images.name,
        "fingerprint": study.images.fingerprint(),
        "scale": study.scale,
        "device": study.device.type,
        "dtype": str(study.dtype).removeprefix("torch."),
        "backend": study.backend,
        "precision": study.precision,
    }


def environment(study: Study) -> dict[str, str]:
    """What may change the last digits of the records: recorded with them, no part of the run."""
    place = Place(study.device, study.dtype)
    named = study.backend != "auto"
    backends = {study.backend} if named else {select(op, place) for op in FAMILIES}
    found = {"operators": ", ".join(sorted(backends))}
    if "cpu" in backends:
        found["instruction set"] = instruction_set()
    return found


def measure_all(
    chosen: Sequence[Experiment],
    nets: Sequence[Labelled],
    study: Study,
    store: RunStore,
    limit: int | None,
    console: Console,
    execute: Execute,
    level: int = NORMAL,
) -> Path:
    """Every network in every experiment, one line for each when it is done; then the report.

    `level` is QUIET, NORMAL or VERBOSE of fastbg.runs.progress: what is printed meanwhile.
    """
    for label, _, weights in nets:
        settle_network(store, label, weights)
    settle_pairing(store, chosen, study)
    with Display(console, level) as display:
        plans = planned(chosen, study, store, limit, display)
        display.forecast = guessed(plans, nets, store)
        width = max(len(label.label) for label in (NO_NETWORK, *(label for label, _, _ in nets)))
        for experiment, items in plans:
            for label, net, _ in taking_part(experiment, nets):
                stored = len(lacking(store, experiment, label.label, items))
                follower = display.follow(
                    (experiment.name, label.label), len(items), len(items) - stored
                )
                job = Job(experiment, net, label, items, study, store)
                fresh = execute(job, follower.advance)
                follower.finish()
                took = f"{follower.seconds:.1f} s" if fresh else "resumed"
                said = headline(store, experiment, label.label)
                display.print(f"{experiment.name:12} {label.label:{width}}  {said}  [{took}]")
        return report(store, display.now)


def planned(
    chosen: Sequence[Experiment],
    study: Study,
    store: RunStore,
    limit: int | None,
    display: Display,
) -> list[tuple[Experiment, list[Item]]]:
    """The items of each experiment: drawn now, or read back."""
    plans = []
    for number, experiment in enumerate(chosen, 1):
        display.now(f"choosing images: {experiment.name} ({number} of {len(chosen)})")
        display.tick()
        items = settle(store, experiment, study)[:limit]
        display.print(f"{experiment.name}: {len(items)} items", VERBOSE)
        plans.append((experiment, items))
    return plans


def lacking(
    store: RunStore, experiment: Experiment, label: str, items: Sequence[Item]
) -> list[Item]:
    """Those of `items` that the run folder has no record of."""
    done = store.done(experiment.name, label)
    return [item for item in items if item.key not in done]


def guessed(
    plans: Sequence[tuple[Experiment, Sequence[Item]]], nets: Sequence[Labelled], store: RunStore
) -> Forecast:
    """How long each network in each experiment may take: its pixels, times what one costs."""
    return Forecast(
        {
            (experiment.name, label.label): experiment.cost
            * pixels(lacking(store, experiment, label.label, items))
            / 1e6
            for experiment, items in plans
            for label, _, _ in taking_part(experiment, nets)
        }
    )
