"""The style of all figures: a palette for light and dark pages, and saving to files.

Figures are drawn in the light theme's colours. In the report's inline SVG each colour is replaced
by a CSS variable, so that one drawing serves both themes.
"""

import contextlib
import html
import io
import logging
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Wedge
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter
from numpy.typing import NDArray

from fastbg.reports.content import Chart, Gallery

INK, MUTED, RULE, PAPER = "#20242a", "#68707c", "#d8dbe0", "#fffffe"
FULL, ALONE = "#2b6f9e", "#c2543a"  # with background, without
OTHERS = ("#5b8a3c", "#8a5a9e", "#b08418")  # further series
THEMED = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    PAPER: "--card",
    FULL: "--full",
    ALONE: "--alone",
    OTHERS[0]: "--third",
    OTHERS[1]: "--fourth",
    OTHERS[2]: "--fifth",
}
MARKS = {"window": "#ffffff", "input": "#ffd23f", "seam": "#ff5a36"}
WIDTH = 6.0  # inches
NARROW = 4.3  # inches; fills a phone's screen at the same text size
LEGEND = 22  # characters in a line of a legend that is too wide for a narrow figure

STYLE: dict[Any, Any] = {
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.facecolor": PAPER,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "image.composite_image": False,  # one picture of all pictures of a sheet takes a second
    "image.interpolation": "nearest",
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # file names may contain "$"
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Context with the style of figures, for drawing and for saving."""
    with mpl.rc_context(STYLE):
        yield


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure of `width` x `height` inches, without pyplot's global state."""
    return Figure(figsize=(width, height), layout="constrained")


def short(name: str, length: int = 22) -> str:
    """`name`, shortened in the middle to `length` characters."""
    half = (length - 3) // 2
    return name if len(name) <= length else f"{name[:half]}...{name[-half:]}"


def in_legend(name: str, length: int = 22) -> str:
    """`short` as a line's label: Matplotlib leaves labels that begin with "_" out of legends."""
    text = short(name, length)
    return f" {text}" if text.startswith("_") else text


def name_rows(axis: Axes, names: Sequence[str]) -> None:
    """Label the rows 0, 1, ... of `axis` with `names`."""
    axis.set_yticks(range(len(names)), [short(name) for name in names], color=INK)
    axis.tick_params(axis="y", length=0)


def mark_paper(axis: Axes, value: float, row: float) -> None:
    """Mark the paper's `value` in a row by a diamond."""
    axis.plot(value, row, "D", color=PAPER, markeredgecolor=INK, markersize=7, zorder=4)


def gains_in_order(axis: Axes, gains: NDArray[np.float64]) -> None:
    """A bar for each of `gains` (n), in descending order: blue above zero, red below."""
    ordered = np.sort(gains)[::-1]
    colours = np.where(ordered > 0, FULL, ALONE)
    axis.bar(range(ordered.size), ordered, width=1.0, color=colours, linewidth=0)
    axis.axhline(0, color=MUTED, linewidth=0.8)
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(False)
    axis.grid(axis="y")
    axis.set_axisbelow(True)
    axis.margins(x=0)


def mark_clipped(axis: Axes, curves: NDArray[np.float64]) -> None:
    """Print at both ends of the axis how many of `curves` (points, n) leave it there."""
    low, high = axis.get_ylim()
    above, below = int((curves.max(0) > high).sum()), int((curves.min(0) < low).sum())
    style: dict[str, Any] = {
        "ha": "right",
        "fontsize": 8,
        "color": MUTED,
        "transform": axis.transAxes,
    }
    if above:
        axis.text(1, 0.99, f"\u25b2 {beyond(above)}", va="top", **style)
    if below:
        axis.text(1, 0.01, f"\u25bc {beyond(below)}", va="bottom", **style)


def beyond(count: int) -> str:
    """ "1 goes beyond", "2 go beyond"."""
    return f"{count} {'goes' if count == 1 else 'go'} beyond"


def inline_svgs(figure: Figure, name: str, label: str) -> str:
    """`figure` as two <svg> elements in the page's colours, for wide and for narrow screens.

    The style sheet shows one of them. `label` is their alternative text. If the texts leave no room
    for the axes on a narrow screen, there is one element for all screens.
    """
    wide = _inline_svg(figure, "wide", name, label)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=COLLAPSED)
            with narrowed(figure):
                return wide + _inline_svg(figure, "narrow", name, label)
    except UserWarning:
        return _inline_svg(figure, "any", name, label)


