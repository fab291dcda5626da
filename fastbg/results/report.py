"""The report of a run: one self-contained report.html, and each figure and table as files."""

import base64
import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from fastbg.errors import RunStoreError
from fastbg.results import figures
from fastbg.results.content import Cell, Chart, Column, Picture, Section, Table
from fastbg.statistics import Interval, Outcome

# CSS class and sign of each outcome.
SIGNS = {Outcome.HOLDS: "holds", Outcome.FAILS: "fails", Outcome.UNDECIDED: "open"}
LARGEST = 400  # pixels a side; larger pictures are shrunk in the page


def write_report(folder: Path, sections: Sequence[Section], about: Mapping[str, Any]) -> Path:
    """Write report.html, figures/*.png, figures/*.pdf and tables/*.csv; the path of the first.

    `about` says what was run on what: label -> text. Raises RunStoreError if `folder` cannot be
    written.
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
        _replace(report, html(sections, about))
    except OSError as error:
        raise RunStoreError(
            f"{folder}: the report cannot be written: {error}; expected a folder with free space "
            "that can be written"
        ) from error
    return report


def html(sections: Sequence[Section], about: Mapping[str, Any]) -> str:
    """The page. Names of files and networks are not trusted: all text is escaped."""
    environment = Environment(
        loader=PackageLoader("fastbg.results"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": cell_text, "data_uri": data_uri, "heading": heading}
    # SVG comes from matplotlib, which escapes the text it draws.
    environment.filters["svg"] = lambda chart: Markup(  # noqa: S704
        figures.inline_svg(chart.figure, chart.name, chart.caption)
    )
    environment.tests["chart"] = lambda figure: isinstance(figure, Chart)
    environment.tests["number"] = lambda cell: not isinstance(cell, str)
    style = (files("fastbg.results") / "templates" / "report.css").read_text(encoding="utf-8")
    return environment.get_template("report.html.j2").render(
        sections=sections,
        about=about,
        signs=SIGNS,
        style=Markup(style),  # noqa: S704
    )


def cell_text(cell: Cell, column: Column) -> str:
    """A table's cell as it is read."""
    if cell is None:
        return "-"
    if isinstance(cell, str | int):
        return str(cell)
    form = f"{'+' if column.signed else ''}.{column.digits}f"
    if isinstance(cell, Interval):
        if not (math.isfinite(cell.low) and math.isfinite(cell.high)):
            return f"{cell.value:{form}}"
        return f"{cell.value:{form}} ({cell.low:{form}} to {cell.high:{form}})"
    return f"{cell:{form}}"


def heading(column: Column) -> str:
    """A column's title with its unit."""
    return f"{column.title} ({column.unit})" if column.unit else column.title


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
            for part in (cell if isinstance(cell, Interval) else [cell, *[None] * (2 * span)])
        )
    return text.getvalue()


def data_uri(picture: Picture) -> str:
    """`picture` as a PNG inside the page."""
    image = Image.fromarray(picture)
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
