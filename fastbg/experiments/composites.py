"""Section 4.1 and Fig. 3: foregrounds in foreign backgrounds, of photographs and of textures."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastbg.errors import InvalidArgument, RunStoreError
from fastbg.experiments.experiment import NO_NETWORK, Experiment, Measured, Summary, Work
from fastbg.experiments.groups import (
    COLOURS,
    SETS,
    GroupOptions,
    by_set,
    drawn_text,
    first_in_each,
    lr_composites,
    number_of,
    place,
    plan_groups,
    set_of,
    sources,
)
from fastbg.experiments.study import Item, Study, as_image, centre
from fastbg.measures.quality import grey_levels
from fastbg.models.network import Network
from fastbg.ops.composite import composite
from fastbg.reports import figures
from fastbg.reports.content import (
    Cell,
    Chart,
    Column,
    Gallery,
    Mark,
    Panel,
    Picture,
    Strip,
    Table,
)
from fastbg.stats.intervals import mean_interval

SHOWN = 3  # groups of each set in the contact sheet
FOREIGN = 5  # foreign backgrounds of each of them


@dataclass(frozen=True)
class CompositesOptions(GroupOptions):
    """The groups, and how many of them are written to disk."""

    exported: int = 1  # groups of each set, as PNG and CSV in the run folder's composites/


class Composites(Experiment):
    """What a composite looks like, and how much of the foreground's input it changes."""

    name = "composites"
    title = "How are foregrounds and backgrounds put together?"
    paper = "Sections 3.3 and 4.1, Fig. 3"
    question = (
        "The centre of one image, the foreground, is put into the middle of other images, its "
        "foreign backgrounds. What do these composites look like, and what do they change?"
    )
    method = (
        "Sub-images are drawn by a seed, one half for foregrounds, the other for backgrounds. "
        "Composites are made in high resolution (HR) and then reduced to the network's "
        "low-resolution (LR) input, so that LR pixels at the foreground's rim mix both."
    )
    options_type: ClassVar[type[GroupOptions]] = CompositesOptions
    networks: ClassVar[bool] = False
    chunk: ClassVar[int] = 1  # a group of composites
    curves = ("step", "mixed", "touched")
    shown = ("own", *(f"foreign_{k + 1}" for k in range(FOREIGN)))

    def plan(self, study: Study) -> list[Item]:
        """Groups of both sets, drawn by the seed."""
        if self.options.exported < 0:
            raise InvalidArgument("composites.exported", self.options.exported, "0 or more")
        return plan_groups(study, self.options, self.name)

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """Of each composite, own background first: see `compare`. Exports the first groups."""
        rows = []
        for item in items:
            hr, lr = self.composites(item, sources(item, study), study)
            rows.append(self.compare(hr, lr))
            if study.folder is not None and number_of(item) < self.options.exported:
                export(item, hr, lr, study.folder / "composites")
        return {name: torch.stack([row[name] for row in rows]) for name in self.curves}

    def work(self, items: Sequence[Item], study: Study) -> Work:
        """Composites only."""
        return Work(forwards=0, composites=sum(1 + len(item.partners) for item in items))

    def composites(self, item: Item, images: Tensor, study: Study) -> tuple[Tensor, Tensor]:
        """HR (K,3,S,S) and LR composites in [0,1] of one group's sources (K,3,S,S) uint8."""
        o = self.options
        inner = centre(o.region, o.size, o.size)
        hr = composite(images[:1], images, first_in_each(images), inner, backend=study.backend)
        return hr, lr_composites(item, images, study, o)

    def compare(self, hr: Tensor, lr: Tensor) -> dict[str, Tensor]:
        """Columns (K) of one group's composites; nothing leaves the device.

        step: mean absolute difference (grey levels) of HR pixels on both sides of the rim;
        mixed: mean change (grey levels) of the foreground's LR pixels by the foreign background;
        touched: the share of those pixels that change at all.
        """
        o, scale = self.options, hr.shape[-1] // lr.shape[-1]
        y0, x0, y1, x1 = centre(o.region, o.size, o.size)
        levels = grey_levels(hr)
        inside = levels[..., y0:y1, x0:x1]
        rim = [
            inside[..., 0, :] - levels[..., y0 - 1, x0:x1],
            inside[..., -1, :] - levels[..., y1, x0:x1],
            inside[..., :, 0] - levels[..., y0:y1, x0 - 1],
            inside[..., :, -1] - levels[..., y0:y1, x1],
        ]
        y0, x0, y1, x1 = (v // scale for v in (y0, x0, y1, x1))
        foreground = grey_levels(lr)[..., y0:y1, x0:x1]
        change = (foreground - foreground[:1]).abs()
        return {
            "step": torch.cat(rim, dim=-1).abs().mean((1, 2)),
            "mixed": change.mean((1, 2, 3)),
            "touched": (change.amax(1) > 0).double().mean((1, 2)),
        }

    def cases(self, measured: Measured) -> list[int]:
        """The first groups of each set."""
        return [int(i) for rows in by_set(measured).values() for i in rows[:SHOWN]]

    def exhibit(self, net: Network, item: Item, study: Study) -> dict[str, Picture]:
        """The own background and foreign ones, spread over the group."""
        last = len(item.partners) - 1
        chosen = np.linspace(0, last, min(FOREIGN, last + 1)).round().astype(int)
        some = replace(item, partners=tuple(item.partners[k] for k in chosen))
        hr, _ = self.composites(some, sources(some, study), study)
        return {name: as_image(image) for name, image in zip(self.shown, hr, strict=False)}

    def summarise(self, results: Sequence[Measured]) -> Summary:
        """What was drawn, and what it does to the foreground's input."""
        result = results[0]
        rows: list[list[Cell]] = []
        for name, index in by_set(result).items():
            items = [result.items[i] for i in index]
            used = {partner for item in items for partner in item.partners}
            count = 1 + len(items[0].partners)
            clusters = [item.source for item in items]

            means = {
                column: mean_interval(values[index, 1:].mean(axis=1), clusters)
                for column, values in result.columns.items()
            }
            rows.append(
                [
                    SETS[name],
                    len({image.source for image in (*items, *used)}),
                    len(items),
                    len(used),
                    count,
                    means["step"],
                    means["mixed"],
                    means["touched"].percent(),
                ]
            )
        columns = (
            Column("set"),
            Column("images"),
            Column("foregrounds"),
            Column("backgrounds in all"),
            Column("of each"),
            Column("step at the rim", "levels", 1),
            Column("change in LR", "levels", 1),
            Column("pixels changed", "%", 0),
        )
        note = (
            drawn_text(result, self.options)
            + " Intervals: 95 %, Student's t over images; levels are grey levels. The last two "
            "columns are what a foreign background does to the foreground's own pixels in the "
            "network's input, through down-sampling. With --domain lr, LR images are composed and "
            "nothing of it is left."
        )
        total = sum(len(item.partners) + 1 for item in result.items)
        shift = float(result.columns["mixed"][:, 1:].mean())
        headline = (
            f"{len(result.items)} groups, {total} composites; a foreign background changes the "
            f"foreground's LR pixels by {shift:.1f} grey levels"
        )
        table = Table("composites", "The composites", columns, rows, note)
        return Summary({NO_NETWORK.label: headline}, [table], [])

    def draw(self, results: Sequence[Measured]) -> list[Chart | Gallery]:
        """Contact sheet of each set, then what the composites change."""
        return [*self.sheets(results[0]), self.draw_changes(results[0])]

    def sheets(self, result: Measured) -> list[Gallery]:
        """Some groups of each set."""
        o, galleries = self.options, []
        mark = [Mark.pixels(centre(o.region, o.size, o.size), (o.size, o.size), "window")]
        for name, rows in by_set(result).items():
            strips = []
            for i in rows:
                item = result.items[i]
                pictures = [result.pictures.get((item.key, shown)) for shown in self.shown]
                titles = ["own background", *["foreign background"] * FOREIGN]
                panels = [
                    Panel(picture, title, "", mark)
                    for picture, title in zip(pictures, titles, strict=True)
                    if picture is not None
                ]
                if panels:
                    strips.append(Strip(place(item), panels))
            if strips:
                galleries.append(
                    Gallery(
                        f"composites_{name}",
                        f"Composites of {SETS[name]}",
                        "A row per foreground (white frame): first where it comes from, then in "
                        "some of its foreign backgrounds. High resolution, as they are before the "
                        "reduction to the network's input.",
                        strips,
                    )
                )
        return galleries

    def draw_changes(self, result: Measured) -> Chart:
        """How visible the rim is, and how far the foreground's input changes."""
        figure = figures.new_figure(2.6)
        left, right = figure.subplots(1, 2)
        for name, rows in by_set(result).items():
            colour = COLOURS[name]
            for axis, column in ((left, "step"), (right, "mixed")):
                values = np.sort(result.columns[column][rows, 1:], axis=None)
                share = 100 * np.arange(1, values.size + 1) / values.size
                axis.plot(values, share, color=colour, linewidth=1.8, label=name)
            own = np.sort(result.columns["step"][rows, 0])
            share = 100 * np.arange(1, own.size + 1) / own.size
            left.plot(own, share, color=colour, linestyle=":", linewidth=1.6, label=f"{name}, own")
        left.set_title("step at the rim")
        right.set_title("change of the LR foreground")
        left.set_ylabel("composites, %")
        left.legend(fontsize=8, loc="lower right")
        for axis in (left, right):
            axis.set_xlabel("grey levels, at most")
            axis.set_xlim(left=0)
            axis.set_ylim(0, 101)
            axis.grid()
        return Chart(
            "composites_changes",
            "What does a foreign background change?",
            "Share of the composites whose value is at most the one below. Left: how far "
            "neighbouring pixels on both sides of the foreground's rim differ; dotted: in the "
            "foreground's own image. Right: how far the foreground's own pixels change in the "
            "network's input, because reducing an image mixes neighbours.",
            figure,
        )


def export(item: Item, hr: Tensor, lr: Tensor, folder: Path) -> None:
    """Write a group's composites as PNG and where they come from as CSV, into a folder of its own.

    Raises RunStoreError if it cannot be written.
    """
    place = folder / set_of(item) / f"{number_of(item):03}"
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["composite", "foreground", "y", "x", "background", "y", "x", "size"])
    y, x, bottom, _ = item.box
    try:
        place.mkdir(parents=True, exist_ok=True)
        for k, back in enumerate((item, *item.partners)):
            row = [item.source, y, x, back.source, *back.box[:2], bottom - y]
            table.writerow([f"{k:03}", *row])
            for kind, image in (("hr", hr[k]), ("lr", lr[k])):
                Image.fromarray(as_image(image)).save(place / f"{k:03}_{kind}.png")
        (place / "group.csv").write_text(text.getvalue(), encoding="utf-8")
    except OSError as error:
        raise RunStoreError(
            f"{place}: composites cannot be written: {error}; expected a folder with free space "
            "that can be written, or composites.exported=0"
        ) from error
