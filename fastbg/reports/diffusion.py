"""The report of the experiment `diffusion`: tables and figures."""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fastbg.experiments.diffusion import Diffusion
from fastbg.experiments.experiment import Measured, decibels
from fastbg.geometry import Box
from fastbg.reports import figures
from fastbg.reports.content import Cell, Chart, Column, Gallery, Mark, Panel, Strip, Table
from fastbg.reports.section import ExperimentReport, Summary
from fastbg.stats.intervals import Interval, mean_interval

COLOURS = (figures.FULL, figures.ALONE, *figures.OTHERS)
COLUMNS = {
    "di": Column("diffusion index", digits=2),
    "gini": Column("Gini coefficient", digits=4),
    "area": Column("area of contribution", "LR pixels", 0),
    "psnr": Column("PSNR of the window", "dB", 2),
}
LIMITS = {"di": (0.0, 100.0), "gini": (0.0, 1.0), "area": (0.0, math.inf)}


class DiffusionReport(ExperimentReport):
    """Tables and figures of `Diffusion`."""

    experiment: Diffusion

    def summarise(self, results: Sequence[Measured]) -> Summary:
        """Means of every network; paired differences of any two."""
        rows: list[list[Cell]] = []
        headlines = {}
        for result in results:
            means = [mean(result, name) for name in COLUMNS]
            rows.append([result.net.label, len(result.items), *means])
            headlines[result.net.label] = f"diffusion index {means[0].text(2)}"
        note = (
            "One window for each image. Area of contribution: the smallest number of LR pixels "
            "that contain 95 % of the map. Intervals: 95 %, Student's t over photographs, limited "
            "to possible values."
        )
        columns = (Column("network"), Column("images"), *COLUMNS.values())
        tables = [Table(self.experiment.name, "Means over the images", columns, rows, note)]
        if len(results) > 1:
            tables.append(self.differences(results))
        return Summary(headlines, tables, verdicts=[])

    def differences(self, results: Sequence[Measured]) -> Table:
        """Paired differences of any two networks on the same windows."""
        rows: list[list[Cell]] = []
        for first, second in combinations(results, 2):
            cells: list[Cell] = [f"{second.net.label} less {first.net.label}"]
            for name in COLUMNS:
                difference = values(second, name) - values(first, name)
                cells.append(mean_interval(difference, first.sources))
            rows.append(cells)
        columns = [Column("networks")]
        columns += [Column(c.title, c.unit, c.digits, signed=True) for c in COLUMNS.values()]
        return Table(
            f"{self.experiment.name}_differences",
            "Differences on the same windows",
            columns,
            rows,
            "Means of paired differences. Intervals: 95 %, Student's t over photographs.",
        )

    def draw(self, results: Sequence[Measured]) -> list[Chart | Gallery]:
        """PSNR against the diffusion index; the cases with the largest and the smallest index."""
        return [self.draw_scatter(results), *self.pictures(results)]

    def draw_scatter(self, results: Sequence[Measured]) -> Chart:
        """A point for each image and network; crosses are means with their intervals."""
        figure = figures.new_figure(3.6)
        axis = figure.subplots()
        for number, result in enumerate(results):
            colour = COLOURS[number % len(COLOURS)]
            di, score = values(result, "di"), values(result, "psnr")
            axis.scatter(di, score, s=14, color=colour, alpha=0.5, linewidths=0)
            x, y = mean(result, "di"), mean(result, "psnr")
            axis.plot(
                x.value, y.value, "o", color=colour, label=figures.in_legend(result.net.label)
            )
            if x.known and y.known:
                axis.plot([x.low, x.high], [y.value] * 2, color=colour)
                axis.plot([x.value] * 2, [y.low, y.high], color=colour)
        axis.set_xlabel("diffusion index of the window's attribution")
        axis.set_ylabel("PSNR of the window, dB")
        axis.grid()
        axis.legend()
        return Chart(
            "diffusion_scatter",
            "Are windows that are restored from more pixels restored better?",
            "Small points: windows. Large points: the mean of each network, with its 95 % interval "
            "in both directions. Compare networks by the large points, as in the LAM paper; the "
            "small ones show the influence of the image.",
            figure,
        )

    def pictures(self, results: Sequence[Measured]) -> list[Gallery]:
        """The cases of each network."""
        return self.galleries(
            results,
            self.strips,
            "Largest and smallest diffusion index:",
            "The image with its window (white), and the attribution map; red is much.",
        )

    def strips(self, result: Measured, i: int) -> list[Strip]:
        """One image."""
        item = result.items[i]
        hr = result.pictures[item.key, "hr"]
        window = Box(*item.partners[0].box).moved(-item.box[0], -item.box[1])
        mark = [Mark.pixels(window, hr.shape, "window")]
        told = f"diffusion index {result.columns['di'][i]:.2f}"
        panels = [
            Panel(hr, "image", f"{values(result, 'psnr')[i]:.2f} dB", mark),
            Panel(result.pictures[item.key, "map"], "attribution", told, mark),
        ]
        return [Strip(item.image, panels)]


def mean(result: Measured, name: str) -> Interval:
    """Mean of a column over the images; its interval is limited to possible values."""
    found = mean_interval(values(result, name), result.sources)
    return found.clipped(*LIMITS[name]) if found.known and name in LIMITS else found


def values(result: Measured, name: str) -> NDArray[np.float64]:
    """A column (n); PSNR is limited to `PERFECT`."""
    return decibels(result, name) if name == "psnr" else result.columns[name]
