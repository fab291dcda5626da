"""Experiments and networks in a run store: written and read back."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastbg.errors import RunStoreError
from fastbg.experiments import EXPERIMENTS
from fastbg.experiments.experiment import NO_NETWORK, Experiment, Measured, NetLabel
from fastbg.experiments.groups import SETS
from fastbg.experiments.options import Options
from fastbg.experiments.study import Item, Study
from fastbg.printable import printable
from fastbg.runs.store import RunStore


def read_run(folder: str | os.PathLike[str]) -> RunStore:
    """The run of experiments in `folder`, as `RunStore.read`.

    Raises RunStoreError for the folder of another computation, such as of `fastbg effect --resume`.
    """
    store = RunStore.read(folder)
    command = store.config.get("command") if isinstance(store.config, dict) else None
    if command is not None:
        store.close()
        raise RunStoreError(
            f"{printable(folder)}: holds parts of fastbg {command}; expected the --out folder of "
            "fastbg run"
        )
    return store


def settle(store: RunStore, experiment: Experiment, study: Study) -> list[Item]:
    """The experiment's items: planned for a new run, read back for a resumed one.

    An experiment that uses another one takes its items.

    Raises RunStoreError if the run has other options of the experiment.
    """
    options = dataclasses.asdict(experiment.options)
    planner, key = experiment.base or experiment, plan_of(experiment)
    # Drawn first: options for which nothing can be drawn must not bind the folder.
    drawn = None if key in store.remembered(key) else [*map(_plain, planner.plan(study))]
    store.remember(f"options {experiment.name}", lambda: options)
    stored = stored_options(store, experiment.name, type(experiment).options_type)
    for name in sorted({*options, *stored}):
        if options.get(name) != stored.get(name):
            raise RunStoreError(
                f"{printable(store.folder)}: its {experiment.name} was run with {name} = "
                f"{stored.get(name)!r}, not {options.get(name)!r}; choose another --out"
            )
    plan = store.remember(key, lambda: drawn)
    return [_item(value) for value in plan]


def stored_options(store: RunStore, name: str, kind: type[Options]) -> dict[str, Any]:
    """The stored options of the experiment `name`; `kind` is their class.

    An option added after the run has the value `before` of its declaration, see `option`.
    """
    told: dict[str, Any] = known(store, f"options {name}")
    added = {n: each.before for n, each in kind.declared().items() if each.before is not None}
    return added | told


def settle_network(store: RunStore, net: NetLabel, weights: str) -> None:
    """Store a network's weights digest; RunStoreError if the label has other weights in the run."""
    about = {"architecture": net.architecture, "weights": weights}
    stored = store.remember(f"network {net.label}", lambda: about)
    if stored != about:
        raise RunStoreError(
            f"{printable(store.folder)}: was run with other weights of {net.label} "
            f"({stored['weights'][:12]}, now {weights[:12]}); choose another --out"
        )


def settle_pairing(store: RunStore, experiments: Sequence[Experiment], study: Study) -> None:
    """Store the fingerprint of the data set's own LR images, if an experiment reads them.

    Raises RunStoreError if the run was made with others, DataError if one cannot be read.
    """
    if all(experiment.options.lr != "paired" for experiment in experiments):
        return
    now = study.images.fingerprint(study.scale)
    stored = store.remember(PAIRED, lambda: now)
    if stored != now:
        raise RunStoreError(
            f"{printable(store.folder)}: was run with other LR images of {study.images.name} "
            f"(fingerprint {stored}, now {now}); restore them, or choose another --out"
        )


