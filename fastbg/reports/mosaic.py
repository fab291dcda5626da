"""The report of the experiment `mosaic`: tables, verdicts and figures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastbg.experiments.experiment import Measured, decibels
from fastbg.experiments.mosaic import Mosaic, gain
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
from fastbg.reports.section import ExperimentReport, Summary
from fastbg.stats.intervals import Interval, mean_interval, never_seen

# Mean PSNR (dB) of the region in its own image and in the mosaic (Table 2).
PAPER = {"edsr": (23.02, 23.28), "rcan": (23.11, 23.39), "swinir": (23.24, 23.33)}
# How a region is restored: column of the records, and its name in tables.
WAYS = {
    "whole": "in its own image",
    "alone": "the region alone",
    "mosaic": "in the mosaic",
    "tta": "test-time augmentation",
}
TOLERATED = 0.10  # an event that is rarer than this, at 95 %, counts as one that never happens


class MosaicReport(ExperimentReport):
    """Tables, verdicts and figures of `Mosaic`."""

    experiment: Mosaic

    def summarise(self, results: Sequence[Measured]) -> Summary:
        """Gains and harm of each way, what each costs, claim C9."""
        rows, headlines = [], {}
        verdicts: list[Verdict] = []
        for result in results:
            paper = PAPER.get(result.net.architecture)
            published = {"whole": paper and paper[0], "mosaic": paper and paper[1]}
            for way, title in WAYS.items():
                against = [
                    None if way == other else value
                    for other in ("whole", "alone")
                    for value in (self.mean(result, way, other), self.harm(result, way, other))
                ]
                mean = float(decibels(result, f"psnr_{way}").mean())
                rows.append((result.net.label, title, mean, published.get(way), *against))
            both = [
                self.raises(result),
                self.never_harms(result),
                self.little(result),
                self.can_harm(result),
            ]
            verdicts += both
            headlines[result.net.label] = (
                f"mosaic {self.mean(result, 'mosaic', 'whole').text(2, signed=True)} dB against "
                f"its own image, TTA {self.mean(result, 'tta', 'alone').text(2, signed=True)} dB "
                f"against alone; C9 {' / '.join(v.outcome.value for v in both)}"
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
        table = Table("mosaic", "Region restored in four ways, by network", columns, rows, note)
        return Summary(headlines, [table, self.inner(results), self.costs(results[0])], verdicts)

    def inner(self, results: Sequence[Measured]) -> Table:
        """What the seams have to do with it: mean gains in the whole region and in its middle."""
        pairs = (("mosaic", "whole"), ("mosaic", "alone"), ("tta", "alone"))
        names = ("mosaic over its own image", "mosaic over alone", "TTA over alone")
        columns = [Column("network"), Column("part")]
        columns += [Column(name, "dB", 3, signed=True) for name in names]

        def means(result: Measured, part: str) -> list[Interval]:
            gains = (gain(result, *pair, part) for pair in pairs)
            return [mean_interval(values, result.sources) for values in gains]

        rows: list[Sequence[Cell]] = [
            (result.net.label, title, *means(result, part))
            for result in results
            for part, title in (("psnr", "region"), ("inner", "inner half"))
        ]
        note = "Copies do not fit to the region at its border. The inner half is far from there."
        return Table("mosaic_inner", "Is it the seams?", columns, rows, note)

    def costs(self, result: Measured) -> Table:
        """Network calls and LR pixels of each way, for one region."""
        o, copies = self.options, self.options.grid**2
        enlarged = [*family(o.tta == "zooms").values()]
        around = (result.columns["height"] * result.columns["width"]).mean() / o.region**2
        costs = {
            "whole": (1, float(around)),
            "alone": (1, 1.0),
            "mosaic": (1, float(copies)),
            "tta": (copies, copies * float(np.mean(enlarged))),
        }
        note = (
            "Pixels: those that the network is given, in multiples of the region's. fastbg does "
            f"with less: TTA's {copies} calls are {len(enlarged)} different ones, and of the own "
            "image and the mosaic it works out what the region can see of them."
        )
        columns = (
            Column("restored"),
            Column("network calls"),
            Column("pixels given", "regions", 1),
        )
        rows = [(title, *costs[way]) for way, title in WAYS.items()]
        return Table("mosaic_cost", "What a region costs", columns, rows, note)

    def mean(self, result: Measured, way: str, other: str) -> Interval:
        """Mean gain of one way over another, paired, dB."""
        return mean_interval(gain(result, way, other), result.sources)

    def harmed(self, result: Measured, way: str, other: str) -> NDArray[np.bool_]:
        """Which regions (n) one way restores worse than another."""
        return gain(result, way, other) < -self.options.harm

    def harm(self, result: Measured, way: str, other: str) -> float:
        """Their share, %."""
        return 100 * float(self.harmed(result, way, other).mean())

    def raises(self, result: Measured) -> Verdict:
        """C9, the mean gain."""
        paper = PAPER.get(result.net.architecture)
        interval = self.mean(result, "mosaic", "whole")
        whole, mosaiced = (decibels(result, f"psnr_{way}").mean() for way in ("whole", "mosaic"))
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

    def never_harms(self, result: Measured) -> Verdict:
        """C9, no risk."""
        harmed = self.harmed(result, "mosaic", "whole")
        worst = gain(result, "mosaic", "whole").min()
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
        """C9, what TTA gains."""
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
        """C9, TTA's risk."""
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
        """Mean gains beside the paper's, every region's gain in order, mosaics to look at."""
        caption = (
            "White: the region. The mosaic is shown as the network gets it. First where the mosaic "
            "gains most over the region's own image, then where it loses most; the best of the "
            "three results is in bold."
        )
        mosaics = self.galleries(results, self.strips, "Mosaics of", caption)
        return [self.draw_means(results), self.draw_gains(results), *mosaics]

    def draw_means(self, results: Sequence[Measured]) -> Chart:
        """Mean gain with its interval, the paper's beside it."""
        figure = figures.new_figure(1.2 + 0.75 * len(results))
        axis = figure.subplots()
        series = (
            ("mosaic over its own image", "mosaic", "whole", figures.FULL),
            ("mosaic over the region alone", "mosaic", "alone", figures.OTHERS[0]),
            ("TTA over the region alone", "tta", "alone", figures.ALONE),
        )
        for row, result in enumerate(results):
            for place, (label, way, other, colour) in enumerate(series):
                interval, y = self.mean(result, way, other), row + 0.24 * (place - 1)
                if interval.known:
                    axis.plot([interval.low, interval.high], [y, y], color=colour, linewidth=2)
                axis.plot(interval.value, y, "o", color=colour, label=label if not row else None)
            paper = PAPER.get(result.net.architecture)
            if paper is not None:
                figures.mark_paper(axis, paper[1] - paper[0], row - 0.24)
        axis.axvline(0, color=figures.MUTED, linewidth=0.8)
        figures.name_rows(axis, [r.net.label for r in results])
        axis.set_ylim(len(results) - 0.5, -0.5)
        axis.set_xlabel("mean gain, dB")
        axis.grid(axis="x")
        axis.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=2, fontsize=8.5)
        return Chart(
            "mosaic_means",
            "What do copies bring on average?",
            "Dots: mean gain over all regions. Lines: 95 % intervals. Diamonds: the mosaic's gain "
            "over the region's own image in the paper's Table 2 (200 images of DIV2K, published "
            "weights).",
            figure,
        )

    def draw_gains(self, results: Sequence[Measured]) -> Chart:
        """Every region's gain, in order: the mosaic's and TTA's."""
        figure = figures.new_figure(0.4 + 2.1 * len(results))
        axes = figure.subplots(len(results), 2, squeeze=False, sharex=True)
        pairs = (
            ("mosaic over own image", "mosaic", "whole"),
            ("TTA over alone", "tta", "alone"),
        )
        for row, result in zip(axes, results, strict=True):
            for axis, (title, way, other) in zip(row, pairs, strict=True):
                figures.gains_in_order(axis, gain(result, way, other))
                axis.set_title(f"{figures.short(result.net.label, 26)}\n{title}")
            row[0].set_ylabel("gain, dB")
        figure.supxlabel(
            "regions, from most helped to most hurt", color=figures.MUTED, fontsize=9.5
        )
        return Chart(
            "mosaic_gains",
            "Does it ever harm?",
            "One bar per region, in descending order. Blue: it came out better; red: worse. Left: "
            "the mosaic against the region's own image. Right: TTA against the region alone. "
            "Every plot has its own scale.",
            figure,
        )

    def strips(self, result: Measured, i: int) -> list[Strip]:
        """One region: its place, the mosaic, ground truth, three results."""
        o, item = self.options, result.items[i]
        picture = {name: result.pictures[item.key, name] for name in self.experiment.shown}
        size = [int(result.columns[name][i]) for name in ("height", "width")]
        box = centre(o.region, *size) if o.size else item.box
        middle = centre(1, o.grid, o.grid)
        values = {way: float(result.columns[f"psnr_{way}"][i]) for way in WAYS}
        best = max(values[way] for way in ("whole", "mosaic", "tta"))

        def panel(way: str) -> Panel:
            detail = f"{values[way]:.2f} dB"
            return Panel(picture[way], WAYS[way], detail, best=values[way] == best)

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
                    *(panel(way) for way in ("whole", "mosaic", "tta")),
                ],
                f"mosaic against its own image {values['mosaic'] - values['whole']:+.2f} dB, "
                f"against the region alone {values['mosaic'] - values['alone']:+.2f} dB",
            )
        ]
