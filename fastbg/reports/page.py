"""Writes the report of a run: a self-contained report.html, figures and tables as files."""

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from fastbg.errors import RunStoreError
from fastbg.experiments.experiment import Picture
from fastbg.reports import figures
from fastbg.reports.content import CLAIMS, Cell, Chart, Column, Section, Table
from fastbg.stats.intervals import Interval, Outcome
from fastbg.writing import replacing

# CSS class and sign of each outcome.
SIGNS = {
    Outcome.HOLDS: "holds",
    Outcome.FAILS: "fails",
    Outcome.UNDECIDED: "open",
    Outcome.TOO_FEW: "few",
}
SIDES = (400, 256, 160, 96)  # pixels; larger pictures are shrunk in the page, the more the fuller
LIMIT = 20_000_000  # bytes of the page


class Place(NamedTuple):
    """A verdict in the index."""

    anchor: str
    about: str  # what it is on, where its column does not say that
    outcome: Outcome


@dataclass(frozen=True)
class Line:
    """A statement of a claim in the index, with the place of each verdict on it."""

    claim: str
    statement: str
    by_net: Mapping[str, Sequence[Place]]
    across: Sequence[Place]  # on several networks


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


def by_claim(lines: Sequence[Line]) -> list[tuple[str, list[Line]]]:
    """The lines of each claim, in the order of `CLAIMS`: C9 before C11."""
    order = {claim: number for number, claim in enumerate(CLAIMS)}
    claims = sorted({line.claim for line in lines}, key=lambda c: (order.get(c, len(order)), c))
    return [(claim, [line for line in lines if line.claim == claim]) for claim in claims]


def networks(sections: Sequence[Section]) -> list[str]:
    """Labels of all networks that a claim is tested on."""
    tested = [section for section in sections if section.verdicts]
    return list(dict.fromkeys(net for section in tested for net in section.headlines))


def anchor(section: Section, number: int) -> str:
    """Id of a section's verdict, counted from 1."""
    return f"{section.name}-claim-{number}"


def write_report(
    folder: Path,
    sections: Sequence[Section],
    about: Mapping[str, Any],
    unfinished: Sequence[str] = (),
) -> Path:
    """Write report.html, figures/*.png, figures/*.pdf and tables/*.csv; the path of the first.

    `about` describes the run: label -> text. `unfinished` lists what is not measured yet.
    Pictures in the page are made smaller until it has at most 20 MB. Raises RunStoreError if
    `folder` cannot be written.
    """
    try:
        for name in ("figures", "tables"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for section in sections:
            for figure in section.figures:
                figures.save(figure, folder / "figures")
            for table in section.tables:
                _replace(folder / "tables" / f"{table.name}.csv", csv_text(table))
        report = folder / "report.html"
        for side in SIDES:
            page = html(sections, about, side, unfinished)
            if len(page.encode()) <= LIMIT:
                break
        _replace(report, page)
    except OSError as error:
        raise RunStoreError(
            f"{folder}: the report cannot be written: {error}; expected a folder with free space "
            "that can be written"
        ) from error
    return report


def html(
    sections: Sequence[Section],
    about: Mapping[str, Any],
    side: int = SIDES[0],
    unfinished: Sequence[str] = (),
) -> str:
    """The page, its pictures at most `side` pixels wide and high.

    Names of files and networks are not trusted: all text is escaped.
    """
    environment = Environment(
        loader=PackageLoader("fastbg.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": cell_text, "range": range_text, "heading": heading}
    environment.filters["data_uri"] = lambda picture: data_uri(picture, side)
    # SVG comes from matplotlib, which escapes the text it draws.
    environment.filters["svg"] = lambda chart: Markup(  # noqa: S704  # nosec B704
        figures.inline_svg(chart.figure, chart.name, chart.caption)
    )
    environment.tests["chart"] = lambda figure: isinstance(figure, Chart)
    environment.tests["interval"] = lambda cell: isinstance(cell, Interval)
    environment.tests["number"] = lambda cell: not isinstance(cell, str)
    # The style sheet is a file of this package.
    style = (files("fastbg.reports") / "templates" / "report.css").read_text(encoding="utf-8")
    lines = index(sections)
    return environment.get_template("report.html.j2").render(
        sections=sections,
        nets=networks(sections),
        index=lines,
        by_claim=by_claim(lines),
        claims=CLAIMS,
        anchor=anchor,
        about=about,
        unfinished=unfinished,
        signs=SIGNS,
        style=Markup(style),  # noqa: S704  # nosec B704
    )


def cell_text(cell: Cell, column: Column) -> str:
    """A table's cell as text; for an interval the estimate (`range_text` has the ends)."""
    if cell is None:
        return "-"
    if isinstance(cell, str | int):
        return str(cell)
    return f"{cell.value if isinstance(cell, Interval) else cell:{_form(column)}}"


def range_text(cell: Interval, column: Column) -> str:
    """ "0.12 to 0.34"; empty where a single photograph gives no interval."""
    if not cell.known:
        return ""
    return f"{cell.low:{_form(column)}} to {cell.high:{_form(column)}}"


def _form(column: Column) -> str:
    return f"{'+' if column.signed else ''}.{column.digits}f"


def heading(column: Column) -> str:
    """A column's title with its unit."""
    return f"{column.title} ({column.unit})" if column.unit else column.title


def ends(cell: Interval) -> list[float]:
    """The three numbers of an interval."""
    return [cell.value, cell.low, cell.high]


def csv_text(table: Table) -> str:
    """`table` in full precision; an interval takes three columns."""
    spans = [
        any(isinstance(row[i], Interval) for row in table.rows) for i in range(len(table.columns))
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [heading(column) for column in table.columns]
    writer.writerow(
        part
        for name, span in zip(names, spans, strict=True)
        for part in ([name, f"{name}: low", f"{name}: high"] if span else [name])
    )
    for row in table.rows:
        writer.writerow(
            part
            for cell, span in zip(row, spans, strict=True)
            for part in (ends(cell) if isinstance(cell, Interval) else [cell, *[None] * (2 * span)])
        )
    return text.getvalue()


def data_uri(picture: Picture, side: int) -> str:
    """`picture` as a PNG inside the page, at most `side` pixels wide and high."""
    image = Image.fromarray(picture)
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _replace(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