def collect(
    store: RunStore, experiment: Experiment, net: NetLabel, items: Sequence[Item]
) -> Measured:
    """The records, curves and pictures of `items`, all of which must have been measured.

    Includes columns of the experiment that it uses.
    """
    records = {r.item: r.values for r in store.records(experiment.name, net.label)}
    rows = [records[item.key] for item in items]
    stored = store.arrays(experiment.name, net.label)
    columns = dict(collect(store, experiment.base, net, items).columns) if experiment.base else {}
    for name in rows[0] if rows else ():
        columns[name] = np.array([row[name] for row in rows], dtype=np.float64)

    def array(item: str, name: str) -> Any:
        return store.array(experiment.name, net.label, item, name)

    for name in experiment.curves if rows else ():
        if name in experiment.added and any((item.key, name) not in stored for item in items):
            continue
        columns[name] = np.stack([array(item.key, name) for item in items])
    keys = {item.key for item in items}
    pictures = {
        (item, name): array(item, name)
        for item, name in stored
        if item in keys and name in experiment.shown
    }
    return Measured(net, items, columns, pictures)


def results(store: RunStore, experiment: Experiment) -> list[Measured]:
    """A `Measured` for each network of the run, with the items that all networks have."""
    plan = stored_plan(store, experiment)
    labels = dict.fromkeys(r.model for r in store.records(experiment.name))
    done = {label: store.done(experiment.name, label) for label in labels}
    common = [item for item in plan if all(item.key in keys for keys in done.values())]
    if not common:
        return []
    nets = [_label(store, label) for label in labels]
    nets.sort(key=lambda net: (_ORDER.get(net.architecture, len(_ORDER)), net.label))
    return [collect(store, experiment, net, common) for net in nets]


def stored_plan(store: RunStore, experiment: Experiment) -> list[Item]:
    """The planned items."""
    return [_item(value) for value in known(store, plan_of(experiment))]


def stored_experiments(store: RunStore) -> list[Experiment]:
    """The experiments with records, with their stored options, in the report's order."""
    names = {record.experiment for record in store.records()}
    found: dict[str, Experiment] = {}
    for name, kind in EXPERIMENTS.items():
        if name in names:
            told = stored_options(store, name, kind.options_type)
            if unknown := sorted(told.keys() - kind.options_type.declared().keys()):
                raise RunStoreError(
                    f"{printable(store.folder)}: its {name} was run with {', '.join(unknown)}, "
                    "which this fastbg does not know; use the version that made it, or another "
                    "--out"
                )
            options = kind.options_type(**told)
            base = found[kind.uses.name] if kind.uses else None
            found[name] = kind(options, store.seeds["seed"], base)
    return list(found.values())


PAIRED = "LR images"
# The order of networks in tables and figures, as in the paper.
_ORDER = {"edsr": 0, "rcan": 1, "swinir": 2}


def plan_of(experiment: Experiment) -> str:
    """The name under which the experiment's items are stored."""
    return f"plan {(experiment.base or experiment).name}"


def _label(store: RunStore, label: str) -> NetLabel:
    if label == NO_NETWORK.label:
        return NO_NETWORK
    return NetLabel(label, known(store, f"network {label}")["architecture"])


def known(store: RunStore, name: str) -> Any:
    """The value stored as `name`; RunStoreError if there is none."""

    def missing() -> Any:
        raise RunStoreError(
            f"{printable(store.folder)}: its records lack the {name}; repeat the run"
        )

    return store.remember(name, missing)


def _plain(item: Item) -> list[Any]:
    """An item as JSON values: the fields of `Item`, in order."""
    partners = [*map(_plain, item.partners)]
    return [item.key, item.source, [*item.box], partners, item.image, item.set, item.number]


def _item(value: list[Any]) -> Item:
    """The item from its JSON values; plans of earlier versions lack the last fields."""
    key, source, box, partners = value[:4]
    rest: list[Any] = value[4:]
    if len(rest) < 2:  # set and number are in the key only, as in "natural/012/..."
        name, number = (*str(key).split("/", 2), "", "")[:2]
        if name in SETS and number.isdigit():
            rest = [*(rest or [source]), name, int(number)]
    return Item(key, source, tuple(box), tuple(map(_item, partners)), *rest)
