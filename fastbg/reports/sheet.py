"""A gallery as one figure: strips of pictures below each other.

Everything lies in one set of axes, placed by arithmetic: with axes for each picture, and Matplotlib
to lay them out, a sheet took three times as long.
"""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fastbg.reports.content import Gallery, Mark, Panel, Strip
from fastbg.reports.figures import INK, MARKS, MUTED, WIDTH, short, style

# Inches.
CELL, SIDE = 1.75, 1.66  # from picture to picture, width of a picture
HEADING, TITLE, DETAIL = 0.32, 0.2, 0.26  # heights of a strip's and a panel's lines
CHARACTERS = 30  # of a panel's lines


def draw_gallery(gallery: Gallery) -> Figure:
    """`gallery` as a figure, a row for each strip."""
    columns = max((len(strip.panels) for strip in gallery.strips), default=1)
    shapes = [panel.picture.shape for strip in gallery.strips for panel in strip.panels]
    tallest = SIDE * max((height / width for height, width, _ in shapes), default=1.0)
    row = HEADING + TITLE + tallest + DETAIL
    width, height = max(WIDTH, CELL * columns), max(1.0, row * len(gallery.strips))
    figure = Figure(figsize=(width, height))
    with style():
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for number, strip in enumerate(gallery.strips):
            _draw_strip(axes, strip, number * row)
        axes.set_xlim(0, width)  # in inches, from the upper left corner
        axes.set_ylim(height, 0)
    return figure


def _draw_strip(axes: Axes, strip: Strip, top: float) -> None:
    title = short(strip.title, 48) + (f" - {strip.detail}" if strip.detail else "")
    axes.text(0.06, top + HEADING / 2, title, fontsize=9, color=INK, va="center")
    for place, panel in enumerate(strip.panels):
        _draw_panel(axes, panel, place * CELL + (CELL - SIDE) / 2, top + HEADING)


def _draw_panel(axes: Axes, panel: Panel, left: float, top: float) -> None:
    """One picture with its marks, title above and detail below."""
    height, width = panel.picture.shape[:2]
    scale, y = SIDE / width, top + TITLE
    bottom = y + height * scale
    axes.imshow(panel.picture, extent=(left, left + SIDE, bottom, y), aspect="auto")
    for words, at, look in (
        (panel.title, top + TITLE / 2, {"fontsize": 7.5, "color": MUTED}),
        (
            panel.detail,
            bottom + DETAIL / 2.5,
            {"fontsize": 8, "color": INK, "fontweight": "bold" if panel.best else "normal"},
        ),
    ):
        text: dict[str, Any] = {"ha": "center", "va": "center", **look}
        axes.text(left + SIDE / 2, at, short(words, CHARACTERS), **text)
    for mark in panel.marks:
        _outline(axes, mark, (left, y, width * scale, height * scale))


def _outline(axes: Axes, mark: Mark, place: tuple[float, float, float, float]) -> None:
    (left, top, width, height), (y0, x0, y1, x1) = place, mark.box
    corner = (left + x0 * width, top + y0 * height)
    extent = ((x1 - x0) * width, (y1 - y0) * height)
    for colour, line in (("#000000", 2.2), (MARKS[mark.role], 1.1)):
        axes.add_patch(
            Rectangle(corner, *extent, fill=False, edgecolor=colour, linewidth=line, clip_on=False)
        )
