"""Compares two runs: inputs and options, common numbers, verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbg.experiments.experiment import NO_NETWORK, PERFECT, Experiment, Measured
from fastbg.reports.sections import report_of
from fastbg.runs.records import known, results, stored_experiments
from fastbg.runs.store import RunStore
from fastbg.runs.values import differences
from fastbg.stats.intervals import Interval, mean_interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Compared:
    """A number in two runs: means over their common items or photographs."""

    experiment: str
    nets: tuple[str, str]
    number: str  # column name
    means: tuple[float, float]
    change: Interval  # second minus first
    pairs: int
    unit: str  # of the pairs: "items" or "photographs"


@dataclass(frozen=True)
class Outcomes:
    """A verdict in two runs; "-" if one has none."""

    claim: str
    statement: str
    about: str
    outcomes: tuple[str, str]


def given(store: RunStore) -> dict[str, Any]:
    """All inputs that decide a run's numbers: images, seed, weights, options."""
    networks = [name.removeprefix("network ") for name in store.remembered("network ")]
    return {
        **store.config,
        "seed": store.seeds["seed"],
        "weights": {name: known(store, f"network {name}")["weights"][:12] for name in networks},
        "options": {each.name: asdict(each.options) for each in stored_experiments(store)},
    }


def input_differences(stores: Sequence[RunStore]) -> list[str]:
    """The differences between the runs' inputs and options, one text for each."""
    first, second = map(given, stores)
    shared = {name for name in first["options"] if name in second["options"]}
    for each in (first, second):  # only options of experiments in both runs are compared
        each["options"] = {k: v for k, v in each["options"].items() if k in shared}
    found = differences(first, second)
    return [text.replace(": stored ", ": ").replace(", now ", " against ") for text in found]


def compare(
    stores: Sequence[RunStore], nets: tuple[str, str] | None = None
) -> tuple[list[Compared], list[Outcomes]]:
    """Numbers and verdicts of the experiments in both runs.

    `nets`: the label of a network in each run; None: compare networks of the same label.
    """
    numbers: list[Compared] = []
    outcomes: list[Outcomes] = []
    second = {each.name: each for each in stored_experiments(stores[1])}
    for experiment in stored_experiments(stores[0]):
        if experiment.name not in second:
            continue
        found = [results(stores[0], experiment), results(stores[1], second[experiment.name])]
        measured = [{each.net.label: each for each in side} for side in found]
        for pair in labels(measured, nets):
            numbers += paired(experiment, measured[0][pair[0]], measured[1][pair[1]])
        outcomes += verdicts((experiment, second[experiment.name]), found, nets)
    return numbers, outcomes


def labels(
    measured: Sequence[Mapping[str, Measured]], nets: tuple[str, str] | None
) -> list[tuple[str, str]]:
    """Pairs of labels to compare: `nets` if given, else each label twice; only existing ones."""
    wanted = [(label, label) for label in measured[0]] if nets is None else [nets]
    if nets is not None:
        wanted.append((NO_NETWORK.label, NO_NETWORK.label))
    return [pair for pair in wanted if pair[0] in measured[0] and pair[1] in measured[1]]


def paired(experiment: Experiment, first: Measured, second: Measured) -> list[Compared]:
    """All common numbers, paired by item, or by photograph if the runs have different items.

    A curve is represented by its mean.
    """
    index = {item: i for i, item in enumerate(second.items)}
    same = [(i, index[item]) for i, item in enumerate(first.items) if item in index]
    by_item = len(same) == min(len(first.items), len(second.items))
    found = []
    for name in (name for name in first.columns if name in second.columns):
        values = [of_items(each.columns[name]) for each in (first, second)]
        if by_item:
            rows = [values[0][[i for i, _ in same]], values[1][[j for _, j in same]]]
            clusters = [first.sources[i] for i, _ in same]
        else:
            means = [
                of_photographs(v, m.sources) for v, m in zip(values, (first, second), strict=True)
            ]
            clusters = [source for source in means[0] if source in means[1]]
            rows = [np.array([side[source] for source in clusters]) for side in means]
        if not clusters:
            continue
        change = mean_interval(rows[1] - rows[0], clusters)
        both = float(rows[0].mean()), float(rows[1].mean())
        unit = "items" if by_item else "photographs"
        pair = first.net.label, second.net.label
        found.append(Compared(experiment.name, pair, name, both, change, len(clusters), unit))
    return found


def of_items(column: Floats) -> Floats:
    """One number for each item (n); an infinite PSNR becomes `PERFECT`."""
    values = column.reshape(len(column), -1).mean(axis=1)
    return np.where(np.isposinf(values), PERFECT, values)


def of_photographs(values: Floats, sources: Sequence[str]) -> dict[str, float]:
    """Mean over the items of each photograph."""
    groups: dict[str, list[float]] = {}
    for value, source in zip(values, sources, strict=True):
        groups.setdefault(source, []).append(float(value))
    return {source: float(np.mean(group)) for source, group in groups.items()}


def verdicts(
    experiments: tuple[Experiment, Experiment],
    found: Sequence[Sequence[Measured]],
    nets: tuple[str, str] | None,
) -> list[Outcomes]:
    """The verdicts of both runs, by statement, network and set of images."""
    sides: list[dict[tuple[str, str, str], str]] = []
    for number, (experiment, measured) in enumerate(zip(experiments, found, strict=True)):
        side: dict[tuple[str, str, str], str] = {}
        for verdict in report_of(experiment).summarise(measured).verdicts if measured else ():
            subject = verdict.subject
            if nets is not None:
                if verdict.net != nets[number]:
                    continue
                subject = ", ".join(filter(None, (" against ".join(nets), verdict.about)))
            side[verdict.claim, verdict.statement, subject] = verdict.outcome.value
        sides.append(side)
    keys = dict.fromkeys([*sides[0], *sides[1]])
    return [Outcomes(*key, (sides[0].get(key, "-"), sides[1].get(key, "-"))) for key in keys]
