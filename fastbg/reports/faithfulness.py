"""The report of the experiment `faithfulness`: tables, verdicts and figures."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from fastbg.attribution.local import PUBLISHED
from fastbg.experiments.experiment import Measured
from fastbg.experiments.faithfulness import CONTROLS, KINDS, Faithfulness, area
from fastbg.reports import figures
from fastbg.reports.content import Cell, Chart, Column, Gallery, Panel, Strip, Table, Verdict
from fastbg.reports.section import ExperimentReport, Summary
from fastbg.stats.intervals import all_of, mean_interval

TITLES = {
    "lam": "LAM",
    "lam_abs": "LAM, sum of absolute values",
    "straight": "LAM on the straight path",
    "gradient": "gradient",
    "gradient_step": "gradient times blur's change",
    "gradient_input": "gradient times image",
    "effect": "causal effect on PSNR",
    "occlusion": "occlusion",
    "random": "random pixels",
    "nearest": "nearest to the window first",
}
TICKS = (4, 16, 64, 256, 1024)
SERIES = (figures.FULL, figures.ALONE, *figures.OTHERS)
STYLES = [(colour, dash) for dash in ("-", "-.") for colour in SERIES]  # of maps, in turn


class FaithfulnessReport(ExperimentReport):
    """Tables, verdicts and figures of `Faithfulness`."""

    experiment: Faithfulness

    def summarise(self, results: Sequence[Measured]) -> Summary:
        """Areas by network and map, and gains over the controls; claim C12."""
        rows: list[list[Cell]] = []
        verdicts: list[Verdict] = []
        headlines = {}
        for result in results:
            rows += [self.row(result, name) for name in (*self.maps, *CONTROLS)]
            told = [self.best(result)] if len(self.maps) > 1 else []
            if "lam" in self.maps:
                verdicts.append(self.more_than_near(result))
                told.append(f"C12 {verdicts[-1].outcome.value}")
            headlines[result.net.label] = "; ".join(told)
        columns = [Column("network"), Column("order of the pixels"), Column("images")]
        for kind in KINDS:
            columns += [
                Column(f"{kind}: area", digits=3),
                Column(f"{kind}: less than nearest first", digits=3, signed=True),
                Column(f"{kind}: less than shuffled", digits=3, signed=True),
            ]
        note = (
            "Areas are means of curves over the logarithm of the number of LR pixels; 0 is best. "
            "Less than: the control's area minus the map's, positive if the map is better. "
            "Shuffled: the map's values exchanged among pixels of equal distance to the window. "
            f"A curve takes {self.options.points} passes of the network, a map on a path at "
            f"most {2 * PUBLISHED[1]}, half of them backward, a gradient 2, occlusion one for each "
            f"box, causal effects {self.options.replacements} for each block. "
            "Intervals: 95 %, Student's t over photographs."
        )
        title = "Deletion and insertion: small areas are good"
        tables = [Table(self.experiment.name, title, columns, rows, note)]
        if len(self.maps) > 1:
            tables.append(self.against_the_best(results))
        return Summary(headlines, tables, verdicts)

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the explanations that were measured."""
        return self.experiment.maps

    def row(self, result: Measured, name: str) -> list[Cell]:
        """A map or control: its areas, and its gains on controls."""
        cells: list[Cell] = [result.net.label, TITLES[name], len(result.items)]
        for kind in KINDS:
            cells.append(mean_interval(area(result, kind, name), result.sources))
            if name in self.maps:
                for control in ("nearest", f"shuffled_{name}"):
                    gained = gain(result, kind, name, control)
                    cells.append(mean_interval(gained, result.sources))
            else:
                cells += [None, None]
        return cells

    def ranked(self, result: Measured, kind: str) -> list[str]:
        """Names of the maps by their mean area, the smallest first."""
        means = {name: area(result, kind, name).mean() for name in self.maps}
        return sorted(means, key=lambda name: means[name])

    def against_the_best(self, results: Sequence[Measured]) -> Table:
        """Differences of all maps to the best one, by network and curve, in order."""
        rows: list[list[Cell]] = []
        for result in results:
            for kind in KINDS:
                first, *others = self.ranked(result, kind)
                rows.append([result.net.label, kind, TITLES[first], None])
                for name in others:
                    behind = mean_interval(gain(result, kind, first, name), result.sources)
                    rows.append([result.net.label, kind, TITLES[name], behind])
        columns = (Column("network"), Column("curve"), Column("explanation"))
        return Table(
            f"{self.experiment.name}_ranking",
            "Which explanation is nearest to the truth?",
            (*columns, Column("area: more than the first's", digits=3, signed=True)),
            rows,
            "The first of each block has the smallest mean area. If an interval contains 0, these "
            "images cannot distinguish the two. As the first was chosen by these areas, "
            "the differences to it are slightly too large. Intervals: 95 %, Student's t over "
            "photographs, paired.",
        )

    def best(self, result: Measured) -> str:
        """The map with the smallest insertion area, and whether its lead is significant."""
        first, second = self.ranked(result, "insertion")[:2]
        lead = mean_interval(gain(result, "insertion", first, second), result.sources)
        sure = "ahead of" if lead.known and lead.low > 0 else "not surely ahead of"
        return (
            f"nearest to the truth by insertion: {TITLES[first]}, {sure} {TITLES[second]} "
            f"({lead.text(3, signed=True)})"
        )

    def more_than_near(self, result: Measured) -> Verdict:
        """C12: LAM against both of its controls, in both curves."""
        gains = {
            (kind, control): mean_interval(gain(result, kind, "lam", control), result.sources)
            for kind in KINDS
            for control in ("nearest", "shuffled_lam")
        }
        told = {"nearest": "nearest first", "shuffled_lam": "shuffled"}
        ours = ", ".join(
            f"{kind} less than {told[control]}: {found.text(3, signed=True)}"
            for (kind, control), found in gains.items()
        )
        return Verdict(
            claim="C12",
            statement="LAM finds the pixels that matter better than looking near the window does.",
            net=result.net.label,
            paper="not asked",
            ours=ours,
            test="Paired over images: holds if the 95 % intervals of what LAM's area is less than "
            "that of nearest-first and of its own map shuffled at equal distance lie above 0, for "
            "deletion and insertion; does not hold if one lies below.",
            outcome=all_of(found.compare(0.0) for found in gains.values()),
        )

    def draw(self, results: Sequence[Measured]) -> list[Chart | Gallery]:
        """Mean curves; maps of two cases."""
        return [self.draw_curves(results), *self.pictures(results)]

    def draw_curves(self, results: Sequence[Measured]) -> Chart:
        """Mean curves, a row for each network."""
        figure = figures.new_figure(0.8 + 2.3 * len(results))
        axes = figure.subplots(len(results), 2, squeeze=False, sharex=True, sharey=True)
        for row, result in zip(axes, results, strict=True):
            for axis, kind in zip(row, KINDS, strict=True):
                self.draw_kind(axis, result, kind)
                axis.set_title(f"{figures.short(result.net.label, 18)}: {kind}")
            row[0].set_ylabel("share left")
        for axis in axes[-1]:
            axis.set_xlabel("LR pixels replaced")
        lines = axes[0, 0].get_legend_handles_labels()
        figure.legend(*lines, loc="outside lower center", ncols=2, fontsize=8)
        return Chart(
            "faithfulness_curves",
            "How many pixels does it take?",
            "Means over the images; the curve of a map that finds the pixels that matter falls "
            "early. Deletion: remaining structure of the window when these pixels are blurred. "
            "Insertion: distance of the window from that of the whole image when only these pixels "
            "are sharp. Dashed: controls that need no network; dotted: LAM's map, shuffled among "
            "pixels of equal distance.",
            figure,
        )

    def draw_kind(self, axis: Axes, result: Measured, kind: str) -> None:
        """One panel: maps, controls, LAM shuffled."""
        styles = dict(zip(self.maps, STYLES, strict=False)) | dict.fromkeys(
            CONTROLS, (figures.MUTED, "--")
        )
        if "lam" in self.maps:
            styles["shuffled_lam"] = (figures.FULL, ":")
        for name, (colour, line) in styles.items():
            label = TITLES.get(name, "LAM, shuffled at equal distance")
            width = 0.8 if name == "random" else 1.5
            counts, values = result.columns["counts"][0], result.columns[f"{kind}_{name}"]
            axis.plot(counts, values.mean(axis=0), line, color=colour, label=label, linewidth=width)
        axis.set_xscale("log")
        axis.set_xticks(TICKS, [f"{count:,}" for count in TICKS])
        axis.minorticks_off()
        axis.set_ylim(0, 1.1)
        axis.grid()

    def pictures(self, results: Sequence[Measured]) -> list[Gallery]:
        """The maps of two images of each network."""
        return self.galleries(
            results,
            self.strips,
            "One window, explained in several ways:",
            "The input, then each map; red is much. First the image in which the first map gains "
            "most over nearest first, then the one in which it gains least. Below: areas of "
            "deletion and insertion.",
        )

    def strips(self, result: Measured, i: int) -> list[Strip]:
        """One image."""
        key = result.items[i].key
        panels = [Panel(result.pictures[key, "lr"], "input", "")]
        maps = np.split(result.pictures[key, "maps"], len(self.maps), axis=1)
        for name, picture in zip(self.maps, maps, strict=True):
            areas = (f"{area(result, kind, name)[i]:.2f}" for kind in KINDS)
            panels.append(Panel(picture, TITLES[name], ", ".join(areas)))
        near = (f"{area(result, kind, 'nearest')[i]:.2f}" for kind in KINDS)
        return [Strip(result.items[i].image, panels, f"nearest first: {', '.join(near)}")]


def gain(result: Measured, kind: str, name: str, control: str) -> NDArray[np.float64]:
    """Area of a control minus the area of a map (n)."""
    return area(result, kind, control) - area(result, kind, name)
