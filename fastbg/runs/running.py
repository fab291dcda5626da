"""Runs experiments on networks: measures missing items, stores results, writes the report."""

import logging
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from rich.console import Console

from fastbg.data.builtin import builtin_images
from fastbg.data.readable import open_readable
from fastbg.errors import CheckpointError, FastbgError, InvalidArgument
from fastbg.experiments import EXPERIMENTS, experiment_type
from fastbg.experiments.experiment import NO_NETWORK, Experiment, NetLabel
from fastbg.experiments.study import Item, Study
from fastbg.given_path import path_of
from fastbg.models.network import Network, fingerprint
from fastbg.models.plausible import check_output
from fastbg.precision import check_precision, current
from fastbg.printable import printable
from fastbg.registration.dispatch import FAMILIES, Place, instruction_set, select
from fastbg.runs.estimate import pixels
from fastbg.runs.forecast import Forecast
from fastbg.runs.limits import Limits
from fastbg.runs.local import Follow, Job, run_in_turn, taking_part
from fastbg.runs.progress import NORMAL, QUIET, VERBOSE, Display, Follower
from fastbg.runs.ray import RayEngine
from fastbg.runs.records import settle, settle_network, settle_pairing
from fastbg.runs.reporter_process import WORTHWHILE, ReporterProcess
from fastbg.runs.reporting import Reporter, headline
from fastbg.runs.result import RunResult
from fastbg.runs.store import RunStore

Labelled: TypeAlias = tuple[NetLabel, Network, str]  # with a digest of its weights
# run_in_turn, or another engine's
Execute: TypeAlias = Callable[[Sequence[Job], Follow], Generator[tuple[Job, int]]]
ENGINES = ("local", "ray")
Plan: TypeAlias = tuple[Experiment, list[Item]]

log = logging.getLogger(__name__)


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
    quick: bool = False,
    progress: bool = True,
    engine: str = "local",
    address: str | None = None,
    workers: int | None = None,
    gpus_per_worker: float = 0.0,
) -> RunResult:
    """Run experiments on networks in memory, as `fastbg run` does on files.

    Args:
        networks: networks of `fastbg.load_model` or `fastbg.wrap` by their name in the report; all
            of one scale, device and dtype.
        experiments: names, as `fastbg info` lists them; empty means all.
        data: folder of HR images; default: the built-in images.
        out: run folder; results that it already contains are not measured again.
        options: such as ``{"ring.count": 8}``; `fastbg options` lists them.
        seed: of the random choice of sub-images.
        limit: largest number of items per experiment.
        backend: of fastbg's operators: "auto", "torch", "cpu", "triton" or "cuda".
        precision: "ieee", "tf32" (GPUs only) or "bf16", see `fastbg.use_precision`; None: the
            precision of the context, "ieee" by default.
        quick: measure so few items that all experiments take about two minutes.
        progress: print results and progress; warnings always go to the logger `fastbg`.
        engine: "local", this process; or "ray", workers on this machine or a cluster. The networks
            must be on the CPU for Ray.
        address, workers, gpus_per_worker: for Ray, as for `fastbg run`.

    Returns:
        A `RunResult`: the path of the report (HTML), records and verdicts.

    Raises:
        InvalidArgument: a bad argument or option.
        CheckpointError: networks of different scales, or one whose output is NaN or no image in
            [0,1].
        RunStoreError: `out` contains a run with other images, options or weights.
        EngineError: Ray cannot be started.

    Example:
        >>> import fastbg
        >>> edsr = fastbg.load_model("edsr")
        >>> result = fastbg.run_experiments({"edsr": edsr}, ["table1"], limit=1, progress=False)
        >>> result.path.name
        'report.html'
    """
    folder = path_of("out", out)
    if not isinstance(networks, Mapping):
        told = type(networks).__name__
        raise InvalidArgument("networks", told, 'networks by name, such as {"mine": net}')
    if isinstance(experiments, str):
        raise InvalidArgument("experiments", repr(experiments), f"a list: [{experiments!r}]")
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
    device = engine_device(engine, address, workers, gpus_per_worker, like.device)
    assignments = [f"{name}={value}" for name, value in (options or {}).items()]
    chosen = chosen_experiments(experiments, {}, assignments, seed)
    asked = check_precision(precision or current(), device, like.dtype)
    images = builtin_images() if data is None else open_readable(path_of("data", data))
    study = Study(
        images,
        common_scale(nets),
        seed,
        like.device,
        like.dtype,
        backend,
        folder=folder,
        precision=asked,
    )
    for each in chosen:
        each.check_study(study)
    for doubt in filter(None, (check_output(net) for net in networks.values())):
        log.warning("%s", doubt)
    console = Console(highlight=False)
    config = configuration(study) | {"device": device.type}
    around = environment(study)
    with (
        RunStore.open(folder, config, seeds={"seed": seed}, environment=around) as store,
        executing(engine, nets, study, log.info, address, workers, gpus_per_worker) as execute,
    ):
        level = NORMAL if progress else QUIET
        limits = Limits(limit, quick)
        path = measure_all(chosen, nets, study, store, limits, console, execute, level)
    return RunResult(path, [each.name for each in chosen])


