"""Experiments and networks in a run store: written and read back."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastbg.errors import RunStoreError
from fastbg.experiments import EXPERIMENTS
from fastbg.experiments.experiment import NO_NETWORK, Experiment, Measured, NetLabel
from fastbg.experiments.study import Item, Study
from fastbg.reports import figures
from fastbg.reports.content import Section
from fastbg.reports.page import write_report
from fastbg.reports.sections import report_of
from fastbg.runs.store import RunStore


def settle(store: RunStore, experiment: Experiment, study: Study) -> list[Item]:
    """The experiment's items: planned at first, read back when the run resumes.

    An experiment that builds upon another has that one's items.

    Raises RunStoreError if the run was made with other options of the experiment.
    """
    options = dataclasses.asdict(experiment.options)
    stored = store.remember(f"options {experiment.name}", lambda: options)
    for name in sorted({*options, *stored}):
        if options.get(name) != stored.get(name):
            raise RunStoreError(
                f"{store.folder}: its {experiment.name} was run with {name} = "
                f"{stored.get(name)!r}, not {options.get(name)!r}; choose another --out"
            )
    planner = experiment.base or experiment
    plan = store.remember(_plan_of(experiment), lambda: [*map(_plain, planner.plan(study))])
    return [_item(value) for value in plan]


def settle_network(store: RunStore, net: NetLabel, weights: str) -> None:
    """Note a network; RunStoreError if the run knows other weights by the same label."""
    about = {"architecture": net.architecture, "weights": weights}
    stored = store.remember(f"network {net.label}", lambda: about)
    if stored != about:
        raise RunStoreError(
            f"{store.folder}: was run with other weights of {net.label} "
            f"({stored['weights'][:12]}, now {weights[:12]}); choose another --out"
        )


def settle_pairing(store: RunStore, experiments: Sequence[Experiment], study: Study) -> None:
    """Note the contents of the data set's own LR images, where an experiment reads them.

    Raises RunStoreError if the run was made of others, DataError if one cannot be read.
    """
    if all(experiment.options.lr != "paired" for experiment in experiments):
        return
    now = study.images.fingerprint(study.scale)
    stored = store.remember(_PAIRED, lambda: now)
    if stored != now:
        raise RunStoreError(
            f"{store.folder}: was run with other LR images of {study.images.name} (fingerprint "
            f"{stored}, now {now}); restore them, or choose another --out"
        )


def collect(
    store: RunStore, experiment: Experiment, net: NetLabel, items: Sequence[Item]
) -> Measured:
    """The records, curves and pictures of `items`, all of which must have been measured.

    Columns of the experiment that it builds upon stand beside its own.
    """
    records = {r.item: r.values for r in store.records(experiment.name, net.label)}
    rows = [records[item.key] for item in items]
    columns = dict(collect(store, experiment.base, net, items).columns) if experiment.base else {}
    for name in rows[0] if rows else ():
        columns[name] = np.array([row[name] for row in rows], dtype=np.float64)

    def array(item: str, name: str) -> Any:
        return store.array(experiment.name, net.label, item, name)

    for name in experiment.curves if rows else ():
        columns[name] = np.stack([array(item.key, name) for item in items])
    keys = {item.key for item in items}
    pictures = {
        (item, name): array(item, name)
        for item, name in store.arrays(experiment.name, net.label)
        if item in keys and name in experiment.shown
    }
    return Measured(net, items, columns, pictures)


def results(store: RunStore, experiment: Experiment) -> list[Measured]:
    """One `Measured` for each network of the run, over the items that all of them have."""
    plan = [_item(value) for value in _stored(store, _plan_of(experiment))]
    labels = dict.fromkeys(r.model for r in store.records(experiment.name))
    done = {label: store.done(experiment.name, label) for label in labels}
    common = [item for item in plan if all(item.key in keys for keys in done.values())]
    if not common:
        return []
    nets = [_label(store, label) for label in labels]
    nets.sort(key=lambda net: (_ORDER.get(net.architecture, len(_ORDER)), net.label))
    return [collect(store, experiment, net, common) for net in nets]


def stored_experiments(store: RunStore) -> list[Experiment]:
    """The experiments that the run has records of, with its options, in the report's order."""
    names = {record.experiment for record in store.records()}
    found: dict[str, Experiment] = {}
    for name, kind in EXPERIMENTS.items():
        if name in names:
            options = kind.options_type(**_stored(store, f"options {name}"))
            base = found[kind.uses.name] if kind.uses else None
            found[name] = kind(options, store.seeds["seed"], base)
    return list(found.values())


