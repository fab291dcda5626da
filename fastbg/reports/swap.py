"""The report of the experiment `swap`: tables, verdicts and figures."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from fastbg.experiments.experiment import Measured, decibels
from fastbg.experiments.groups import SETS
from fastbg.experiments.seams import HARD, Seam, column, title
from fastbg.experiments.swap import ENDS, VIEW, Swap
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
from fastbg.reports.groups import COLOURS, drawn_text, parts, place
from fastbg.reports.seams import NOTE, with_seam
from fastbg.reports.section import ExperimentReport, Summary
from fastbg.stats.intervals import Interval, mean_interval, share_interval


class SwapReport(ExperimentReport):
    """Tables, verdicts and figures of `Swap`."""

    experiment: Swap

    def summarise(self, results: Sequence[Measured]) -> Summary:
        """Rank of the own background, losses in foreign ones, similarity; claims C3 and C4."""
        own_rows: list[list[Cell]] = []
        alike_rows: list[list[Cell]] = []
        verdicts: list[Verdict] = []
        headlines = {}
        for result in results:
            said = []
            for name, seam, part in self.parts(result):
                rank, share, near = rank_of_own(part), self.share(part), nearness(part)
                score = decibels(part, "psnr")
                foreign = score[:, 1:]
                cost = score[:, 0] - foreign.mean(axis=1)
                c3, c4 = with_seam(
                    [self.own_is_best(part, name), self.alike_helps(part, name)], seam
                )
                verdicts += [c3, c4]
                own_rows.append(
                    [
                        result.net.label,
                        SETS[name],
                        title(seam),
                        len(part.items),
                        score.shape[1],
                        share.percent(),
                        float(rank.mean()),
                        float(score[:, 0].mean()),
                        self.mean(cost, part),
                    ]
                )
                alike_rows.append(
                    [
                        result.net.label,
                        SETS[name],
                        title(seam),
                        float((foreign.max(axis=1) - foreign.min(axis=1)).mean()),
                        float(near.best.mean()),
                        float(near.worst.mean()),
                        self.mean(near.worst - near.best, part),
                        100 * float((near.worst > near.best).mean()),
                    ]
                )
                said.append(
                    f"{SETS[name]}, {title(seam)}: own best {share.percent().text(0)} % of "
                    f"{len(part.items)}, "
                    f"C3 {c3.outcome.value}, C4 {c4.outcome.value}"
                )
            headlines[result.net.label] = "; ".join(said)
        own = Table(
            "swap",
            "The own background against foreign ones",
            (
                Column("network"),
                Column("set"),
                Column("seam"),
                Column("foregrounds"),
                Column("backgrounds"),
                Column("own is the best", "%", 0),
                Column("mean rank of the own", "", 1),
                Column("PSNR in the own", "dB"),
                Column("lost in a foreign one", "dB", 2, signed=True),
            ),
            own_rows,
            drawn_text(results[0], self.options) + " Intervals: 95 %, Student's t over "
            f"images. Rank 1 is the highest PSNR. The own background is untouched. {NOTE}",
        )
        alike = Table(
            "swap_alike",
            "Do backgrounds that look like the foreground help?",
            (
                Column("network"),
                Column("set"),
                Column("seam"),
                Column("PSNR, best minus worst background", "dB"),
                Column("texture rank of the best", "%", 0),
                Column("texture rank of the worst", "%", 0),
                Column("worst minus best", "points", 0, signed=True),
                Column("foregrounds whose best look more alike", "%", 0),
            ),
            alike_rows,
            f"Foreign backgrounds only. Best and worst: the {ENDS} with the highest and the lowest "
            "PSNR (fewer if there are few). Texture rank: their mean rank by texture distance, "
            "among the foreground's foreign backgrounds; 0 % the most similar, 100 % the least.",
        )
        return Summary(headlines, [own, alike], verdicts)

    def parts(self, result: Measured) -> Iterator[tuple[str, Seam, Measured]]:
        """The records by set and seam."""
        for name, part in parts(result).items():
            for seam in self.experiment.seams:
                yield name, seam, self.experiment.view(part, seam)

    def mean(self, values: NDArray[np.float64], part: Measured) -> Interval:
        """Mean over foregrounds, interval over images."""
        return mean_interval(values, part.sources)

    def share(self, part: Measured) -> Interval:
        """Share of the foregrounds whose own background is the best.

        The interval is never narrower than so few images allow.
        """
        return share_interval(rank_of_own(part) == 1, part.sources)

    def own_is_best(self, part: Measured, name: str) -> Verdict:
        """C3 for one network and set."""
        share, rank = self.share(part), rank_of_own(part)
        count = 1 + len(part.items[0].partners)
        return Verdict(
            claim="C3",
            statement="Among many backgrounds, a foreground is restored best in its own.",
            net=part.net.label,
            about=SETS[name],
            paper="the own one is preferred among 100 (Fig. 4)",
            ours=f"best of {count} for {int((rank == 1).sum())} of {rank.size} foregrounds: "
            f"{share.percent().text(0)} %; mean rank {rank.mean():.1f}",
            test="Each foreground against itself in all of its backgrounds: holds if the 95 % "
            "interval of the share of foregrounds whose own background gives the highest PSNR "
            f"lies above {100 * self.options.most:g} %, does not hold if it lies below. Where all "
            "or none are, the interval ends at what that many images rule out.",
            outcome=share.compare(self.options.most),
        )

    def alike_helps(self, part: Measured, name: str) -> Verdict:
        """C4 for one network and set."""
        near = nearness(part)
        apart = self.mean(near.worst - near.best, part)
        return Verdict(
            claim="C4",
            statement="Backgrounds that look like the foreground help.",
            net=part.net.label,
            about=SETS[name],
            paper="the best look alike, the worst do not (Figs 4, 5)",
            ours=f"in order of texture distance the best stand at {near.best.mean():.0f} %, the "
            f"worst at {near.worst.mean():.0f} %: {apart.text(0, signed=True)} points",
            test=f"Paired within each foreground, its {ENDS} best foreign backgrounds against its "
            f"{ENDS} worst: holds if the 95 % interval of the difference of their places, by "
            "Gram distance, lies above 0, does not hold if it lies below.",
            outcome=apart.compare(0.0),
        )

    def draw(self, results: Sequence[Measured]) -> list[Chart | Gallery]:
        """How often the own background is best, losses by background, similarity, pictures."""
        first, *others = self.experiment.seams
        return [
            self.draw_shares(results),
            self.draw_costs(results, first),
            *self.draw_cases(results),
            self.draw_likeness(results, first),
            *(draw(results, s) for s in others for draw in (self.draw_costs, self.draw_likeness)),
        ]

    def views(self, results: Sequence[Measured], seam: Seam) -> list[Measured]:
        """The records of all networks for one seam."""
        return [self.experiment.view(result, seam) for result in results]

    def draw_shares(self, results: Sequence[Measured]) -> Chart:
        """How often the own background is the best, with interval and chance."""
        bars = [(r.net.label, *part) for r in results for part in self.parts(r)]
        figure = figures.new_figure(0.9 + 0.36 * len(bars))
        axis = figure.subplots()
        for row, (_, name, seam, part) in enumerate(bars):
            share = self.share(part).percent()
            alpha = 1.0 if seam == HARD else 0.55
            axis.barh(row, share.value, height=0.6, color=COLOURS[name], alpha=alpha, zorder=2)
            ends = [max(share.low, 0), min(share.high, 100)]
            axis.plot(ends, [row, row], color=figures.INK, linewidth=1.4, zorder=3)
            chance = 100 / (1 + len(part.items[0].partners))
            axis.plot([chance] * 2, [row - 0.4, row + 0.4], color=figures.MUTED, zorder=4)
        labels = [
            f"{figures.short(label, 16)}, {SETS[name]}\n{title(seam)}"
            for label, name, seam, _ in bars
        ]
        axis.set_yticks(range(len(bars)), labels, color=figures.INK)
        axis.set_ylim(len(bars) - 0.4, -0.6)
        axis.set_xlim(0, 100)
        axis.set_xlabel("foregrounds restored best in their own background, %")
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", zorder=0)
        return Chart(
            "swap_shares",
            "Is the own background the best?",
            "Bars: share of the foregrounds whose PSNR is highest in their own background. "
            "Pale: with a bridged seam. Black line: 95 % interval. Grey tick: expected by chance.",
            figure,
        )

    def draw_costs(self, results: Sequence[Measured], seam: Seam) -> Chart:
        """Change of PSNR by foreign backgrounds, for each foreground."""
        results = self.views(results, seam)
        names = list(parts(results[0]))
        figure = figures.new_figure(0.6 + 2.0 * len(results))
        axes = figure.subplots(len(results), len(names), squeeze=False, sharey=True)
        for row, result in zip(axes, results, strict=True):
            for axis, (name, part) in zip(row, parts(result).items(), strict=True):
                score = decibels(part, "psnr")
                change = score[:, 1:] - score[:, :1]
                change = change[np.argsort(np.median(change, axis=1))]
                at = np.arange(len(change))
                low, high = change.min(axis=1), change.max(axis=1)
                worse, better = (np.clip([low, high], *ends) for ends in ((None, 0), (0, None)))
                axis.vlines(at, *worse, color=figures.ALONE, linewidth=2)
                axis.vlines(at, *better, color=figures.FULL, linewidth=2)
                axis.plot(at, np.median(change, axis=1), ".", color=figures.INK, markersize=3.5)
                axis.axhline(0, color=figures.MUTED, linewidth=0.8)
                axis.set_title(f"{figures.short(result.net.label, 16)}, {SETS[name]}")
                axis.set_xticks([])
                axis.spines["bottom"].set_visible(False)
                axis.grid(axis="y")
                axis.set_axisbelow(True)
            row[0].set_ylabel("change of PSNR, dB")
        for axis in axes[-1]:
            axis.set_xlabel("foregrounds")
        return Chart(
            column("swap_costs", seam),
            f"How much does a foreign background cost, {title(seam)}?",
            "A line for each foreground, from its worst to its best foreign background; dot: the "
            "median. 0 dB is the own background: red parts are worse, blue parts better.",
            figure,
        )

    def draw_likeness(self, results: Sequence[Measured], seam: Seam) -> Chart:
        """Texture ranks of the best and the worst backgrounds, for each foreground."""
        results = self.views(results, seam)
        figure = figures.new_figure(1.1 + 5.4 / max(2, len(results)), figures.WIDTH)
        axes = figure.subplots(1, len(results), squeeze=False, sharex=True, sharey=True)[0]
        for axis, result in zip(axes, results, strict=True):
            axis.plot([0, 100], [0, 100], color=figures.MUTED, linewidth=0.8)
            for name, part in parts(result).items():
                near = nearness(part)
                style = {"color": COLOURS[name], "alpha": 0.75, "label": SETS[name]}
                axis.plot(near.worst, near.best, "o", **style)
            axis.set_title(figures.short(result.net.label, 36 // len(results)))
            axis.set_xlabel(f"texture rank of\nthe {ENDS} worst, %")
            axis.set_aspect("equal")
            axis.set_xlim(0, 100)
            axis.set_ylim(0, 100)
            axis.grid()
        axes[0].set_ylabel(f"texture rank of\nthe {ENDS} best, %")
        figure.legend(
            *axes[-1].get_legend_handles_labels(),
            loc="outside upper right",
            ncols=2,
            fontsize=8.5,
            handletextpad=0.1,
            columnspacing=0.8,
        )
        return Chart(
            column("swap_likeness", seam),
            f"Do the best backgrounds look more like the foreground than the worst, {title(seam)}?",
            "A dot for each foreground. Its foreign backgrounds are ranked by texture distance "
            f"(0 %: the most similar). Vertical: mean rank of the {ENDS} backgrounds with the "
            f"highest PSNR; horizontal: of the {ENDS} with the lowest. Below the line, the best "
            "backgrounds are more similar than the worst.",
            figure,
        )

    def draw_cases(self, results: Sequence[Measured]) -> list[Gallery]:
        """Best and worst backgrounds of some foregrounds, restored by each network."""
        return self.galleries(
            results,
            self.strips,
            "Best and worst backgrounds for",
            "The restored foreground (white frame) and its surroundings. PSNR is measured in the "
            "frame. For each set, first the foreground on which the background has most influence, "
            "then a median one. Composites: "
            f"{title(self.experiment.seams[0])}.",
            needed=("own",),
        )

    def strips(self, result: Measured, i: int) -> list[Strip]:
        """One foreground: own and best backgrounds, then ground truth and worst backgrounds."""
        result = self.experiment.view(result, self.experiment.seams[0])
        o, item = self.options, result.items[i]
        score = decibels(result, "psnr")[i]
        order = np.argsort(-score[1:], kind="stable")
        ends = {"best": score[1:][order], "worst": score[1:][order[::-1]]}
        side = min(o.size, VIEW * o.region)
        frame = [Mark.pixels(centre(o.region, side, side), (side, side), "window")]
        first = {
            "best": Panel(
                result.pictures[item.key, "own"],
                "own background",
                f"{score[0]:.2f} dB",
                frame,
                best=bool(rank_of_own(result)[i] == 1),
            ),
            "worst": Panel(result.pictures[item.key, "truth"], "ground truth", "", frame),
        }
        rank = int(rank_of_own(result)[i])
        found = []
        for end, scores in ends.items():
            panels = [first[end]]
            for k, value in enumerate(scores[:ENDS]):
                if (item.key, f"{end}_{k}") in result.pictures:
                    picture = result.pictures[item.key, f"{end}_{k}"]
                    panels.append(
                        Panel(picture, f"{end} foreign, {k + 1}", f"{value:.2f} dB", frame)
                    )
            detail = f"; the own has rank {rank} of {score.size}" if end == "best" else ""
            found.append(Strip(place(item), panels, f"{end} foreign backgrounds{detail}"))
        return found


class Nearness(NamedTuple):
    """Mean texture rank (n) of the best and worst foreign backgrounds, in %; 0 most similar."""

    best: NDArray[np.float64]
    worst: NDArray[np.float64]


def rank_of_own(result: Measured) -> NDArray[np.intp]:
    """Rank (n) of PSNR in the own background among all backgrounds; 1 is the highest."""
    score = decibels(result, "psnr")
    return 1 + (score[:, 1:] > score[:, :1]).sum(axis=1)


def nearness(result: Measured) -> Nearness:
    """The `Nearness` of each foreground."""
    score, distance = decibels(result, "psnr")[:, 1:], result.columns["distance"][:, 1:]
    count = score.shape[1]
    places = 100 * (rankdata(distance, axis=1) - 1) / (count - 1)
    order = np.argsort(score, axis=1, kind="stable")
    ends = min(ENDS, count // 2)
    worst = np.take_along_axis(places, order[:, :ends], axis=1).mean(axis=1)
    best = np.take_along_axis(places, order[:, -ends:], axis=1).mean(axis=1)
    return Nearness(best, worst)
