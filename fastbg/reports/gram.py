"""The report of the experiment `gram`: tables, verdicts and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray
from scipy.stats import rankdata

from fastbg.experiments.experiment import Measured, decibels
from fastbg.experiments.gram import Gram
from fastbg.experiments.groups import SETS
from fastbg.experiments.seams import Seam, title
from fastbg.experiments.study import Item
from fastbg.measures.likeness import PAPER, SIMILARITIES, STEP
from fastbg.reports import figures
from fastbg.reports.content import Cell, Chart, Column, Gallery, Table, Verdict
from fastbg.reports.groups import COLOURS, drawn_text, parts
from fastbg.reports.section import ExperimentReport, Summary
from fastbg.stats.correlation import (
    caution,
    kendall,
    partial_spearman,
    pooled_kendall,
    pooled_spearman,
    spearman,
)
from fastbg.stats.intervals import Interval, all_of, mean_interval

Rows = NDArray[np.float64]
Bools = NDArray[np.bool_]
COMBINED = "all of these, fitted"


class GramReport(ExperimentReport):
    """Tables, verdicts and figures of `Gram`."""

    experiment: Gram

    def summarise(self, results: Sequence[Measured]) -> Summary:
        """Correlations of the paper's measure (claim C8); all measures on held-out images."""
        papers: list[list[Cell]] = []
        others: list[list[Cell]] = []
        verdicts: list[Verdict] = []
        headlines = {}
        views = self.views(results)
        results = next(iter(views.values()))
        measures = common_measures(results)
        for result in results:
            for name, part in parts(result).items():
                near, score = likeness(part)[PAPER], foreign_psnr(part)
                within = self.mean(spearman(near, score), part)
                across = pooled_spearman(near, score, part.sources)
                papers.append(
                    [
                        result.net.label,
                        SETS[name],
                        score.size,
                        within,
                        self.mean(kendall(near, score), part),
                        across,
                        pooled_kendall(near, score, part.sources),
                    ]
                )
                verdicts.append(self.no_clear_relation(part, name, within, across))
            contest = self.contest(result)
            for name, entry in contest.items():
                title = SIMILARITIES[name].title if name in SIMILARITIES else COMBINED
                others.append([result.net.label, title, entry.known, entry.held])
            rho = self.mean(spearman(likeness(result)[PAPER], foreign_psnr(result)), result)
            headline = f"Gram distance within foregrounds: rank correlation {rho.text(2)}"
            if contest:
                best = max(measures, key=lambda name, of=contest: of[name].known)  # type: ignore[misc]
                headline += (
                    f"; chosen on one half: {SIMILARITIES[best].title}, on the other half "
                    f"{contest[best].held.text(2)}"
                )
            headlines[result.net.label] = headline
        intervals = "Intervals: 95 %, Student's t over photographs."
        intervals += caution(cell for row in (*papers, *others) for cell in row)
        tables = [
            Table(
                "gram",
                "Gram distance (VGG16, first layer) against PSNR",
                (
                    Column("network"),
                    Column("set"),
                    Column("composites"),
                    Column("within foregrounds: Spearman"),
                    Column("within: Kendall"),
                    Column("across all: Spearman"),
                    Column("across: Kendall"),
                ),
                papers,
                f"{drawn_text(results[0], self.experiment.base.options)} Positive: the more "
                f"similar, the higher the PSNR. {intervals}",
            ),
            Table(
                "gram_similarities",
                "Which measure of likeness predicts PSNR best?",
                (
                    Column("network"),
                    Column("measure"),
                    Column("one half of the images", "", 2, signed=True),
                    Column("held-out half", "", 2, signed=True),
                ),
                others,
                "Mean rank correlation (Spearman) within foregrounds, both sets together. The "
                "images are split into halves with the seed; no image has foregrounds in both. "
                "Choices and fits use the first half only. The last row of each network is a "
                "linear fit of PSNR ranks to the ranks of all measures. " + intervals,
            ),
        ]
        if STEP in measures:
            tables.append(self.given_the_step(results))
        tables += [*self.ceiling(results), *self.by_seam(views)]
        return Summary(headlines, tables, verdicts)

    def views(self, results: Sequence[Measured]) -> dict[Seam, list[Measured]]:
        """The records by the seams of `swap`, with the measures that all networks have.

        Runs by older versions lack measures that were added later.
        """
        swap = self.experiment.base
        lacking = set(SIMILARITIES) - set(common_measures(results))
        kept = [
            replace(each, columns={n: c for n, c in each.columns.items() if n not in lacking})
            for each in results
        ]
        return {seam: [swap.view(result, seam) for result in kept] for seam in swap.seams}

    def by_seam(self, views: Mapping[Seam, Sequence[Measured]]) -> list[Table]:
        """A table of correlations by seam; none if there is only one seam."""
        if len(views) < 2:
            return []
        measured = common_measures(next(iter(views.values())))
        shown = [name for name in (PAPER, STEP) if name in measured]
        rows: list[list[Cell]] = [
            [
                result.net.label,
                SETS[name],
                title(seam),
                *(
                    self.mean(spearman(likeness(part)[measure], foreign_psnr(part)), part)
                    for measure in shown
                ),
            ]
            for seam, results in views.items()
            for result in results
            for name, part in parts(result).items()
        ]
        return [
            Table(
                "gram_by_seam",
                "Does likeness matter when the seam is bridged?",
                (
                    Column("network"),
                    Column("set"),
                    Column("seam"),
                    *(Column(SIMILARITIES[measure].title, "", 2, signed=True) for measure in shown),
                ),
                rows,
                "Mean rank correlation (Spearman) with PSNR within foregrounds, by the seam of the "
                "composites; the step is that of the hard seam. All other tables and figures are "
                f"for the {title(next(iter(views)))}. Intervals: 95 %, Student's t over images.",
            )
        ]

    def given_the_step(self, results: Sequence[Measured]) -> Table:
        """Partial correlations: each measure given the step across the rim, and vice versa."""
        rows: list[list[Cell]] = []
        for result in results:
            near, score = likeness(result), foreign_psnr(result)
            for name, values in near.items():
                if name != STEP:
                    beyond = partial_spearman(values, score, near[STEP])
                    step = partial_spearman(near[STEP], score, values)
                    rows.append(
                        [
                            result.net.label,
                            SIMILARITIES[name].title,
                            self.mean(spearman(values, score), result),
                            self.mean(beyond, result),
                            self.mean(step, result),
                        ]
                    )
        return Table(
            "gram_given_step",
            "What does a measure tell beyond the step across the rim?",
            (
                Column("network"),
                Column("measure"),
                Column("alone", "", 2, signed=True),
                Column("given the step", "", 2, signed=True),
                Column("the step, given it", "", 2, signed=True),
            ),
            rows,
            "Mean rank correlation (Spearman) with PSNR within foregrounds, all images; given "
            "another measure: partial correlation. The step: mean absolute difference between the "
            "foreground's border pixels and the background's pixels beside them. Intervals: "
            "95 %, Student's t over images.",
        )

    def ceiling(self, results: Sequence[Measured]) -> list[Table]:
        """Rank agreement of two networks on good backgrounds, an upper limit for every measure."""
        rows: list[list[Cell]] = [
            [
                one.net.label,
                other.net.label,
                self.mean(spearman(foreign_psnr(one), foreign_psnr(other)), one),
            ]
            for one, other in combinations(results, 2)
        ]
        if not rows:
            return []
        return [
            Table(
                "gram_ceiling",
                "How far do two networks agree on which backgrounds are good?",
                (Column("network"), Column("other"), Column("rank correlation", "", 2)),
                rows,
                "Mean rank correlation (Spearman) of both networks' PSNR within foregrounds: about "
                "the limit for measures that do not use the network. Intervals: 95 %, "
                "Student's t over images.",
            )
        ]

    def mean(self, values: Rows, part: Measured) -> Interval:
        """Mean over foregrounds, interval over images."""
        return mean_interval(values, part.sources).clipped(-1, 1)

    def no_clear_relation(
        self, part: Measured, name: str, within: Interval, across: Interval
    ) -> Verdict:
        """C8 for one network and set."""
        limit = self.options.clear
        return Verdict(
            claim="C8",
            statement="The Gram distance (VGG16, first layer) between foreground and background "
            "has no clear relation with the foreground's PSNR.",
            net=part.net.label,
            about=SETS[name],
            paper="no clear relation",
            ours=f"rank correlation across all composites {across.text(2, signed=True)}, within "
            f"foregrounds {within.text(2, signed=True)}",
            test=f"Holds if the 95 % intervals of both rank correlations (Spearman) lie between "
            f"-{limit:g} and +{limit:g}, does not hold if either lies beyond.",
            outcome=all_of(interval.within(limit) for interval in (within, across)),
        )

    def contest(self, result: Measured) -> "dict[str, Entry]":
        """Each measure's correlation within foregrounds, on both halves of the images.

        The first half is for choosing and fitting, the held-out half for testing. Empty if there
        is no image to hold out.
        """
        known, held = halves(result.items, self.experiment.seed)
        if not held.any():
            return {}
        near, score = likeness(result), foreign_psnr(result)
        found = {
            name: self.entry(spearman(values, score), result, known, held)
            for name, values in near.items()
        }
        ranks = np.stack([centred_ranks(values) for values in near.values()], axis=-1)  # [n,K,M]
        target = centred_ranks(score)
        weights = np.linalg.lstsq(
            ranks[known].reshape(-1, ranks.shape[-1]), target[known].ravel(), rcond=None
        )[0]
        found[COMBINED] = self.entry(spearman(ranks @ weights, score), result, known, held)
        return found

    def entry(self, rho: Rows, result: Measured, known: Bools, held: Bools) -> "Entry":
        """Means of `rho` (n) over both halves."""
        sources_held = [s for s, chosen in zip(result.sources, held, strict=True) if chosen]
        return Entry(
            float(rho[known].mean()), mean_interval(rho[held], sources_held).clipped(-1, 1)
        )

    def draw(self, results: Sequence[Measured]) -> list[Chart | Gallery]:
        """All composites, across and within foregrounds; then all measures side by side."""
        results = next(iter(self.views(results).values()))
        contests = [self.contest(result) for result in results]
        charts: list[Chart | Gallery] = [self.draw_scatter(results)]
        return [*charts, self.draw_contest(results, contests)] if all(contests) else charts

    def draw_scatter(self, results: Sequence[Measured]) -> Chart:
        """The paper's question: likeness against PSNR."""
        figure = figures.new_figure(0.9 + 2.3 * len(results))
        axes = figure.subplots(len(results), 2, squeeze=False)
        for (left, right), result in zip(axes, results, strict=True):
            for name, part in parts(result).items():
                near, score = likeness(part)[PAPER], foreign_psnr(part)
                place = 100 * (rankdata(-near, axis=1) - 1) / (near.shape[1] - 1)
                looks = {"color": COLOURS[name], "alpha": 0.35, "rasterized": True}
                floor = np.where(near < 0, -near, np.nan)  # the axis is logarithmic
                left.plot(floor.ravel(), score.ravel(), ".", markersize=3, **looks)
                change = score - score.mean(axis=1, keepdims=True)
                right.plot(place.ravel(), change.ravel(), ".", markersize=3, **looks)
                order = np.sort(place, axis=1)[0]
                mean = np.take_along_axis(change, np.argsort(-near, axis=1), axis=1).mean(axis=0)
                right.plot(order, mean, color=COLOURS[name], linewidth=1.8, label=SETS[name])
            left.set_xscale("log")
            left.xaxis.set_major_formatter("{x:g}")
            left.xaxis.set_minor_formatter(NullFormatter())
            left.set_ylabel("PSNR, dB")
            left.set_title(f"{figures.short(result.net.label, 14)}, across")
            right.set_ylabel("PSNR minus its mean, dB")
            right.set_title("within foregrounds")
            for axis in (left, right):
                axis.grid()
                axis.set_axisbelow(True)
        axes[0, 1].legend(loc="upper right", fontsize=8.5)
        axes[-1, 0].set_xlabel("Gram distance")
        axes[-1, 1].set_xlabel("rank by Gram distance, %")
        return Chart(
            "gram_scatter",
            "Does the Gram distance tell how well a foreground is restored?",
            "A dot for each composite. Left: distance between foreground and background against "
            "the foreground's PSNR. Right: the same within each foreground, with its backgrounds "
            "ranked by distance (0 %: the most similar) and PSNR minus the foreground's mean; the "
            "lines are means over foregrounds. If a measure predicts PSNR, they fall to the right.",
            figure,
        )

    def draw_contest(
        self, results: Sequence[Measured], contests: "Sequence[dict[str, Entry]]"
    ) -> Chart:
        """Held-out correlation of every measure."""
        names = [*common_measures(results), COMBINED]
        figure = figures.new_figure(1.2 + 0.34 * len(names))
        axes = figure.subplots(1, len(results), squeeze=False, sharex=True, sharey=True)[0]
        for axis, result, contest in zip(axes, results, contests, strict=True):
            for row, name in enumerate(names):
                held = contest[name].held
                colour = figures.FULL if name != PAPER else figures.ALONE
                axis.barh(row, held.value, height=0.6, color=colour, zorder=2)
                if held.known:
                    axis.plot([held.low, held.high], [row, row], color=figures.INK, zorder=3)
                looks = {"color": figures.PAPER, "markeredgecolor": figures.INK, "markersize": 5}
                axis.plot(contest[name].known, row, "D", zorder=4, **looks)
            axis.axvline(0, color=figures.MUTED, linewidth=0.8)
            axis.set_title(figures.short(result.net.label, 30 // len(results)))
            axis.set_xlabel("rank correlation")
            axis.tick_params(axis="y", length=0)
            axis.grid(axis="x", zorder=0)
        titles = [SIMILARITIES[n].title if n in SIMILARITIES else n for n in names]
        axes[0].set_yticks(range(len(names)), titles, color=figures.INK)
        axes[0].invert_yaxis()
        return Chart(
            "gram_similarities",
            "Which measure of likeness predicts PSNR best?",
            "Mean rank correlation of likeness and PSNR within foregrounds, on the held-out half "
            "of the images; line: 95 % interval; diamond: the same on the other half, where the "
            "last row was fitted. Red: the paper's measure.",
            figure,
        )


@dataclass(frozen=True)
class Entry:
    """A measure's mean correlation on one half of the images, and on the held-out half."""

    known: float
    held: Interval


def likeness(result: Measured) -> Mapping[str, Rows]:
    """For each measure minus the distances to the foreign backgrounds (n,K-1)."""
    return {name: -result.columns[name][:, 1:] for name in common_measures([result])}


def common_measures(results: Sequence[Measured]) -> list[str]:
    """The measures that all results have; runs by older versions may lack some."""
    return [name for name in SIMILARITIES if all(name in each.columns for each in results)]


def foreign_psnr(result: Measured) -> Rows:
    """PSNR in the foreign backgrounds (n,K-1), dB."""
    return decibels(result, "psnr")[:, 1:]


def centred_ranks(values: Rows) -> Rows:
    """Ranks of the values in each row, minus their mean."""
    ranks: Rows = rankdata(values, axis=1)
    return ranks - ranks.mean(axis=1, keepdims=True)


def halves(items: Sequence[Item], seed: int) -> tuple[Bools, Bools]:
    """Splits each set's images into two halves: masks (n) of the items in each half."""
    first: set[str] = set()
    for name in SETS:
        images = sorted({item.source for item in items if item.set == name})
        order = np.random.default_rng(seed).permutation(len(images))
        first |= {images[i] for i in order[: (len(images) + 1) // 2]}
    known = np.array([item.source in first for item in items])
    return known, ~known
