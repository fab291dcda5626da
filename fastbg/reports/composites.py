"""The report of the experiment `composites`: tables, verdicts and figures."""

from collections.abc import Sequence

import numpy as np

from fastbg.experiments.composites import FOREIGN, Composites
from fastbg.experiments.experiment import NO_NETWORK, Measured
from fastbg.experiments.groups import SETS, by_set
from fastbg.geometry import centre
from fastbg.reports import figures
from fastbg.reports.content import (
    Cell,
    Chart,
    Column,
    Gallery,
    Mark,
    Panel,
    Strip,
    Table,
)
from fastbg.reports.groups import COLOURS, drawn_text, place
from fastbg.reports.section import ExperimentReport, Summary
from fastbg.stats.intervals import mean_interval


class CompositesReport(ExperimentReport):
    """Tables, verdicts and figures of `Composites`."""

    experiment: Composites

    def summarise(self, results: Sequence[Measured]) -> Summary:
        """Numbers of composites, and changes of the foreground's LR pixels."""
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
                    len({image.image for image in (*items, *used)}),
                    len(items),
                    len(used),
                    count,
                    means["step"],
                    means["mixed"],
                    means["touched"].clipped(0, 1).percent(),
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
            + " Intervals: 95 %, Student's t over photographs; levels are grey levels. The last "
            "two columns show how down-sampling with a foreign background changes the "
            "foreground's LR pixels. With --domain lr, LR images are composed, and these pixels do "
            "not change."
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
        """A contact sheet of each set, then the changes of the input."""
        return [*self.sheets(results[0]), self.draw_changes(results[0])]

    def sheets(self, result: Measured) -> list[Gallery]:
        """Some groups of each set."""
        o, galleries = self.options, []
        mark = [Mark.pixels(centre(o.region, o.size, o.size), (o.size, o.size), "window")]
        for name, rows in by_set(result).items():
            strips = []
            for i in rows:
                item = result.items[i]
                pictures = [
                    result.pictures.get((item.key, shown)) for shown in self.experiment.shown
                ]
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
                        "A row for each foreground (white frame): in its own background, then in "
                        "some foreign ones. High resolution, before down-sampling to the network's "
                        "input.",
                        strips,
                        opened=True,
                    )
                )
        return galleries

    def draw_changes(self, result: Measured) -> Chart:
        """Distributions of the step at the rim and of the change of the foreground's input."""
        figure = figures.new_figure(2.6)
        left, right = figure.subplots(1, 2)
        for name, rows in by_set(result).items():
            colour = COLOURS[name]
            for axis, column in ((left, "step"), (right, "mixed")):
                values = np.sort(result.columns[column][rows, 1:], axis=None)
                share = 100 * np.arange(1, values.size + 1) / values.size
                axis.plot(values, share, color=colour, linewidth=1.8, label=SETS[name])
            own = np.sort(result.columns["step"][rows, 0])
            share = 100 * np.arange(1, own.size + 1) / own.size
            left.plot(
                own, share, color=colour, linestyle=":", linewidth=1.6, label=f"{SETS[name]}, own"
            )
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
            "Cumulative share of the composites. Left: difference between neighbouring pixels on "
            "both sides of the foreground's rim; dotted: in the foreground's own image. Right: "
            "change of the foreground's pixels in the network's input, because down-sampling mixes "
            "neighbours.",
            figure,
        )
