"""Writes the report of a run: a self-contained report.html, and figures and tables as files."""

import base64
import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from fastbg.errors import RunStoreError
from fastbg.experiments.experiment import Picture
from fastbg.printable import printable, printable_lines
from fastbg.reports import figures
from fastbg.reports.claims import by_claim, by_statement, index, networks
from fastbg.reports.content import CLAIMS, Cell, Chart, Column, Gallery, Section, Table
from fastbg.reports.sheet import draw_gallery
from fastbg.stats.intervals import Interval, Outcome
from fastbg.vocabulary import EXPERIMENTS
from fastbg.writing import replacing

# CSS class and sign of each outcome.
SIGNS = {
    Outcome.HOLDS: "holds",
    Outcome.FAILS: "fails",
    Outcome.UNDECIDED: "open",
    Outcome.TOO_FEW: "few",
}
SIDES = (400, 256, 160, 96)  # pixels; largest side of pictures in the page, smaller in full pages
LIMIT = 20_000_000  # bytes of the page
RELOAD = 15  # seconds after which an unfinished page reloads


class Page:
    """The report in a folder: report.html, figures/*.png, for charts *.pdf too, tables/*.csv.

    `put` draws and renders one section; the others are kept as they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "report.html"
        self.sections: dict[str, Section] = {}
        self._parts: dict[tuple[str, int], Markup] = {}  # by section and size of pictures

    def put(self, section: Section) -> None:
        """Add or replace a section and write its files. RunStoreError if that fails."""
        self.sections[section.name] = section
        for side in SIDES:
            self._parts.pop((section.name, side), None)
        with writing(self.folder):
            for name in ("figures", "tables"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            for figure in section.figures:
                path = self.folder / "figures" / figure.name
                if isinstance(figure, Chart):
                    figures.save(figure.figure, path.with_suffix(".pdf"))
                    figures.save(figure.figure, path.with_suffix(".png"))
                else:
                    figures.save(draw_gallery(figure), path.with_suffix(".png"))
                _replace(path.with_suffix(".csv"), csv_of(figures.data_rows(figure)))
            for table in section.tables:
                _replace(self.folder / "tables" / f"{table.name}.csv", csv_text(table))

    def write(
        self,
        about: Mapping[str, Any],
        unfinished: Sequence[str] = (),
        coming: Sequence[str] = (),
    ) -> Path:
        """Write report.html, and return its path.

        Args:
            about: images, networks and versions of the run, label -> text.
            unfinished: lines about missing results.
            coming: experiments still to measure; the page lists them and reloads itself.

        Pictures are made smaller until the page has at most 20 MB. Raises RunStoreError if the
        folder cannot be written.
        """
        order = {name: number for number, name in enumerate(EXPERIMENTS)}
        sections = sorted(self.sections.values(), key=lambda s: order.get(s.name, len(order)))
        for side in SIDES:
            page = html(sections, about, side, unfinished, coming, self._parts)
            if len(page.encode()) <= LIMIT:
                break
        with writing(self.folder):
            _replace(self.path, page)
        return self.path


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Context that turns errors of the file system into RunStoreError."""
    try:
        yield
    except OSError as error:
        raise RunStoreError(
            f"{printable(folder)}: the report cannot be written: {error}; expected a folder with "
            "free space that can be written"
        ) from error


def write_report(
    folder: Path,
    sections: Sequence[Section],
    about: Mapping[str, Any],
    unfinished: Sequence[str] = (),
) -> Path:
    """Write a whole report, see `Page`."""
    page = Page(folder)
    for section in sections:
        page.put(section)
    return page.write(about, unfinished)


def html(
    sections: Sequence[Section],
    about: Mapping[str, Any],
    side: int = SIDES[0],
    unfinished: Sequence[str] = (),
    coming: Sequence[str] = (),
    parts: dict[tuple[str, int], Markup] | None = None,
) -> str:
    """The page's HTML, with pictures at most `side` pixels wide and high.

    Names of files and networks are not trusted: all text is escaped. `parts` is a cache of rendered
    sections, by name and side.
    """
    parts = {} if parts is None else parts
    environment = templates(side)
    for section in sections:
        if (section.name, side) not in parts:
            template = environment.get_template("section.html.j2")
            # Escaped when it was rendered, like the page.
            text = template.render(
                section=section,
                tested=by_statement(section),
                nets=networks([section]),
                opened=opened(section),
            )
            parts[section.name, side] = Markup(text)  # noqa: S704  # nosec B704
    # The style sheet is a file of this package.
    style = (files("fastbg.reports") / "templates" / "report.css").read_text(encoding="utf-8")
    lines = index(sections)
    return environment.get_template("report.html.j2").render(
        sections=sections,
        parts=[parts[section.name, side] for section in sections],
        nets=networks(sections),
        index=lines,
        by_claim=by_claim(lines),
        claims=CLAIMS,
        about=about,
        unfinished=unfinished,
        coming=coming,
        reload=RELOAD,
        signs=SIGNS,
        style=Markup(style),  # noqa: S704  # nosec B704
    )