def engine_device(
    engine: str,
    address: str | None,
    workers: int | None,
    gpus: float,
    here: torch.device,
) -> torch.device:
    """The device on which an engine measures; `here`: that of the networks. InvalidArgument."""
    if engine not in ENGINES:
        raise InvalidArgument("engine", repr(engine), f"one of {', '.join(ENGINES)}")
    if engine == "local":
        asked = {"address": address, "workers": workers, "gpus_per_worker": gpus or None}
        for name, value in asked.items():
            if value is not None:
                raise InvalidArgument(name, repr(value), 'none without engine="ray"')
        return here
    if here.type != "cpu":
        raise InvalidArgument("networks", f"on {here}", 'networks on the CPU, as engine="ray"')
    if not gpus >= 0:
        raise InvalidArgument("gpus_per_worker", gpus, "0 (workers on CPUs) or more")
    return torch.device("cuda" if gpus else "cpu")


@contextmanager
def executing(
    engine: str,
    nets: Sequence[Labelled],
    study: Study,
    say: Callable[[str], None],
    address: str | None = None,
    workers: int | None = None,
    gpus: float = 0.0,
) -> Iterator[Execute]:
    """A function that runs jobs: in this process, or with Ray (`say` gets its warnings)."""
    if engine == "local":
        yield run_in_turn
        return
    by_label = {label.label: net for label, net, _ in nets}
    with RayEngine(
        by_label, study, address=address, workers=workers, gpus=gpus, say=say
    ) as ray_workers:
        yield ray_workers.run_in_turn


def chosen_experiments(
    names: Sequence[str], shared: Mapping[str, str], assignments: Sequence[str], seed: int
) -> list[Experiment]:
    """The named experiments and those they use, in the report's order.

    If none is named: all that are not `extra`. `shared` options are set in every experiment that
    has them; `assignments` such as "ring.count=8" set an option of one. Raises InvalidArgument.
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
    """The scale of all networks; CheckpointError if they differ."""
    scales = {label.label: net.scale for label, net, _ in nets}
    if len(set(scales.values())) > 1:
        told = ", ".join(f"{name} x{scale}" for name, scale in scales.items())
        raise CheckpointError(f"networks of a run must have the same scale; got {told}")
    return next(iter(scales.values()))


def configuration(study: Study) -> dict[str, Any]:
    """All settings that decide results, except networks, LR images and experiments' options.

    Those are added to the run on first use (fastbg.runs.records).
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
    """Settings that may change the last digits of results: recorded, but not compared."""
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
    limits: Limits,
    console: Console,
    execute: Execute,
    level: int = NORMAL,
) -> Path:
    """Measure every network in every experiment, the fastest first; return the report's path.

    One line is printed for each network and experiment; the report is written again after each
    experiment. `level` of output: QUIET, NORMAL or VERBOSE of fastbg.runs.progress.
    """
    for label, _, weights in nets:
        settle_network(store, label, weights)
    settle_pairing(store, chosen, study)
    with Display(console, level) as display:
        plans = planned(chosen, study, store, limits, display)
        display.forecast = guessed(plans, nets, store)
        plans = quickest_first(plans, display.forecast)
        beside = len(plans) > 1 and display.forecast.remaining_guess > WORTHWHILE
        with reporting(store, display, beside) as reporter:
            for number, (experiment, items) in enumerate(plans, 1):
                measure(experiment, items, nets, study, store, display, execute)
                coming = [later.title for later, _ in plans[number:]]
                if coming:
                    reporter.update(experiment, coming)
            return reporter.finish()