COLLAPSED = "constrained_layout not applied"  # Matplotlib's warning


@contextlib.contextmanager
def narrowed(figure: Figure) -> Iterator[None]:
    """Context in which `figure` has the layout for a phone; restored afterwards."""
    width, height = figure.get_size_inches()
    engine = figure.get_layout_engine()
    places = [(axis, axis.get_position(original=True).frozen()) for axis in figure.axes]
    texts = [(t, t.get_text(), t.get_fontsize()) for t in figure.findobj(Text)]
    figure.set_layout_engine("constrained")
    figure.set_size_inches(NARROW, height)
    try:
        with style():
            _fit_texts(figure)
        yield
    finally:
        figure.set_size_inches(width, height)
        figure.set_layout_engine(engine if engine is not None else "none")
        for axis, place in places:
            axis.set_position(place)
            axis.set_in_layout(True)  # set_position excludes it from later layouts
        for text, words, size in texts:
            text.set_text(words)
            text.set_fontsize(size)


def lay_out(figure: Figure) -> None:
    """Place the axes of `figure` as drawing it would, without drawing it."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


def _fit_texts(figure: Figure) -> None:
    """Wrap titles and labels that are longer than their axes; wrap and shrink wide legends."""
    lay_out(figure)
    for axis in figure.axes:
        box = axis.get_window_extent()
        for title in (axis.title, axis._left_title):  # type: ignore[attr-defined]
            _wrap(title, title.get_window_extent().width, box.width)
        for label in (axis.xaxis.label, axis.yaxis.label):
            label.set_text(label.get_text().replace("\n", " "))
        _wrap(axis.xaxis.label, axis.xaxis.label.get_window_extent().width, box.width)
        _wrap(axis.yaxis.label, axis.yaxis.label.get_window_extent().height, box.height)
    legends = [*figure.legends, *filter(None, (axis.get_legend() for axis in figure.axes))]
    for legend in legends:
        room = (legend.axes or figure).get_window_extent().width
        if legend.get_window_extent().width > room:
            for text in legend.get_texts():
                text.set_text(textwrap.fill(text.get_text(), LEGEND))
            lay_out(figure)
        excess = legend.get_window_extent().width / room
        for text in legend.get_texts():
            text.set_fontsize(float(text.get_fontsize()) / max(1.0, 1.05 * excess))


def _wrap(text: Text, length: float, room: float) -> None:
    """Wrap `text`, `length` pixels long, to `room` pixels; shrink it if a word is longer."""
    if length <= room:
        return
    lines = text.get_text().split("\n")
    most = max(map(len, lines))  # characters
    fitting = int(most * room / length)
    wrapped = [textwrap.fill(line, max(fitting, 4), break_long_words=False) for line in lines]
    text.set_text("\n".join(wrapped))
    longest = max(len(line) for line in text.get_text().split("\n"))
    text.set_fontsize(float(text.get_fontsize()) * min(1.0, max(fitting / longest, 0.7)))


def _inline_svg(figure: Figure, shape: str, name: str, label: str) -> str:
    buffer = io.StringIO()
    # The salt keeps the ids of both drawings apart.
    with style(), mpl.rc_context({"svg.hashsalt": f"{name} {shape}"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # The page sets the sizes; ids of groups would be repeated from figure to figure.
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg)
    head, body = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    for colour, variable in THEMED.items():
        body = body.replace(colour, f"var({variable})")
    return f'{head} class="{shape}" role="img" aria-label="{html.escape(label)}">{body}'


def save(figure: Figure, path: Path) -> None:
    """Save `figure` to `path`, in the format of its suffix, .png or .pdf."""
    how: dict[str, Any] = {"metadata": {"CreationDate": None}}
    if path.suffix == ".png":  # higher levels take three times as long for a tenth of the size
        how = {"pil_kwargs": {"compress_level": 2}}
    with style():
        lay_out(figure)
        figure.set_layout_engine(None)  # the layout is final
        with quiet_fonts():
            figure.savefig(path, dpi=200, **how)


@contextlib.contextmanager
def quiet_fonts() -> Iterator[None]:
    """Without fontTools' log of each glyph in a PDF, which fills that of a user at level INFO."""
    logger = logging.getLogger("fontTools")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def data_rows(item: Chart | Gallery) -> list[list[object]]:
    """The numbers in `item` as rows, the first of which has the titles."""
    if isinstance(item, Gallery):
        rows: list[list[object]] = [
            [strip.title, strip.detail, panel.title, panel.detail]
            for strip in item.strips
            for panel in strip.panels
        ]
        return [["row", "about the row", "picture", "about the picture"], *rows]
    titles: list[object] = ["panel", "horizontal axis", "vertical axis", "series", "drawn as"]
    found: list[list[object]] = [[*titles, "x", "y"]]
    for number, axis in enumerate(item.figure.axes, start=1):
        panel = axis.get_title(loc="left") or axis.get_title() or number
        labels = (axis.get_xlabel(), axis.get_ylabel())
        place = [panel, *(label.replace("\n", " ") for label in labels)]
        columns, rows_ = tick_names(axis.xaxis), tick_names(axis.yaxis)
        for series, kind, x, y in drawn_points(axis):
            found.append([*place, series, kind, columns.get(x, x), rows_.get(y, y)])
    return found


