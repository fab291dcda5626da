"""Writes the report of a run from its folder, during the run and at its end."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from fastbg.experiments import EXPERIMENTS
from fastbg.experiments.experiment import NO_NETWORK, Experiment
from fastbg.reports import figures
from fastbg.reports.content import Section
from fastbg.reports.page import Page, heading, plain
from fastbg.reports.sections import report_of
from fastbg.runs.records import PAIRED, known, plan_of, results, stored_experiments
from fastbg.runs.store import RunStore


def headline(store: RunStore, experiment: Experiment, label: str) -> str:
    """One line on the experiment's results so far for a network; may be empty."""
    measured = results(store, experiment)
    return report_of(experiment).summarise(measured).headlines[label] if measured else ""


class TableText(NamedTuple):
    """A table of the report as text, for terminals."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    note: str


def tables_as_text(store: RunStore, experiment: Experiment) -> list[TableText]:
    """The tables of the experiment's section; none until all networks have a common item."""
    measured = results(store, experiment)
    found = report_of(experiment).summarise(measured).tables if measured else ()
    return [
        TableText(
            table.title,
            [heading(column) for column in table.columns],
            [
                [plain(cell, column) for cell, column in zip(row, table.columns, strict=True)]
                for row in table.rows
            ],
            table.note,
        )
        for table in found
    ]


def section(store: RunStore, experiment: Experiment) -> Section | None:
    """The experiment's section of the report; None until all networks have a common item."""
    measured = results(store, experiment)
    if not measured:
        return None
    said = report_of(experiment)
    summary = said.summarise(measured)
    with figures.style():
        drawn = said.draw(measured)
    plan = known(store, plan_of(experiment))
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
        meanings={name: each.description for name, each in experiment.options.declared().items()},
    )


class Reporter:
    """Rewrites the report of a run; an experiment is drawn again only if it has changed.

    `say` is called with the current step, `announce` with the path of the first page. Raises
    RunStoreError if the folder cannot be written.
    """

    def __init__(
        self,
        store: RunStore,
        say: Callable[[str], None] = lambda _: None,
        announce: Callable[[Path], None] = lambda _: None,
    ) -> None:
        self.store, self.say, self.announce = store, say, announce
        self.page = Page(store.folder)
        self.begun = False  # whether a self-reloading page was written

    def update(self, experiment: Experiment, coming: Sequence[str]) -> None:
        """Draw the experiment, and write a self-reloading page that lists `coming` experiments."""
        first = not self.begun
        self.draw(experiment)
        self.write(coming)
        if first:
            self.announce(self.page.path)

    def finish(self) -> Path:
        """Draw all other experiments, and write the final page; returns its path."""
        found = stored_experiments(self.store)
        left = [each for each in found if each.name not in self.page.sections]
        for number, experiment in enumerate(left, 1):
            self.draw(experiment, f" ({number} of {len(left)})")
        return self.write()

    def abandon(self) -> None:
        """Write a page that does not reload, as the run ends early."""
        if self.begun:
            self.write()

    def draw(self, experiment: Experiment, count: str = "") -> None:
        """Write the experiment's figures and tables, and keep its section."""
        self.say(f"writing the report: {experiment.name}{count}")
        drawn = section(self.store, experiment)
        if drawn is not None:
            self.page.put(drawn)

    def write(self, coming: Sequence[str] = ()) -> Path:
        """Write the page."""
        self.say("writing the report: the page")
        self.begun = bool(coming)
        return self.page.write(about(self.store), unfinished(self.store), coming)


def report(store: RunStore, say: Callable[[str], None] = lambda _: None) -> Path:
    """Write the report of everything measured so far; returns the path of report.html.

    `say` is called with the current step.
    """
    return Reporter(store, say).finish()


def unfinished(store: RunStore) -> list[str]:
    """Planned experiments that are not complete: "swap: 3 of 20 items", "ring: rcan 3 of ..."."""
    labels = [name.removeprefix("network ") for name in store.remembered("network ")]
    found = []
    for name, kind in EXPERIMENTS.items():
        if not store.remembered(f"options {name}"):
            continue
        planned = len(known(store, f"plan {(kind.uses or kind).name}"))
        nets = labels if kind.networks else [NO_NETWORK.label]
        done = {label: len(store.done(name, label)) for label in nets}
        if len(nets) > 1 and len(set(done.values())) == 1:
            done = {"": done[nets[0]]}
        for label, count in done.items():
            if count < planned:
                found.append(f"{name}: {label} {count} of {planned} items".replace("  ", " "))
    return found


def about(store: RunStore) -> dict[str, str]:
    """Images, networks and versions of the run, for the end of the report."""
    config, versions = store.config, store.versions[-1]
    labels = dict.fromkeys(r.model for r in store.records() if r.model != NO_NETWORK.label)
    networks = {label: known(store, f"network {label}") for label in labels}
    described = [
        f"{label} ({network['architecture']}, weights {network['weights'][:12]})"
        for label, network in networks.items()
    ]
    images = f"{config['images']} (fingerprint {config['fingerprint']}"
    if PAIRED in store.remembered(PAIRED):
        images += f", with its own LR images {known(store, PAIRED)}"
    return {
        "networks": ", ".join(described),
        "images": images + ")",
        "seed": str(store.seeds["seed"]),
        "magnification": f"x{config['scale']}",
        "ran on": f"{config['device']}, {config['dtype']}, operators {config['backend']}, "
        f"precision {config.get('precision', 'not recorded')}",
        "versions": ", ".join(f"{name} {value}" for name, value in versions.items())
        + (", others before" if len(store.versions) > 1 else ""),
    }