def measure(
    experiment: Experiment,
    items: Sequence[Item],
    nets: Sequence[Labelled],
    study: Study,
    store: RunStore,
    display: Display,
    execute: Execute,
) -> None:
    """Measure every network in one experiment, and print a line for each."""
    width = max(len(label.label) for label in (NO_NETWORK, *(label for label, _, _ in nets)))
    followers: list[Follower] = []

    def follow(job: Job) -> Callable[[int], None]:
        label = job.label.label
        stored = len(items) - len(lacking(store, experiment, label, items))
        followers.append(display.follow((experiment.name, label), len(items), stored))
        return followers[-1].advance

    taken = taking_part(experiment, nets)
    jobs = [Job(experiment, net, label, items, study, store) for label, net, _ in taken]
    with closing(execute(jobs, follow)) as done:
        for job, fresh in done:
            follower, label = followers[-1], job.label.label
            follower.finish()
            took = f"{follower.seconds:.1f} s" if fresh else "resumed"
            said = headline(store, experiment, label)
            display.print(f"{experiment.name:12} {label:{width}}  {said}  [{took}]")


@contextmanager
def reporting(
    store: RunStore, display: Display, beside: bool
) -> Iterator[Reporter | ReporterProcess]:
    """A Reporter whose page stops reloading when the run ends, also by an error.

    `beside`: in a process of its own, if Python's interpreter can be started again.
    """

    def announce(page: Path) -> None:
        display.print(f"the report so far, rewritten from now on: {printable(page)}")

    reporter: Reporter | ReporterProcess
    if beside and sys.executable and not getattr(sys, "frozen", False):
        reporter = ReporterProcess(store.folder, display.now, announce)
    else:
        reporter = Reporter(store, display.now, announce)
    try:
        yield reporter
    except BaseException as error:
        try:
            reporter.abandon()
        except FastbgError as another:  # for example a full disk, already reported by `error`
            log.warning("%s; and the report's page still reloads itself: %s", error, another)
        raise


def quickest_first(plans: Sequence[Plan], forecast: Forecast) -> list[Plan]:
    """Plans sorted by expected time, for early results in the report; bases come first."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for (name, _), part in forecast.parts.items():
        seconds[name] += part.guess

    def rank(plan: Plan) -> tuple[float, bool]:
        base = plan[0].base
        most = max(seconds[each.name] for each in (plan[0], base) if each is not None)
        return most, base is not None

    return sorted(plans, key=rank)


def planned(
    chosen: Sequence[Experiment],
    study: Study,
    store: RunStore,
    limits: Limits,
    display: Display,
) -> list[Plan]:
    """The items of each experiment: drawn for a new run, else read back."""
    plans = []
    for number, experiment in enumerate(chosen, 1):
        display.now(f"choosing images: {experiment.name} ({number} of {len(chosen)})")
        display.tick()
        items = limits.cut(experiment, settle(store, experiment, study))
        display.print(f"{experiment.name}: {len(items)} items", VERBOSE)
        plans.append((experiment, items))
    return plans


def lacking(
    store: RunStore, experiment: Experiment, label: str, items: Sequence[Item]
) -> list[Item]:
    """The `items` without a record in the run folder."""
    done = store.done(experiment.name, label)
    return [item for item in items if item.key not in done]


def guessed(
    plans: Sequence[tuple[Experiment, Sequence[Item]]], nets: Sequence[Labelled], store: RunStore
) -> Forecast:
    """First estimates: the pixels still to measure, times the experiment's cost per pixel."""
    return Forecast(
        {
            (experiment.name, label.label): experiment.cost
            * pixels(lacking(store, experiment, label.label, items))
            / 1e6
            for experiment, items in plans
            for label, _, _ in taking_part(experiment, nets)
        }
    )
