"""Verdicts on the paper's claims, for the report's index and its sections."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fastbg.reports.content import CLAIMS, Section, Verdict
from fastbg.stats.intervals import Outcome


class Place(NamedTuple):
    """A verdict in the index."""

    anchor: str
    about: str  # its subject, if the column does not name it
    outcome: Outcome


@dataclass(frozen=True)
class Line:
    """A statement of a claim in the index, with the places of its verdicts."""

    claim: str
    statement: str
    by_net: Mapping[str, Sequence[Place]]
    across: Sequence[Place]  # of verdicts that compare networks


def index(sections: Sequence[Section]) -> list[Line]:
    """One line for each statement that the `sections` test."""
    nets = networks(sections)
    lines: dict[tuple[str, str], dict[str | None, list[Place]]] = {}
    for section in sections:
        for number, verdict in enumerate(section.verdicts, start=1):
            columns = lines.setdefault((verdict.claim, verdict.statement), {})
            place = Place(anchor(section, number), verdict.about, verdict.outcome)
            columns.setdefault(verdict.net, []).append(place)
    return [
        Line(claim, statement, {net: columns.get(net, []) for net in nets}, columns.get(None, []))
        for (claim, statement), columns in lines.items()
    ]


def number_of(claim: str) -> tuple[int, str]:
    """A sort key: the order of `CLAIMS`, C9 before C11; others follow."""
    known = list(CLAIMS)
    return (known.index(claim) if claim in known else len(known), claim)


def by_claim(lines: Sequence[Line]) -> list[tuple[str, list[Line]]]:
    """The lines of each claim."""
    claims = sorted({line.claim for line in lines}, key=number_of)
    return [(claim, [line for line in lines if line.claim == claim]) for claim in claims]


def networks(sections: Sequence[Section]) -> list[str]:
    """Labels of all networks with a verdict."""
    tested = [section for section in sections if section.verdicts]
    return list(dict.fromkeys(net for section in tested for net in section.headlines))


def anchor(section: Section, number: int) -> str:
    """HTML id of a section's verdict; `number` counts from 1."""
    return f"{section.name}-claim-{number}"


class Cell(NamedTuple):
    """A verdict in the table of its claim."""

    anchor: str
    verdict: Verdict


@dataclass(frozen=True)
class Tested:
    """A statement and its tests: one table, with a column for each network."""

    claim: str
    statement: str
    paper: str  # the paper's result; like `test` empty if it differs between the verdicts
    test: str
    nets: Sequence[str]
    rows: Sequence[
        tuple[str, Mapping[str, Cell]]
    ]  # subject such as "photographs" -> cells by network
    across: Sequence[Cell]  # verdicts that compare networks


def by_statement(section: Section) -> list[Tested]:
    """The section's verdicts: one table for each statement, in the order of claims."""
    statements: dict[tuple[str, str], list[Cell]] = {}
    for number, verdict in enumerate(section.verdicts, start=1):
        cells = statements.setdefault((verdict.claim, verdict.statement), [])
        cells.append(Cell(anchor(section, number), verdict))
    found = []
    for (claim, statement), cells in statements.items():
        rows: dict[str, dict[str, Cell]] = {}
        for cell in cells:
            if cell.verdict.net is not None:
                rows.setdefault(cell.verdict.about, {})[cell.verdict.net] = cell
        found.append(
            Tested(
                claim,
                statement,
                paper=shared(cell.verdict.paper for cell in cells),
                test=shared(cell.verdict.test for cell in cells),
                nets=list(dict.fromkeys(net for row in rows.values() for net in row)),
                rows=list(rows.items()),
                across=[cell for cell in cells if cell.verdict.net is None],
            )
        )
    return sorted(found, key=lambda tested: number_of(tested.claim))


def shared(texts: Iterable[str]) -> str:
    """The text if all are equal, else an empty one."""
    different = set(texts)
    return different.pop() if len(different) == 1 else ""
