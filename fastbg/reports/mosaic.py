"""The report of the experiment `mosaic`: tables, verdicts and figures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastbg.experiments.experiment import Measured, decibels
from fastbg.experiments.mosaic import Mosaic, gain
from fastbg.experiments.seams import HARD, Seam, column, title
from fastbg.experiments.tta import family
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
    Verdict,
)
from fastbg.reports.seams import with_seam
from fastbg.reports.section import ExperimentReport, Summary
from fastbg.stats.intervals import Interval, mean_interval, never_seen

# Mean PSNR (dB) of the region in its own image and in the mosaic (Table 2).
PAPER = {"edsr": (23.02, 23.28), "rcan": (23.11, 23.39), "swinir": (23.24, 23.33)}
TOLERATED = 0.10  # an event never happens if its share is below this, at 95 % confidence


class MosaicReport(ExperimentReport):
    """Tables, verdicts and figures of `Mosaic`."""

    experiment: Mosaic

    @property
    def mosaics(self) -> dict[Seam, str]:
        """The mosaic's part of a column's name, by its seam."""
        return {seam: column("mosaic", seam) for seam in self.experiment.seams}

    @property
    def ways(self) -> dict[str, str]:
        """Ways to restore a region: part of the column's name -> title in tables."""
        return {
            "whole": "in its own image",
            "alone": "the region alone",
            **{way: f"in the mosaic, {title(seam)}" for seam, way in self.mosaics.items()},
            "tta": "test-time augmentation",
        }

    def summarise(self, results: Sequence[Measured]) -> Summary:
        """Gains, harm and cost of each way; claim C9."""
        rows, headlines = [], {}
        verdicts: list[Verdict] = []
        for result in results:
            paper = PAPER.get(result.net.architecture)
            published = {"whole": paper and paper[0], "mosaic": paper and paper[1]}
            for way, name in self.ways.items():
                against = [
                    None if way == other else value
                    for other in ("whole", "alone")
                    for value in (self.mean(result, way, other), self.harm(result, way, other))
                ]
                mean = float(decibels(result, f"psnr_{way}").mean())
                rows.append((result.net.label, name, mean, published.get(way), *against))
            found: list[Verdict] = []
            for seam, way in self.mosaics.items():
                found += with_seam([self.raises(result, way), self.never_harms(result, way)], seam)
            found += [self.little(result), self.can_harm(result)]
            verdicts += found
            gains = ", ".join(
                f"{title(seam)} {self.mean(result, way, 'whole').text(2, signed=True)} dB"
                for seam, way in self.mosaics.items()
            )
            headlines[result.net.label] = (
                f"mosaic against its own image, {gains}; TTA against alone "
                f"{self.mean(result, 'tta', 'alone').text(2, signed=True)} dB; "
                f"C9 {' / '.join(v.outcome.value for v in found)}"
            )
        columns = (
            Column("network"),
            Column("restored"),
            Column("mean PSNR", "dB"),
            Column("the paper's", "dB"),
            Column("gain over its own image", "dB", 3, signed=True),
            Column("worse than there", "%", 1),
            Column("gain over the region alone", "dB", 3, signed=True),
            Column("worse than alone", "%", 1),
        )
        note = (
            f"{len(results[0].items)} regions. Intervals: 95 %, paired, Student's t over "
            "photographs. "
            f"Worse: the share of the regions that lose more than {self.options.harm:g} dB."
        )
        heading = f"Region restored in {len(self.ways)} ways, by network"
        table = Table("mosaic", heading, columns, rows, note)
        return Summary(headlines, [table, self.inner(results), self.costs(results[0])], verdicts)

    def inner(self, results: Sequence[Measured]) -> Table:
        """Influence of the seams: mean gains in the whole region and in its central half."""
        pairs = {("tta", "alone"): "TTA over alone"}
        for seam, way in self.mosaics.items():
            pairs[way, "whole"] = f"mosaic over its own image, {title(seam)}"
            pairs[way, "alone"] = f"mosaic over alone, {title(seam)}"
        columns = [Column("network"), Column("part")]
        columns += [Column(name, "dB", 3, signed=True) for name in pairs.values()]

        def means(result: Measured, part: str) -> list[Interval]:
            gains = (gain(result, *pair, part) for pair in pairs)
            return [mean_interval(values, result.sources) for values in gains]

        rows: list[Sequence[Cell]] = [
            (result.net.label, name, *means(result, part))
            for result in results
            for part, name in (("psnr", "region"), ("inner", "inner half"))
        ]
        note = "Copies do not match the region at its border; the inner half is far from it."
        return Table("mosaic_inner", "Is it the seams?", columns, rows, note)

    def costs(self, result: Measured) -> Table:
        """Network calls and LR pixels of each way, for one region."""
        o, copies = self.options, self.options.grid**2
        enlarged = [*family(o.tta == "zooms").values()]
        around = (result.columns["height"] * result.columns["width"]).mean() / o.region**2
        costs = {
            "whole": (1, float(around)),
            "alone": (1, 1.0),
            **dict.fromkeys(self.mosaics.values(), (1, float(copies))),
            "tta": (copies, copies * float(np.mean(enlarged))),
        }
        note = (
            "Pixels: those given to the network, divided by the region's. fastbg computes less: "
            f"TTA's {copies} calls are {len(enlarged)} different ones, and of the own image and "
            "the mosaic only pixels that the region depends on are computed."
        )
        columns = (
            Column("restored"),
            Column("network calls"),
            Column("pixels given", "regions", 1),
        )
        rows = [(name, *costs[way]) for way, name in self.ways.items()]
        return Table("mosaic_cost", "What a region costs", columns, rows, note)

    def mean(self, result: Measured, way: str, other: str) -> Interval:
        """Mean paired gain of one way over another, dB."""
        return mean_interval(gain(result, way, other), result.sources)

    def harmed(self, result: Measured, way: str, other: str) -> NDArray[np.bool_]:
        """Whether one way restores a region worse than another: (n)."""
        return gain(result, way, other) < -self.options.harm

    def harm(self, result: Measured, way: str, other: str) -> float:
        """Share of regions that one way restores worse than another, %."""
        return 100 * float(self.harmed(result, way, other).mean())

    def raises(self, result: Measured, way: str) -> Verdict:
        """C9: mean gain of one of the `mosaics`."""
        paper = PAPER.get(result.net.architecture)
        interval = self.mean(result, way, "whole")
        whole, mosaiced = (decibels(result, f"psnr_{name}").mean() for name in ("whole", way))
        return Verdict(
            claim="C9",
            statement="A mosaic of a region's own copies raises its PSNR on average.",
            net=result.net.label,
            paper="-" if paper is None else f"{paper[0]:.2f} to {paper[1]:.2f} dB",
            ours=f"{whole:.2f} to {mosaiced:.2f} dB: {interval.text(3, signed=True)} dB",
            test="Against the region in its own image, paired: holds if the 95 % interval of the "
            "mean gain lies above 0, does not hold if it lies below.",
            outcome=interval.compare(0.0),
        )

    def never_harms(self, result: Measured, way: str) -> Verdict:
        """C9: one of the `mosaics` never harms."""
        harmed = self.harmed(result, way, "whole")
        worst = gain(result, way, "whole").min()
        return Verdict(
            claim="C9",
            statement="The mosaic never harms.",
            net=result.net.label,
            paper="no risk of harm",
            ours=f"worse than in its own image: {harmed.sum()} of {harmed.size} regions, "
            f"at worst {worst:+.2f} dB",
            test=f"One region that loses more than {self.options.harm:g} dB refutes it. Holds if "
            "there is none in so many photographs that the share of photographs with one is below "
            f"{TOLERATED:.0%} at 95 %.",
            outcome=never_seen(harmed, result.sources, TOLERATED),
        )

    def little(self, result: Measured) -> Verdict:
        """C9: TTA gains little."""
        most, interval = self.options.most, self.mean(result, "tta", "alone")
        return Verdict(
            claim="C9",
            statement=f"{self.options.grid**2}-fold test-time augmentation gains {most:g} dB at "
            "most on average.",
            net=result.net.label,
            paper=f"at most {most:g} dB",
            ours=f"{interval.text(3, signed=True)} dB",
            test="Against the region alone, which TTA transforms, paired: holds if the 95 % "
            f"interval of the mean gain lies below {most:g} dB, does not hold if it lies above.",
            outcome=interval.compare(most).opposite,
        )

    def can_harm(self, result: Measured) -> Verdict:
        """C9: TTA can harm."""
        harmed = self.harmed(result, "tta", "alone")
        return Verdict(
            claim="C9",
            statement="Test-time augmentation can harm.",
            net=result.net.label,
            paper="sometimes worse than without",
            ours=f"worse than without: {harmed.sum()} of {harmed.size} regions, "
            f"at worst {gain(result, 'tta', 'alone').min():+.2f} dB",
            test=f"One region that loses more than {self.options.harm:g} dB is enough. Does not "
            "hold if there is none in so many photographs that the share of photographs with one "
            f"is below {TOLERATED:.0%} at 95 %.",
            outcome=never_seen(harmed, result.sources, TOLERATED).opposite,
        )

    def draw(self, results: Sequence[Measured]) -> list[Chart | Gallery]:
        """Mean gains beside the paper's, the gains of all regions, and pictures."""
        caption = (
            "White: the region. The mosaic is the network's input. First the regions in which the "
            "mosaic gains most over the region's own image, then those in which it loses most; the "
            f"best of the three results is in bold. Mosaic: {title(self.experiment.seams[0])}."
        )
        mosaics = self.galleries(results, self.strips, "Mosaics of", caption)
        return [self.draw_means(results), self.draw_gains(results), *mosaics]

    def draw_means(self, results: Sequence[Measured]) -> Chart:
        """Mean gains with intervals, and the paper's."""
        series = [
            (f"over {name}, {title(seam)}", way, other, colour, "o" if seam == HARD else "s")
            for seam, way in self.mosaics.items()
            for name, other, colour in (
                ("its own image", "whole", figures.FULL),
                ("it alone", "alone", figures.OTHERS[0]),
            )
        ]
        series.append(("TTA over it alone", "tta", "alone", figures.ALONE, "o"))
        figure = figures.new_figure(1.4 + 0.2 * (1 + len(series)) * len(results))
        axis = figure.subplots()
        step = 0.72 / (len(series) - 1)
        for row, result in enumerate(results):
            for place, (label, way, other, colour, marker) in enumerate(series):
                interval, y = self.mean(result, way, other), row - 0.36 + step * place
                if interval.known:
                    axis.plot([interval.low, interval.high], [y, y], color=colour, linewidth=2)
                named = label if not row else None
                axis.plot(interval.value, y, marker, color=colour, label=named)
            paper = PAPER.get(result.net.architecture)
            if paper is not None:
                figures.mark_paper(axis, paper[1] - paper[0], row - 0.36)
        axis.axvline(0, color=figures.MUTED, linewidth=0.8)
        figures.name_rows(axis, [r.net.label for r in results])
        axis.set_ylim(len(results) - 0.5, -0.5)
        axis.set_xlabel("mean gain, dB")
        axis.grid(axis="x")
        axis.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=2, fontsize=8.5)
        return Chart(
            "mosaic_means",
            "How much do copies gain on average?",
            "Mean gain of the mosaic over the region in its own image and over the region alone "
            "(squares: the mosaic's copies bridged to the region's rim), and of TTA. Lines: 95 % "
            "intervals. Diamonds: the mosaic's gain over the region's own image in the paper's "
            "Table 2 (200 images of DIV2K, published weights).",
            figure,
        )

    def draw_gains(self, results: Sequence[Measured]) -> Chart:
        """Every region's gain, in order: the mosaic's and TTA's."""
        pairs = [(f"mosaic,\n{title(seam)}", way, "whole") for seam, way in self.mosaics.items()]
        pairs.append(("TTA", "tta", "alone"))
        figure = figures.new_figure(0.4 + 2.1 * len(results))
        axes = figure.subplots(len(results), len(pairs), squeeze=False, sharex=True)
        for row, result in zip(axes, results, strict=True):
            for axis, (name, way, other) in zip(row, pairs, strict=True):
                figures.gains_in_order(axis, gain(result, way, other))
                axis.set_title(f"{figures.short(result.net.label, 26)}\n{name}")
            row[0].set_ylabel("gain, dB")
        figure.supxlabel(
            "regions, from most helped to most hurt", color=figures.MUTED, fontsize=9.5
        )
        return Chart(
            "mosaic_gains",
            "Does it ever harm?",
            "One bar for each region, in descending order. Blue: better; red: worse. The mosaic is "
            "compared with the region's own image, TTA (right) with the region alone. Every plot "
            "has its own scale.",
            figure,
        )

    def strips(self, result: Measured, i: int) -> list[Strip]:
        """One region: photograph, mosaic, ground truth, three results."""
        o, item = self.options, result.items[i]
        picture = {name: result.pictures[item.key, name] for name in self.experiment.shown}
        size = [int(result.columns[name][i]) for name in ("height", "width")]
        box = centre(o.region, *size) if o.size else item.box
        middle = centre(1, o.grid, o.grid)
        shown = self.mosaics[self.experiment.seams[0]]
        names = {"whole": "whole", "mosaic": shown, "tta": "tta"}
        values = {
            way: float(result.columns[f"psnr_{name}"][i])
            for way, name in {**names, "alone": "alone"}.items()
        }
        best = max(values[way] for way in names)

        def panel(way: str) -> Panel:
            detail = f"{values[way]:.2f} dB"
            return Panel(picture[way], self.ways[names[way]], detail, best=values[way] == best)

        return [
            Strip(
                f"{item.image}, at {item.box[0]}, {item.box[1]}",
                [
                    Panel(
                        picture["photograph"], "photograph", "", [Mark.pixels(box, size, "window")]
                    ),
                    Panel(
                        picture["mosaic_lr"],
                        "the mosaic",
                        "",
                        [Mark.pixels(middle, (o.grid, o.grid), "window")],
                    ),
                    Panel(picture["hr"], "ground truth"),
                    *map(panel, names),
                ],
                f"mosaic against its own image {values['mosaic'] - values['whole']:+.2f} dB, "
                f"against the region alone {values['mosaic'] - values['alone']:+.2f} dB",
            )
        ]
