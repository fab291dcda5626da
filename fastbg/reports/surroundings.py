"""The report of the experiment `surroundings`: tables, verdicts and figures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastbg.experiments.experiment import (
    Measured,
    decibels,
)
from fastbg.experiments.surroundings import Surroundings
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
from fastbg.stats.intervals import Interval, mean_interval, share_interval

COLOURS = (figures.FULL, figures.ALONE, *figures.OTHERS)


class SurroundingsReport(ExperimentReport):
    """Tables, verdicts and figures of `Surroundings`."""

    experiment: Surroundings

    def spread(self, result: Measured) -> NDArray[np.float64]:
        """Best minus worst PSNR of all margins, dB (n)."""
        scores = np.stack(
            [decibels(result, f"psnr_{margin}") for margin in self.experiment.margins]
        )
        return np.ptp(scores, axis=0)

    def share(self, result: Measured) -> Interval:
        """Share of the windows restored better with fewer surroundings, by more than `gap`."""
        better = self.experiment.regret(result) > self.options.gap
        return share_interval(better, result.sources)

    def summarise(self, results: Sequence[Measured]) -> Summary:
        """PSNR by margin; how often fewer surroundings are better."""
        columns = [
            Column("network"),
            Column("windows"),
            Column("mean PSNR, window alone", "dB"),
            *(
                Column(f"gain, {m} pixels around", "dB", signed=True)
                for m in self.experiment.margins[1:]
            ),
            Column("better with fewer", "%", 1),
            Column("best minus worst, mean", "dB"),
            Column("best minus worst, largest", "dB"),
        ]
        rows: list[tuple[Cell, ...]] = []
        headlines, verdicts = {}, []
        for result in results:
            share, spread = self.share(result), self.spread(result)
            rows.append(
                (
                    result.net.label,
                    len(result.items),
                    float(decibels(result, "psnr_0").mean()),
                    *(self.mean_gain(result, margin) for margin in self.experiment.margins[1:]),
                    share.percent(),
                    mean_interval(spread, result.sources),
                    float(spread.max()),
                )
            )
            verdict = self.not_always_useful(result, share)
            verdicts.append(verdict)
            gain = self.mean_gain(result, self.experiment.margins[-1])
            headlines[result.net.label] = (
                f"{self.experiment.margins[-1]} pixels around gain {gain.text(2, signed=True)} dB, "
                f"fewer are better for {share.percent().text()} %; C1 {verdict.outcome.value}"
            )
        note = (
            f"Better with fewer: windows for which a smaller margin is better than the largest, "
            f"by more than {self.options.gap:g} dB. Best minus worst: over all margins. "
            "Intervals: 95 %, Student's t over photographs."
        )
        title = "PSNR of the window, by its surroundings"
        return Summary(
            headlines, [Table(self.experiment.name, title, columns, rows, note)], verdicts
        )

    def mean_gain(self, result: Measured, margin: int) -> Interval:
        """Mean of `gain`."""
        return mean_interval(self.experiment.gain(result, margin), result.sources)

    def not_always_useful(self, result: Measured, share: Interval) -> Verdict:
        """C1, as Fig. 1 introduces it."""
        o = self.options
        return Verdict(
            claim="C1",
            statement="More surroundings are not always better: many windows are restored best "
            "with fewer of them.",
            net=result.net.label,
            paper="one example",
            ours=f"{share.percent().text()} % of the windows lose more than {o.gap:g} dB with "
            f"{self.experiment.margins[-1]} pixels around, against fewer",
            test=f"Holds if the 95 % interval of that share lies above {100 * o.many:g} %, does "
            "not hold if it lies below.",
            outcome=share.compare(o.many),
        )

    def draw(self, results: Sequence[Measured]) -> list[Chart | Gallery]:
        """The clearest cases as in Fig. 1, and the gain of every window by margin."""
        return [*self.pictures(results), self.draw_gains(results)]

    def draw_gains(self, results: Sequence[Measured]) -> Chart:
        """A thin line for each window, and the mean with its interval."""
        figure = figures.new_figure(0.5 + 2.3 * len(results))
        axes = figure.subplots(len(results), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
        x = np.arange(len(self.experiment.margins))
        curves = [
            np.stack([self.experiment.gain(result, margin) for margin in self.experiment.margins])
            for result in results
        ]
        low, high = np.percentile(np.concatenate(curves), [1, 99])  # of the axis that all share
        axes[0].set_ylim(min(low, -0.1) - 0.1, max(high, 0.1) + 0.1)
        for number, (axis, result, gains) in enumerate(zip(axes, results, curves, strict=True)):
            colour = COLOURS[number % len(COLOURS)]
            axis.plot(x, gains, color=figures.MUTED, linewidth=0.5, alpha=0.35)
            axis.axhline(0, color=figures.MUTED, linewidth=0.8)
            means = [self.mean_gain(result, margin) for margin in self.experiment.margins]
            axis.plot(x, [m.value for m in means], color=colour, marker="o", markersize=4)
            for place, interval in zip(x, means, strict=True):
                if interval.known:
                    axis.vlines(place, interval.low, interval.high, color=colour, linewidth=1.6)
            figures.mark_clipped(axis, gains)
            axis.set_title(figures.short(result.net.label, 60))
            axis.set_ylabel("gain, dB")
            axis.grid(axis="y")
        axes[-1].set_xticks(x, [str(margin) for margin in self.experiment.margins])
        axes[-1].set_xlabel("HR pixels of surroundings on each side of the window")
        return Chart(
            "surroundings_gains",
            "How much do more surroundings gain?",
            "PSNR of the window minus that of the window alone. Thin: each window. Thick: the mean "
            "with its 95 % interval. Where a line falls, more surroundings make the result worse.",
            figure,
        )

    def pictures(self, results: Sequence[Measured]) -> list[Gallery]:
        """The clearest cases of each network."""
        return self.galleries(
            results,
            self.strips,
            "One window, growing surroundings:",
            "White: the window. Yellow: the inputs with more and more surroundings. Then the "
            "window restored from each of them; the best is in bold. First the windows in which "
            "the largest input loses most, then those in which it gains most.",
        )

    def strips(self, result: Measured, i: int) -> list[Strip]:
        """One window: its position, its ground truth, and the result for each margin."""
        item, window, size = result.items[i], self.options.window, self.experiment.size
        hr = result.pictures[item.key, "hr"]
        crops = np.split(result.pictures[item.key, "crops"], len(self.experiment.margins), axis=1)
        scores = [float(result.columns[f"psnr_{margin}"][i]) for margin in self.experiment.margins]
        y0, x0, y1, x1 = inside = centre(window, size, size)
        inputs = [
            centre(window + 2 * margin, size, size) for margin in self.experiment.margins[1:-1]
        ]
        marks = [Mark.pixels(given, (size, size), "input") for given in reversed(inputs)]
        panels = [
            Panel(hr, "ground truth", "", [*marks, Mark.pixels(inside, (size, size), "window")]),
            Panel(hr[y0:y1, x0:x1], "the window", ""),
        ]
        for margin, crop, score in zip(self.experiment.margins, crops, scores, strict=True):
            title = f"{margin} pixels around" if margin else "window alone"
            panels.append(Panel(crop, title, f"{score:.2f} dB", (), score == max(scores)))
        loss = max(scores) - scores[-1]
        gain = scores[-1] - scores[0]
        return [
            Strip(
                f"{item.image}, at {item.box[0]}, {item.box[1]}",
                panels,
                f"all surroundings: {gain:+.2f} dB against none, {-loss:+.2f} dB against the best",
            )
        ]