def tick_names(axis: Axis) -> dict[float, str]:
    """Tick labels of an axis by position, if they are words, not numbers."""
    if not isinstance(axis.get_major_formatter(), (FixedFormatter, FuncFormatter)):
        return {}
    labels = [label.get_text() for label in axis.get_ticklabels()]
    return {float(at): name for at, name in zip(axis.get_ticklocs(), labels, strict=False) if name}


def drawn_points(axis: Axes) -> Iterator[tuple[str, str, float, float]]:
    """Series, kind, x and y of everything drawn in data coordinates.

    For a slice of a pie, x is its share.
    """
    for line in axis.lines:
        if line.get_transform() == axis.transData:
            for x, y in np.asarray(line.get_xydata(), dtype=np.float64):
                yield named(line), "line", float(x), float(y)
    for group in axis.collections:
        if isinstance(group, LineCollection):
            if group.get_transform() == axis.transData:
                for number, segment in enumerate(group.get_segments(), start=1):
                    for x, y in segment:
                        yield named(group), f"bar of range {number}", float(x), float(y)
        elif group.get_offset_transform() == axis.transData:
            for x, y in np.asarray(group.get_offsets(), dtype=np.float64):
                yield named(group), "point", float(x), float(y)
    for bars in axis.containers:
        if isinstance(bars, BarContainer):
            for bar in bars.patches:
                (x0, y0), width, height = bar.get_xy(), bar.get_width(), bar.get_height()
                flat = bars.orientation == "horizontal"
                x, y = (x0 + width, y0 + height / 2) if flat else (x0 + width / 2, y0 + height)
                yield named(bars), "bar", float(x), float(y)
    for slice_ in (patch for patch in axis.patches if isinstance(patch, Wedge)):
        yield named(slice_), "slice", (slice_.theta2 - slice_.theta1) / 360, 0.0


def named(artist: Any) -> str:
    """The artist's label; empty for labels that Matplotlib made, which begin with "_"."""
    label = str(artist.get_label())
    return "" if label.startswith("_") else label