def opened(section: Section) -> set[str]:
    """Names of the figures shown unfolded: the first chart, and galleries with `opened`."""
    charts = [figure.name for figure in section.figures if isinstance(figure, Chart)]
    galleries = [each for each in section.figures if isinstance(each, Gallery)]
    return {*charts[:1], *(gallery.name for gallery in galleries if gallery.opened)}


def templates(side: int) -> Environment:
    """The Jinja environment of the templates; pictures at most `side` pixels wide and high."""
    environment = Environment(
        loader=PackageLoader("fastbg.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printed,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["signs"] = SIGNS
    environment.filters |= {"cell": cell_text, "range": range_text, "heading": heading}
    environment.filters |= {"csv": table_link, "data": data_link}
    environment.filters["thumbnail"] = lambda picture: thumbnail(picture, side)
    # SVG comes from matplotlib, which escapes the text it draws.
    environment.filters["svg"] = lambda chart: Markup(  # noqa: S704  # nosec B704
        printable_lines(figures.inline_svgs(chart.figure, chart.name, chart.caption))
    )
    environment.tests["chart"] = lambda figure: isinstance(figure, Chart)
    environment.tests["interval"] = lambda cell: isinstance(cell, Interval)
    environment.tests["number"] = lambda cell: not isinstance(cell, str)
    return environment


def _printed(value: object) -> object:
    """What a template writes: text without characters that steer its reader, such as bidi marks."""
    plain_text = isinstance(value, str) and not isinstance(value, Markup)
    return printable_lines(value) if plain_text else value  # type: ignore[arg-type]


def cell_text(cell: Cell, column: Column) -> str:
    """A table's cell as text; for an interval only the estimate, see `range_text`."""
    if cell is None:
        return "-"
    if isinstance(cell, str | int):
        return str(cell)
    return f"{cell.value if isinstance(cell, Interval) else cell:{_form(column)}}"


def range_text(cell: Interval, column: Column) -> str:
    """The ends of an interval, such as "0.12 to 0.34"; empty for a single photograph."""
    if not cell.known:
        return ""
    return f"{cell.low:{_form(column)}} to {cell.high:{_form(column)}}"


def plain(cell: Cell, column: Column) -> str:
    """A table's cell as text; an interval such as "1.20 (1.10 to 1.30)"."""
    if isinstance(cell, Interval):
        return cell.text(column.digits, column.signed)
    return cell_text(cell, column)


def _form(column: Column) -> str:
    return f"{'+' if column.signed else ''}.{column.digits}f"


def heading(column: Column) -> str:
    """A column's title with its unit."""
    return f"{column.title} ({column.unit})" if column.unit else column.title


def ends(cell: Interval) -> list[float]:
    """Estimate and both ends of an interval."""
    return [cell.value, cell.low, cell.high]


def csv_text(table: Table) -> str:
    """`table` as CSV in full precision; an interval takes three columns."""
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


def csv_of(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def table_link(table: Table) -> str:
    """A data URL of the table as CSV."""
    return csv_uri(csv_text(table))


def data_link(figure: Chart | Gallery) -> str:
    """A data URL of the numbers in a figure, as CSV."""
    return csv_uri(csv_of(figures.data_rows(figure)))


def csv_uri(text: str) -> str:
    """A data URL of the CSV `text`."""
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode()).decode()


class Thumbnail(NamedTuple):
    """A picture embedded in the page."""

    address: str  # data URL of a PNG
    width: int  # pixels
    height: int


def thumbnail(picture: Picture, side: int) -> Thumbnail:
    """`picture`, reduced to at most `side` pixels in width and height."""
    image = Image.fromarray(picture)
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    address = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Thumbnail(address, *image.size)


def _replace(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
