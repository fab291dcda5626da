"""The report of the experiment `seam`: tables, verdicts and figures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastbg.experiments.experiment import Measured, decibels
from fastbg.experiments.groups import SETS
from fastbg.experiments.seam import TAUS, VIEW, WAYS, Seam
from fastbg.geometry import centre
from fastbg.reports import figures
from fastbg.reports.content import Cell, Chart, Column, Gallery, Mark, Panel, Strip, Table, Verdict
from fastbg.reports.groups import COLOURS, drawn_text, parts, place
from fastbg.reports.section import ExperimentReport, Summary
from fastbg.stats.intervals import Interval, all_of, mean_interval

JUDGED = "bridged_4"  # the way that C11 tests
TITLES = {
    "hard": "hard seam",
    "mean": "shifted to the mean",
    **{f"bridged_{tau}": f"bridged, {tau} pixels" for tau in TAUS},
    "elsewhere": "to another's rim",
}


class SeamReport(ExperimentReport):
    """Tables, verdicts and figures of `Seam`."""

    experiment: Seam

    def summarise(self, results: Sequence[Measured]) -> Summary:
        """Loss of PSNR in foreign backgrounds for each way of composing; claim C11."""
        rows: list[list[Cell]] = []
        verdicts: list[Verdict] = []
        headlines = {}
        for result in results:
            said = []
            for name, part in parts(result).items():
                costs = {way: mean_interval(change(part, way), part.sources) for way in WAYS}
                own = mean_interval(decibels(part, "hard")[:, 0], part.sources)
                rows.append([result.net.label, SETS[name], len(part.items), own, *costs.values()])
                verdict = self.seam_is_most(part, name, costs)
                verdicts.append(verdict)
                said.append(
                    f"{SETS[name]}: {costs['hard'].text(2, signed=True)} dB, bridged "
                    f"{costs[JUDGED].text(2, signed=True)} dB; C11 {verdict.outcome.value}"
                )
            headlines[result.net.label] = "; ".join(said)
        table = Table(
            "seam",
            "What do foreign backgrounds change, by the way they are composed?",
            (
                Column("network"),
                Column("set"),
                Column("foregrounds"),
                Column("PSNR in the own background", "dB"),
                *(Column(TITLES[way], "dB", signed=True) for way in WAYS),
            ),
            rows,
            "Mean change of PSNR from the unchanged own background. Shifted: the background is "
            "shifted to the foreground's mean colour. To another's rim: bridged over 4 pixels to "
            "the rim of another foreground, as a control. "
            f"{drawn_text(results[0], self.options)} Intervals: 95 %, Student's t over "
            "photographs.",
        )
        return Summary(headlines, [table], verdicts)

    def seam_is_most(self, part: Measured, name: str, costs: dict[str, Interval]) -> Verdict:
        """C11 for one network and set."""
        hard, bridged, most = costs["hard"], costs[JUDGED], self.options.most
        # Bridging removes more than the share `most` if the remaining loss is below 1 - most of it.
        more = change(part, JUDGED) - (1 - most) * change(part, "hard")
        removed = 1 - bridged.value / hard.value if hard.value < 0 else float("nan")
        return Verdict(
            claim="C11",
            statement="Most of what a foreign background costs is its seam.",
            net=part.net.label,
            about=SETS[name],
            paper="not asked",
            ours=f"hard seam {hard.text(2, signed=True)} dB, bridged over 4 pixels "
            f"{bridged.text(2, signed=True)} dB: {removed:.0%} of the loss is removed",
            test=f"Paired over foregrounds: holds if foreign backgrounds cost something and "
            f"bridging removes more than {most:.0%} of it (95 % intervals of the mean loss, and "
            f"of the bridged loss less {1 - most:.0%} of the hard one), does not hold if one of "
            "them lies on the other side.",
            outcome=all_of(
                (
                    mean_interval(-change(part, "hard"), part.sources).compare(0.0),
                    mean_interval(more, part.sources).compare(0.0),
                )
            ),
        )

    def draw(self, results: Sequence[Measured]) -> list[Chart | Gallery]:
        """Costs by way of composing, errors by distance to the rim, pictures."""
        return [
            self.draw_costs(results),
            *self.galleries(
                results,
                self.strips,
                "One foreground in one background, along the bridge's length:",
                "High-resolution composites, before down-sampling to the network's input: the "
                "foreground (white frame) in its own background, then in the foreign one with the "
                "largest loss.",
            ),
            self.draw_excess(results),
        ]

    def draw_costs(self, results: Sequence[Measured]) -> Chart:
        """Mean change of PSNR by way of composing."""
        figure = figures.new_figure(1.0 + 0.42 * len(WAYS))
        axes = figure.subplots(1, len(results), squeeze=False, sharex=True, sharey=True)[0]
        for axis, result in zip(axes, results, strict=True):
            groups = parts(result)
            for number, (name, part) in enumerate(groups.items()):
                shift = 0.36 * (number - (len(groups) - 1) / 2)
                for row, way in enumerate(WAYS):
                    cost = mean_interval(change(part, way), part.sources)
                    label = SETS[name] if row == 0 else None
                    axis.barh(
                        row + shift, cost.value, 0.32, color=COLOURS[name], label=label, zorder=2
                    )
                    if cost.known:
                        ends = [cost.low, cost.high]
                        axis.plot(ends, [row + shift] * 2, color=figures.INK, zorder=3)
            axis.axvline(0, color=figures.MUTED, linewidth=0.8)
            axis.set_title(figures.short(result.net.label, 30 // len(results)))
            axis.set_xlabel("change of PSNR, dB")
            axis.tick_params(axis="y", length=0)
            axis.grid(axis="x", zorder=0)
        axes[0].set_yticks(range(len(WAYS)), [TITLES[way] for way in WAYS], color=figures.INK)
        axes[0].invert_yaxis()
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
        return Chart(
            "seam_costs",
            "How much of the loss remains without the seam?",
            "Bars: mean change of PSNR from the own background; line: 95 % interval. Shifted: the "
            "background is shifted to the foreground's mean colour. Last row, the control: an "
            "equally smooth background, bridged to the rim of another foreground.",
            figure,
        )

    def draw_excess(self, results: Sequence[Measured]) -> Chart:
        """Squared error by distance to the rim."""
        figure = figures.new_figure(2.6)
        axes = figure.subplots(1, len(results), squeeze=False, sharex=True, sharey=True)[0]
        for axis, result in zip(axes, results, strict=True):
            for name, part in parts(result).items():
                mean = part.columns["excess"].mean(axis=0)
                axis.plot(
                    np.arange(mean.size) + 0.5, mean, "o-", color=COLOURS[name], label=SETS[name]
                )
            axis.axhline(0, color=figures.MUTED, linewidth=0.8)
            axis.set_title(figures.short(result.net.label, 36 // len(results)))
            axis.set_xlabel("distance to\nthe rim, HR pixels")
            axis.grid()
        axes[0].set_ylabel("excess squared\nerror, levels²")
        axes[-1].legend(fontsize=8)
        return Chart(
            "seam_excess",
            "Where in the foreground does a foreign background hurt?",
            "Mean squared error in foreign backgrounds with a hard seam minus that in the own "
            "background, by distance to the foreground's rim.",
            figure,
        )

    def strips(self, result: Measured, i: int) -> list[Strip]:
        """One foreground: own background, then the worst foreign one by way of composing."""
        o, item = self.options, result.items[i]
        side = min(o.size, VIEW * o.region)
        frame = [Mark.pixels(centre(o.region, side, side), (side, side), "window")]
        worst = 1 + int(np.argmin(result.columns["hard"][i, 1:]))
        panels = []
        for name in self.experiment.shown:
            way = name.removeprefix("composite_")
            score = decibels(result, "hard" if way == "own" else way)[i]
            value = score[0] if way == "own" else score[worst]
            title = "own background" if way == "own" else TITLES[way]
            panels.append(Panel(result.pictures[item.key, name], title, f"{value:.2f} dB", frame))
        return [Strip(place(item), panels)]


def change(result: Measured, way: str) -> NDArray[np.float64]:
    """Mean over foreign backgrounds of PSNR minus that in the own background, dB (n)."""
    own = decibels(result, "hard")[:, :1]
    found: NDArray[np.float64] = (decibels(result, way)[:, 1:] - own).mean(axis=1)
    return found
