"""The building blocks of a report: tables, verdicts, charts and galleries of pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from fastbg.experiments.experiment import Picture
from fastbg.stats.intervals import Interval, Outcome

# The paper's claims in a few words; C10 to C12 are our own.
CLAIMS = {
    "C1": "Background is not always useful",
    "C2": "Testing whole images and testing slices give different scores",
    "C3": "A region is restored best in its own background",
    "C4": "Backgrounds that look like the region help",
    "C5": "A foreign ring hurts; attention reaches past a narrow one",
    "C6": "Attribution shows which pixels are used",
    "C7": "Foreign content that grows inwards hurts little at first",
    "C8": "Gram distance to the background does not predict PSNR",
    "C9": "A mosaic of a region's own copies helps and never harms",
    "C10": "What LAM marks is what matters",
    "C11": "Most of what a foreign background costs is its seam",
    "C12": "LAM finds the pixels that matter better than looking near the window",
}

Cell = str | int | float | Interval | None


@dataclass(frozen=True)
class Column:
    """Title and unit of a table's column, and the format of its numbers."""

    title: str
    unit: str = ""
    digits: int = 2
    signed: bool = False


@dataclass(frozen=True)
class Table:
    """A table; an `Interval` is shown as estimate and range."""

    name: str  # file name of the CSV
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """The result of testing a claim for one network, or for several together."""

    claim: str  # "C1"
    statement: str
    net: str | None  # a network's label; None: several networks, named in `about`
    paper: str
    ours: str
    test: str  # the rule that gives the outcome
    outcome: Outcome
    about: str = ""  # "natural images", "edsr against rcan"

    @property
    def subject(self) -> str:
        """The subject, for headings: "edsr, natural images"."""
        return ", ".join(filter(None, (self.net, self.about)))


@dataclass(frozen=True)
class Chart:
    """A matplotlib figure, drawn with `fastbg.reports.figures.new_figure`."""

    name: str
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Mark:
    """A rectangle on a picture: y0, x0, y1, x1 as shares of its height and width."""

    box: tuple[float, float, float, float]
    role: str  # "window": measured pixels; "input": pixels that the network gets

    @staticmethod
    def pixels(box: Sequence[int], size: Sequence[int], role: str) -> "Mark":
        """`box` in pixels of a picture of `size` (height, width)."""
        (y0, x0, y1, x1), (height, width) = box, size[:2]
        return Mark((y0 / height, x0 / width, y1 / height, x1 / width), role)


@dataclass(frozen=True)
class Panel:
    """One picture of a gallery."""

    picture: Picture
    title: str
    detail: str = ""
    marks: Sequence[Mark] = ()
    best: bool = False


@dataclass(frozen=True)
class Strip:
    """A row of a gallery: one case, its pictures from left to right."""

    title: str
    panels: Sequence[Panel]
    detail: str = ""


@dataclass(frozen=True)
class Gallery:
    """Pictures of some cases."""

    name: str
    title: str
    caption: str
    strips: Sequence[Strip]
    opened: bool = False  # shown unfolded in the page


@dataclass(frozen=True)
class Section:
    """The part of the report that belongs to one experiment."""

    name: str
    title: str
    paper: str
    question: str
    method: str
    headlines: Mapping[str, str]  # network -> one line
    tables: Sequence[Table]
    verdicts: Sequence[Verdict]
    figures: Sequence[Chart | Gallery]
    options: Mapping[str, object]
    changed: Mapping[str, object]  # options with another value than the default
    measured: int  # items that every network has
    planned: int
    meanings: Mapping[str, str] = field(default_factory=dict)  # of the options
