"""The report of the experiment `table1`: tables, verdicts and figures."""

from collections.abc import Sequence

from fastbg.experiments.experiment import Measured, decibels
from fastbg.experiments.table1 import Table1, gain
from fastbg.geometry import centre
from fastbg.reports import figures
from fastbg.reports.content import (
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
from fastbg.stats.intervals import Interval, mean_interval, share_difference, share_interval

# Of 150 regions: restored better with the full image, better alone (Table 1).
PAPER = {"edsr": (88, 62), "rcan": (117, 33), "swinir": (111, 39)}
ATTENTION = ("rcan", "swinir")


class Table1Report(ExperimentReport):
    """Tables, verdicts and figures of `Table1`."""

    experiment: Table1

    def summarise(self, results: Sequence[Measured]) -> Summary:
        """Counts, means, shares; claim C1."""
        columns = (
            Column("network"),
            Column("images"),
            Column("better with the full image"),
            Column("better alone"),
            Column("equal"),
            Column("share better alone", "%", 1),
            Column("the paper's share", "%", 1),
            Column("mean PSNR, full image", "dB"),
            Column("mean PSNR, alone", "dB"),
            Column("background's gain", "dB", 3, signed=True),
        )
        rows, headlines = [], {}
        verdicts: list[Verdict] = []
        for result in results:
            gains, share = gain(result), self.share(result)
            full, partial, equal = (
                int(n) for n in ((gains > 0).sum(), (gains < 0).sum(), (gains == 0).sum())
            )
            paper = PAPER.get(result.net.architecture)
            rows.append(
                (
                    result.net.label,
                    gains.size,
                    full,
                    partial,
                    equal,
                    share.percent(),
                    None if paper is None else 100 * paper[1] / sum(paper),
                    float(decibels(result, "psnr_full").mean()),
                    float(decibels(result, "psnr_partial").mean()),
                    mean_interval(gains, result.sources),
                )
            )
            verdict = self.not_always_useful(result, share, partial)
            verdicts.append(verdict)
            headlines[result.net.label] = (
                f"full better {full}, alone better {partial} of {gains.size} "
                f"({share.percent().text()} %); C1 {verdict.outcome.value}"
            )
        verdicts += self.order_of_networks(results)
        note = (
            "Intervals: 95 %, Student's t over photographs, because regions "
            "of one photograph are not independent. The background's gain is PSNR with the full "
            "image minus PSNR alone."
        )
        table = Table("table1", "Centre window, by network", columns, rows, note)
        return Summary(headlines, [table], verdicts)

    def share(self, result: Measured) -> Interval:
        """Share of the regions that are restored better alone."""
        return share_interval(gain(result) < 0, result.sources)

    def not_always_useful(self, result: Measured, share: Interval, partial: int) -> Verdict:
        """C1 for one network."""
        many = 100 * self.options.many
        paper = PAPER.get(result.net.architecture)
        return Verdict(
            claim="C1",
            statement="Background is not always useful: many regions are restored better alone.",
            net=result.net.label,
            paper="-" if paper is None else f"{paper[1]} of {sum(paper)} better alone",
            ours=f"{partial} of {len(result.items)} better alone: {share.percent().text()} %",
            test=f"Holds if the 95 % interval of the share lies above {many:g} %, does not hold "
            "if it lies below.",
            outcome=share.compare(self.options.many),
        )

    def order_of_networks(self, results: Sequence[Measured]) -> list[Verdict]:
        """C1, second half: EDSR is better alone more often than networks with attention."""
        first = {r.net.architecture: r for r in reversed(results)}
        if "edsr" not in first:
            return []
        verdicts = []
        for name in (n for n in ATTENTION if n in first):
            edsr, other = first["edsr"], first[name]
            interval = share_difference(gain(edsr) < 0, gain(other) < 0, edsr.sources)
            paper = 100 * (PAPER["edsr"][1] - PAPER[name][1]) / sum(PAPER[name])
            verdicts.append(
                Verdict(
                    claim="C1",
                    statement="A plain CNN is disturbed by its background more often than a "
                    "network with attention.",
                    net=None,
                    about=f"{edsr.net.label} against {other.net.label}",
                    paper=f"{paper:+.1f} percentage points better alone",
                    ours=f"{interval.percent().text(signed=True)} percentage points",
                    test="Paired over the same images: holds if the 95 % interval of the "
                    "difference of shares lies above 0, does not hold if it lies below.",
                    outcome=interval.compare(0.0),
                )
            )
        return verdicts

    def draw(self, results: Sequence[Measured]) -> list[Chart | Gallery]:
        """Shares beside the paper's, gains of all regions, the clearest cases."""
        caption = (
            "White: the measured window. Yellow: the region that is restored alone. First the "
            "regions in which the background hurts most, then those in which it helps most; the "
            "better result is in bold."
        )
        cases = self.galleries(results, self.strips, "The clearest cases of", caption)
        return [self.draw_shares(results), self.draw_gains(results), *cases]

    def draw_shares(self, results: Sequence[Measured]) -> Chart:
        """Share better alone: ours with its interval, and the paper's."""
        figure = figures.new_figure(0.9 + 0.55 * len(results))
        axis = figure.subplots()
        for row, result in enumerate(results):
            share = self.share(result).percent()
            axis.barh(row, share.value, height=0.5, color=figures.ALONE, alpha=0.85, zorder=2)
            low, high = max(share.low, 0), min(share.high, 100)
            axis.plot([low, high], [row, row], color=figures.INK, linewidth=1.4, zorder=3)
            paper = PAPER.get(result.net.architecture)
            if paper is not None:
                figures.mark_paper(axis, 100 * paper[1] / sum(paper), row)
        figures.name_rows(axis, [r.net.label for r in results])
        axis.set_ylim(len(results) - 0.4, -0.6)
        axis.set_xlim(0, 100)
        axis.axvline(50, color=figures.RULE, linewidth=1, zorder=1)
        axis.set_xlabel("regions restored better alone, %")
        axis.grid(axis="x", zorder=0)
        return Chart(
            "table1_shares",
            "How often does the background hurt?",
            "Bars: share of the regions with a higher PSNR when the network sees the region alone. "
            "Line: 95 % interval. Diamond: the paper's Table 1 (150 images, published weights).",
            figure,
        )

    def draw_gains(self, results: Sequence[Measured]) -> Chart:
        """Gains of all regions from their background, in order."""
        figure = figures.new_figure(0.4 + 1.9 * len(results))
        axes = figure.subplots(len(results), 1, squeeze=False, sharey=True)[:, 0]
        for axis, result in zip(axes, results, strict=True):
            figures.gains_in_order(axis, gain(result))
            axis.set_title(figures.short(result.net.label, 60))
            axis.set_ylabel("gain, dB")
        axes[-1].set_xlabel("regions, from most helped to most hurt by their background")
        return Chart(
            "table1_gains",
            "How much does each region gain from its background?",
            "One bar for each region: PSNR from the whole image minus PSNR from the region alone. "
            "Blue: the background helps; red: the region is restored better without it.",
            figure,
        )

    def strips(self, result: Measured, i: int) -> list[Strip]:
        """One case: ground truth, input, the region's ground truth and both results."""
        o, item = self.options, result.items[i]
        picture = {name: result.pictures[item.key, name] for name in self.experiment.shown}
        full, partial = (float(result.columns[f"psnr_{w}"][i]) for w in ("full", "partial"))
        measured = o.region - 2 * o.shave
        y0, x0, y1, x1 = region = centre(o.region, o.size, o.size)
        given = Mark.pixels(region, (o.size, o.size), "input")
        window = Mark.pixels(centre(measured, o.size, o.size), (o.size, o.size), "window")
        own = [Mark.pixels(centre(measured, o.region, o.region), (o.region, o.region), "window")]

        def result_panel(name: str, title: str, ours: float, other: float) -> Panel:
            return Panel(picture[name], title, f"{ours:.2f} dB", own, best=ours > other)

        return [
            Strip(
                f"{item.image}, at {item.box[0]}, {item.box[1]}",
                [
                    Panel(picture["hr"], "ground truth", "", [given, window]),
                    Panel(picture["lr"], "input", "", [given]),
                    Panel(picture["hr"][y0:y1, x0:x1], "ground truth, region", "", own),
                    result_panel("full", "from the whole image", full, partial),
                    result_panel("partial", "from the region alone", partial, full),
                ],
                f"background {'helps' if full > partial else 'hurts'}: {full - partial:+.2f} dB",
            )
        ]