def headline(store: RunStore, experiment: Experiment, label: str) -> str:
    """What the experiment says so far about a network, in one line; may be empty."""
    measured = results(store, experiment)
    return report_of(experiment).summarise(measured).headlines[label] if measured else ""


def section(store: RunStore, experiment: Experiment) -> Section | None:
    """The experiment's part of the report; None before all networks have one item in common."""
    measured = results(store, experiment)
    if not measured:
        return None
    said = report_of(experiment)
    summary = said.summarise(measured)
    with figures.style():
        drawn = said.draw(measured)
    plan = _stored(store, _plan_of(experiment))
    options = dataclasses.asdict(experiment.options)
    default = dataclasses.asdict(experiment.options_type())
    return Section(
        name=experiment.name,
        title=experiment.title,
        paper=experiment.paper,
        question=experiment.question,
        method=experiment.method,
        headlines=summary.headlines,
        tables=summary.tables,
        verdicts=summary.verdicts,
        figures=drawn,
        options=options,
        changed={name: value for name, value in options.items() if value != default[name]},
        measured=len(measured[0].items),
        planned=len(plan),
        meanings={name: each.told for name, each in experiment.options.declared().items()},
    )


def report(store: RunStore, say: Callable[[str], None] = lambda _: None) -> Path:
    """Write the report of all that the run has measured; the path of report.html.

    `say` is told what is being done.
    """
    experiments, found = stored_experiments(store), []
    for number, experiment in enumerate(experiments, 1):
        say(f"writing the report: {experiment.name} ({number} of {len(experiments)})")
        drawn = section(store, experiment)
        if drawn is not None:
            found.append(drawn)
    say("writing the report: the page, figures and tables as files")
    return write_report(store.folder, found, about(store), unfinished(store))


def unfinished(store: RunStore) -> list[str]:
    """What the run has planned and not measured: "swap: rcan 3 of 20 items"."""
    labels = [name.removeprefix("network ") for name in store.remembered("network ")]
    found = []
    for name, kind in EXPERIMENTS.items():
        if not store.remembered(f"options {name}"):
            continue
        planned = len(_stored(store, f"plan {(kind.uses or kind).name}"))
        for label in labels if kind.networks else [NO_NETWORK.label]:
            done = len(store.done(name, label))
            if done < planned:
                found.append(f"{name}: {label} {done} of {planned} items")
    return found


def about(store: RunStore) -> dict[str, str]:
    """What was run on what, for the report's last lines."""
    config, versions = store.config, store.versions[-1]
    labels = dict.fromkeys(r.model for r in store.records() if r.model != NO_NETWORK.label)
    networks = {label: _stored(store, f"network {label}") for label in labels}
    described = [
        f"{label} ({network['architecture']}, weights {network['weights'][:12]})"
        for label, network in networks.items()
    ]
    precision = config.get("precision", "not recorded")
    images = f"{config['images']} (fingerprint {config['fingerprint']}"
    if _PAIRED in store.remembered(_PAIRED):
        images += f", with its own LR images {_stored(store, _PAIRED)}"
    return {
        "networks": ", ".join(described),
        "images": images + ")",
        "seed": str(store.seeds["seed"]),
        "magnification": f"x{config['scale']}",
        "ran on": f"{config['device']}, {config['dtype']}, operators {config['backend']}, "
        f"precision {precision}",
        "versions": ", ".join(f"{name} {value}" for name, value in versions.items())
        + (", others before" if len(store.versions) > 1 else ""),
    }


_PAIRED = "LR images"
# The order of networks in tables and figures: the paper's.
_ORDER = {"edsr": 0, "rcan": 1, "swinir": 2}


def _plan_of(experiment: Experiment) -> str:
    return f"plan {(experiment.base or experiment).name}"


def _label(store: RunStore, label: str) -> NetLabel:
    if label == NO_NETWORK.label:
        return NO_NETWORK
    return NetLabel(label, _stored(store, f"network {label}")["architecture"])


def _stored(store: RunStore, name: str) -> Any:
    def missing() -> Any:
        raise RunStoreError(f"{store.folder}: its records lack the {name}; repeat the run")

    return store.remember(name, missing)


def _plain(item: Item) -> list[Any]:
    return [item.key, item.source, list(item.box), [*map(_plain, item.partners)], item.image]


def _item(value: list[Any]) -> Item:
    # Runs of before images and photographs were told apart lack the image: it is the source.
    key, source, box, partners, *image = value
    return Item(key, source, tuple(box), tuple(map(_item, partners)), *image)
