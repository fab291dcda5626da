"""The report of the experiment `effect`: tables, verdicts on C10, pies, curves and maps."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fastbg.attribution.effect_picture import HARM, HELP, IDLE, colours
from fastbg.attribution.picture import heat
from fastbg.experiments.effect import (
    INWARD,
    RING,
    SCENES,
    UNTOUCHED,
    Effect,
    Layout,
    agreement,
    agreement_at_distance,
    of_scene,
    share_inside,
    thresholded,
)
from fastbg.experiments.experiment import Measured, decibels
from fastbg.reports import figures
from fastbg.reports.content import Cell, Chart, Column, Gallery, Mark, Panel, Strip, Table, Verdict
from fastbg.reports.nested import outcomes
from fastbg.reports.section import ExperimentReport, Summary
from fastbg.stats.correlation import caution, spearman
from fastbg.stats.intervals import Interval, all_of, mean_interval

Values = NDArray[np.float64]

FOREIGN = {RING: "the ring", INWARD: "the surroundings"}
PLAIN, FIXED = "LAM and |effect|", "LAM and |effect| at equal distance"
KINDS = {"harm": HARM, "help": HELP, "idle": IDLE}
BOUND = 1.0  # dB at which the colours of the effect maps end
INTERVALS = "Intervals: 95 %, Student's t over photographs."


class EffectReport(ExperimentReport):
    """Tables, verdicts and figures of `Effect`."""

    experiment: Effect

    def summarise(self, results: Sequence[Measured]) -> Summary:
        """Agreement, shares and counts by network and scene; claim C10."""
        verdicts: list[Verdict] = []
        headlines = {}
        for result in results:
            found = [
                verdict
                for _, part in self.parts([result])
                for verdict in (self.same_blocks(part), *self.same_share(part))
            ]
            verdicts += found
            headlines[result.net.label] = (
                f"rank correlation of LAM and |effect| {self.correlations_text(result)}"
                f"{outcomes(found)}"
            )
        tables = [self.agreement_table(results), self.share_table(results)]
        return Summary(headlines, [*tables, self.count_table(results)], verdicts)

    def parts(self, results: Sequence[Measured]) -> Iterator[tuple[str, Measured]]:
        """Network and scene, with the records of the scene; scenes without records are left out."""
        for result in results:
            for scene in SCENES:
                part = of_scene(result, scene)
                if part.items:
                    yield scene, part

    def layout(self, result: Measured) -> Layout:
        """The positions of the blocks."""
        return Layout(self.experiment, result.columns["lam"].shape[1])

    def correlations_text(self, result: Measured) -> str:
        """The mean correlation of each scene, as text."""
        return ", ".join(
            f"{agreement(part).mean():.2f} ({SCENES[scene]})"
            for scene, part in self.parts([result])
        )

    def correlations(self, part: Measured) -> dict[str, Interval]:
        """Mean rank correlations over the blocks of each input, by column title."""
        distance = self.layout(part).distance
        nearest = np.broadcast_to(-distance, part.columns["effect"].shape)
        found = {
            PLAIN: agreement(part),
            "nearness and |effect|": spearman(nearest, np.abs(part.columns["effect"])),
            FIXED: agreement_at_distance(part, distance),
            "LAM and effect": agreement(part, signed=True),
        }
        return {
            name: mean_interval(rho, part.sources).clipped(-1, 1) for name, rho in found.items()
        }

    def agreement_table(self, results: Sequence[Measured]) -> Table:
        """Rank correlations over the blocks of each input."""
        rows: list[list[Cell]] = []
        titles: tuple[str, ...] = ()
        for scene, part in self.parts(results):
            found = self.correlations(part)
            titles = tuple(found)
            rows.append(
                [
                    part.net.label,
                    SCENES[scene],
                    len(part.items),
                    float(decibels(part, "psnr").mean()),
                    *found.values(),
                    self.noise(part),
                ]
            )
        columns = (
            Column("network"),
            Column("scene"),
            Column("images"),
            Column("mean PSNR", "dB"),
            *(Column(title, signed=True) for title in titles),
            Column("standard error / |effect|"),
        )
        note = (
            "Spearman's rank correlation over the blocks of each input, mean over inputs. "
            "Nearness: minus the distance to the window, without a network. At equal distance: the "
            "partial correlation, given the distance. LAM and effect: the signed effect, so "
            "above 0 if the blocks that LAM marks help rather than harm. Last column: median over "
            "the blocks that are not idle; sampling errors reduce all correlations. "
            f"{INTERVALS}"
        )
        note += caution(cell for row in rows for cell in row)
        title = "Do the blocks that LAM marks have the larger effects?"
        return Table(self.experiment.name, title, columns, rows, note)

    def noise(self, part: Measured) -> float | None:
        """Median of standard error / |effect| over the blocks that are not idle."""
        effect = np.abs(thresholded(part, self.options.tolerance))
        error = part.columns["error"][effect > 0]
        return float(np.median(error / effect[effect > 0])) if error.size else None

    def shares(self, scene: str, part: Measured) -> tuple[Values, Values, list[str]]:
        """Shares of LAM and of |effect| on foreign blocks (m), if both exist; and the sources."""
        mask = self.layout(part).foreign[scene]
        lam = share_inside(part.columns["lam"], mask)
        effect = share_inside(np.abs(thresholded(part, self.options.tolerance)), mask)
        known = np.isfinite(lam) & np.isfinite(effect)
        sources = [name for name, good in zip(part.sources, known, strict=True) if good]
        return lam[known], effect[known], sources

    def share_table(self, results: Sequence[Measured]) -> Table:
        """Shares of both maps on foreign pixels."""
        rows: list[list[Cell]] = []
        for scene, part in self.parts(results):
            if scene == UNTOUCHED:
                continue
            lam, effect, sources = self.shares(scene, part)
            cells: list[Cell] = [None, None, None]
            if sources:
                each = (mean_interval(values, sources) for values in (lam, effect))
                more = mean_interval(lam - effect, sources).clipped(-1, 1).percent()
                cells = [*(share.clipped(0, 1).percent() for share in each), more]
            rows.append([part.net.label, FOREIGN[scene], len(sources), *cells])
        columns = (
            Column("network"),
            Column("foreign pixels"),
            Column("images"),
            Column("share of LAM", "%", 1),
            Column("share of |effect|", "%", 1),
            Column("difference", "percentage points", 1, signed=True),
        )
        note = (
            "Shares of the map outside of the window. Images in which no block has an effect are "
            f"left out. {INTERVALS}"
        )
        title = "How much of both maps lies on foreign pixels?"
        return Table(f"{self.experiment.name}_shares", title, columns, rows, note)

    def count_table(self, results: Sequence[Measured]) -> Table:
        """Shares of blocks that harm, help and are idle."""
        rows: list[list[Cell]] = []
        for scene, part in self.parts(results):
            kinds = self.kinds(part)
            cells = (mean_interval(values, part.sources) for values in kinds.values())
            shares = [cell.clipped(0, 1).percent() for cell in cells]
            draws = float(part.columns["draws"].mean())
            rows.append([part.net.label, SCENES[scene], len(part.items), *shares, draws])
        columns = (
            Column("network"),
            Column("scene"),
            Column("images"),
            *(Column(kind, "%", 1) for kind in KINDS),
            Column("replacements an image", digits=0),
        )
        note = (
            f"Blocks outside of the window; idle: less than {self.options.tolerance:g} dB. "
            f"{INTERVALS}"
        )
        title = "Blocks that harm, help, or do neither"
        return Table(f"{self.experiment.name}_counts", title, columns, rows, note)

    def kinds(self, part: Measured) -> dict[str, Values]:
        """Share (n) of an input's blocks that harm, help or are idle."""
        effect = thresholded(part, self.options.tolerance)
        found = effect < 0, effect > 0, effect == 0
        return {name: each.mean(axis=1) for name, each in zip(KINDS, found, strict=True)}

    def same_blocks(self, part: Measured) -> Verdict:
        """C10: do ranks agree?"""
        found = self.correlations(part)
        plain, near = found[PLAIN], found[FIXED]
        return Verdict(
            claim="C10",
            statement="Blocks that LAM marks more have more effect, also at equal distance from "
            "the window.",
            net=part.net.label,
            about=SCENES[part.items[0].set],
            paper="not asked",
            ours=f"rank correlation {plain.text(2, signed=True)}; at equal distance "
            f"{near.text(2, signed=True)}",
            test="Holds if the 95 % intervals of both mean rank correlations over the blocks lie "
            "above 0, does not hold if one lies below.",
            outcome=all_of((plain.compare(0.0), near.compare(0.0))),
        )

    def same_share(self, part: Measured) -> list[Verdict]:
        """C10: do foreign pixels have the same share of both maps?"""
        scene, limit = part.items[0].set, self.options.near
        if scene == UNTOUCHED:
            return []
        lam, effect, sources = self.shares(scene, part)
        if not sources:
            return []
        more = mean_interval(lam - effect, sources).clipped(-1, 1)
        return [
            Verdict(
                claim="C10",
                statement="Foreign pixels have the same share of LAM as of the effect.",
                net=part.net.label,
                about=SCENES[scene],
                paper="not asked",
                ours=f"{more.percent().text(signed=True)} percentage points more of LAM",
                test=f"Paired over images: holds if the 95 % interval of the difference lies within"
                f" {100 * limit:g} percentage points of 0, does not hold if it lies outside.",
                outcome=more.within(limit),
            )
        ]

    def draw(self, results: Sequence[Measured]) -> list[Chart | Gallery]:
        """Pies, curves, and the maps of two cases."""
        return [self.draw_pies(results), self.draw_curves(results), *self.pictures(results)]

    def draw_pies(self, results: Sequence[Measured]) -> Chart:
        """A pie chart for each network and scene, as in the CEM paper."""
        figure, panels = self.panels(results, 1.9)
        for axis, part in panels:
            shares = [float(values.mean()) for values in self.kinds(part).values()]
            labels = [f"{100 * share:.0f} %" for share in shares]
            wedges, *_ = axis.pie(
                shares,
                colors=list(KINDS.values()),
                labels=labels,
                startangle=90,
                counterclock=False,
                textprops={"fontsize": 8},
                wedgeprops={"linewidth": 0.5, "edgecolor": figures.PAPER},
            )
            for wedge, kind in zip(wedges, KINDS, strict=True):
                wedge.set_label(kind)
        figure.legend(wedges, [*KINDS], loc="outside lower center", ncols=3)
        return Chart(
            "effect_pies",
            "How many blocks harm, help, or do neither?",
            "Mean shares of the blocks outside of the window. If a helping block is replaced, the "
            f"window gets worse. Idle: less than {self.options.tolerance:g} dB.",
            figure,
        )

    def draw_curves(self, results: Sequence[Measured]) -> Chart:
        """Cumulative share of the effect, for three orders of the blocks."""
        figure, panels = self.panels(results, 2.2, shared=True)
        for axis, part in panels:
            self.draw_orders(axis, part)
            axis.label_outer()
        lines = panels[0][0].get_legend_handles_labels()
        figure.legend(*lines, loc="outside lower center", ncols=3)
        return Chart(
            "effect_orders",
            "How much of the effect do the blocks have that LAM marks most?",
            "Blocks are taken in the order of three maps. The curve is the share of all effects, "
            "harm or help, that the blocks so far have. The closer LAM's curve is to that of the "
            "effect itself, the better LAM finds what matters. If it is no higher than "
            '"nearest first", the distance to the window predicts effects equally well.',
            figure,
        )

    def panels(
        self, results: Sequence[Measured], height: float, *, shared: bool = False
    ) -> tuple[Figure, list[tuple[Axes, Measured]]]:
        """A panel for each network and scene that was measured, networks below one another."""
        scenes = [scene for scene in SCENES if of_scene(results[0], scene).items]
        figure = figures.new_figure(0.6 + height * len(results))
        shape = len(results), len(scenes)
        axes = figure.subplots(*shape, squeeze=False, sharex=shared, sharey=shared)
        found = []
        for row, result in zip(axes, results, strict=True):
            for axis, scene in zip(row, scenes, strict=True):
                axis.set_title(f"{figures.short(result.net.label, 14)}: {scene}", fontsize=9)
                found.append((axis, of_scene(result, scene)))
        return figure, found

    def draw_orders(self, axis: Axes, part: Measured) -> None:
        """One panel of `draw_curves`: means over the inputs."""
        effect = np.abs(thresholded(part, self.options.tolerance))
        known = effect.sum(axis=1) > 0
        effect, lam = effect[known], part.columns["lam"][known]
        nearest = np.broadcast_to(-self.layout(part).distance, effect.shape)
        orders = {
            "the effect itself": (effect, figures.MUTED, ":"),
            "LAM": (lam, figures.FULL, "-"),
            "nearest first": (nearest, figures.ALONE, "--"),
        }
        taken = np.arange(1, effect.shape[1] + 1)
        for label, (key, colour, line) in orders.items():
            if len(effect):
                axis.plot(taken, taken_share(effect, key), line, color=colour, label=label)
        axis.set_xlabel("blocks taken")
        axis.set_ylabel("share of |effect|")
        axis.set_xscale("log")
        axis.set_xticks([1, 4, 16, 64, 256], ["1", "4", "16", "64", "256"])
        axis.minorticks_off()
        axis.set_ylim(0, 1.02)
        axis.grid()

    def pictures(self, results: Sequence[Measured]) -> list[Gallery]:
        """Two inputs of each network."""
        return self.galleries(
            results,
            self.strips,
            "Attribution and causal effect of the same blocks:",
            "The LR input with the window (white) and the ring's outer border (yellow); LAM's map, "
            "red is much; the causal effects, red helps, blue harms, full colour from "
            f"{BOUND:g} dB. First the input in which both agree best, then worst.",
        )

    def strips(self, result: Measured, i: int) -> list[Strip]:
        """One input."""
        item, layout = result.items[i], self.layout(result)
        lam, effect = (layout.on_blocks(result.columns[name][i]) for name in ("lam", "effect"))
        counted = thresholded(result, self.options.tolerance)[i]
        told = f"{(counted > 0).sum()} help, {(counted < 0).sum()} harm"
        rho = f"rank correlation {agreement(result)[i]:+.2f}"
        drawn = {
            "LR input": (result.pictures[item.key, "lr"], f"{result.columns['psnr'][i]:.2f} dB"),
            "LAM": (heat(lam / (lam.max() or 1.0)), rho),
            "causal effect": (colours(effect, BOUND), told),
        }
        panels = [
            Panel(enlarged(picture), title, detail, self.marks())
            for title, (picture, detail) in drawn.items()
        ]
        return [Strip(item.image, panels, SCENES[item.set])]

    def marks(self) -> list[Mark]:
        """The window and the border in a picture of the whole input."""
        size, scene = self.options.size, self.experiment.scenes[RING]
        boxes = {"window": scene.window_box, "input": scene.border(self.options.border)}
        return [Mark.pixels(box, (size, size), role) for role, box in boxes.items()]


def taken_share(effect: Values, key: Values) -> Values:
    """Mean cumulative share (K) of `effect` (n,K), blocks sorted by falling `key` (n,K)."""
    order = np.argsort(-key, axis=1, kind="stable")
    sums = np.take_along_axis(effect, order, axis=1).cumsum(axis=1)
    mean: Values = (sums / sums[:, -1:]).mean(axis=0)
    return mean


def enlarged(picture: NDArray[np.uint8], side: int = 128) -> NDArray[np.uint8]:
    """A small picture (h,w,3), enlarged to about `side` pixels by repeating pixels."""
    times = max(side // len(picture), 1)
    return picture.repeat(times, 0).repeat(times, 1)
