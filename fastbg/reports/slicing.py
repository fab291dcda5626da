"""The report of the experiment `slicing`: tables, verdicts and figures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastbg.experiments.experiment import Measured, decibels
from fastbg.experiments.slicing import STRONG, Slicing, gain
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
from fastbg.stats.intervals import mean_interval, never_seen, share_limit

TOLERATED = 0.10  # an event never happens if its share is below this, at 95 % confidence


class SlicingReport(ExperimentReport):
    """Tables, verdicts and figures of `Slicing`."""

    experiment: Slicing

    def summarise(self, results: Sequence[Measured]) -> Summary:
        """Differences by network and by image; claim C2."""
        overall, images, headlines = [], [], {}
        verdicts: list[Verdict] = []
        for result in results:
            gains = gain(result)
            largest = int(np.abs(gains).argmax())
            mean = mean_interval(gains, result.sources)
            overall.append(
                (
                    result.net.label,
                    gains.size,
                    float(decibels(result, "psnr_whole").mean()),
                    float(decibels(result, "psnr_sliced").mean()),
                    mean,
                    float(gains[largest]),
                    result.items[largest].image,
                    int((gains > 0).sum()),
                    int((gains < 0).sum()),
                )
            )
            for i, item in enumerate(result.items):
                whole, sliced = (float(result.columns[f"psnr_{w}"][i]) for w in ("whole", "sliced"))
                images.append((result.net.label, item.image, whole, sliced, float(gains[i])))
            both = [self.differs(result, gains), self.always_higher(result, gains)]
            verdicts += both
            headlines[result.net.label] = (
                f"slicing changes PSNR by {mean.text(2, signed=True)} dB, at most "
                f"{gains[largest]:+.2f} dB; C2 {both[0].outcome.value} / {both[1].outcome.value}"
            )
        tables = [
            Table(
                "slicing",
                "Whole against sliced, by network",
                (
                    Column("network"),
                    Column("images"),
                    Column("mean PSNR, whole", "dB"),
                    Column("mean PSNR, sliced", "dB"),
                    Column("sliced minus whole", "dB", 3, signed=True),
                    Column("largest difference", "dB", 3, signed=True),
                    Column("in image"),
                    Column("slicing higher"),
                    Column("slicing lower"),
                ),
                overall,
                "Interval: 95 %, Student's t over photographs.",
            ),
            Table(
                "slicing_images",
                "Whole against sliced, by image",
                (
                    Column("network"),
                    Column("image"),
                    Column("PSNR, whole", "dB"),
                    Column("PSNR, sliced", "dB"),
                    Column("sliced minus whole", "dB", 3, signed=True),
                ),
                images,
            ),
        ]
        return Summary(headlines, tables, verdicts)

    def differs(self, result: Measured, gains: NDArray[np.float64]) -> Verdict:
        """C2, first half: over 1 dB on single images."""
        gap = self.options.gap
        above = np.abs(gains) > gap
        return Verdict(
            claim="C2",
            statement=f"The two ways of testing differ by over {gap:g} dB on single images.",
            net=result.net.label,
            paper="over 1 dB on single images",
            ours=f"largest difference {np.abs(gains).max():.2f} dB; above {gap:g} dB in "
            f"{above.sum()} of {gains.size} images",
            test=f"One image above {gap:g} dB is enough. Does not hold if there is none among so "
            f"many that their share is below {TOLERATED:.0%} at 95 % (here: below "
            f"{share_limit(len(set(result.sources))):.0%}).",
            outcome=never_seen(above, result.sources, TOLERATED).opposite,
        )

    def always_higher(self, result: Measured, gains: NDArray[np.float64]) -> Verdict:
        """C2, second half: slicing always scores higher."""
        lower = gains < 0
        return Verdict(
            claim="C2",
            statement="Slicing always gives the higher score.",
            net=result.net.label,
            paper="always higher",
            ours=f"higher in {(gains > 0).sum()}, lower in {lower.sum()} of {gains.size} images",
            test="One image with a lower score refutes it. Holds if there is none among so many "
            f"that their share is below {TOLERATED:.0%} at 95 %.",
            outcome=never_seen(lower, result.sources, TOLERATED),
        )

    def draw(self, results: Sequence[Measured]) -> list[Chart | Gallery]:
        """Difference of each image, errors by distance to the seam, pictures of seams."""
        caption = (
            "The four slices that differ most, in the images whose scores differ most. Lines: "
            f"seams. Last: difference of both results; {STRONG} grey levels and more are white."
        )
        seams = self.galleries(results, self.strips, "Seams of", caption)
        return [self.draw_images(results), self.draw_distance(results), *seams]

    def draw_images(self, results: Sequence[Measured]) -> Chart:
        """Sliced minus whole, a row for each image."""
        count = len(results[0].items)
        named = count <= 20
        height = 0.9 + (0.24 * count if named else 2.2)
        columns = len(results) if len(results) <= 3 else 2
        rows = -(-len(results) // columns)
        figure = figures.new_figure(height * rows)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        axes = grid.ravel()
        order = np.argsort(gain(results[0]))
        for axis in axes[len(results) :]:
            axis.set_axis_off()
        for axis, result in zip(axes, results, strict=False):
            gains = gain(result)[order]
            colours = np.where(gains > 0, figures.ALONE, figures.FULL)
            axis.barh(range(count), gains, height=0.7 if named else 1.0, color=colours, linewidth=0)
            axis.axvline(0, color=figures.MUTED, linewidth=0.8)
            axis.set_title(figures.short(result.net.label, 54 // columns))
            axis.grid(axis="x")
            axis.set_axisbelow(True)
            axis.spines["left"].set_visible(False)
            axis.tick_params(axis="y", length=0)
        figure.supxlabel("sliced minus whole, dB", color=figures.MUTED, fontsize=9.5)
        names = [figures.short(results[0].items[i].image) for i in order] if named else []
        axes[0].set_yticks(range(len(names)), names)
        return Chart(
            "slicing_images",
            "Which way of testing scores higher?",
            "One bar for each image. To the left (blue): the whole image scored higher; right "
            "(red): slicing scored higher. In the paper slicing always scores higher, by more than "
            "1 dB on single images.",
            figure,
        )

    def draw_distance(self, results: Sequence[Measured]) -> Chart:
        """Root mean squared errors and difference, by distance to the seam."""
        figure = figures.new_figure(0.5 + 2.1 * len(results))
        axes = figure.subplots(len(results), 1, squeeze=False, sharex=True)[:, 0]
        for axis, result in zip(axes, results, strict=True):
            distance = np.arange(self.options.tile // 2) + 0.5
            lines = (
                ("error, sliced", np.sqrt(result.columns["mse_sliced"]), figures.ALONE, "-"),
                ("error, whole", np.sqrt(result.columns["mse_whole"]), figures.FULL, "-"),
                ("sliced against whole", result.columns["difference"], figures.MUTED, "--"),
            )
            for label, values, colour, dash in lines:
                mean = values.mean(axis=0)
                axis.plot(distance, mean, color=colour, linestyle=dash, label=label, linewidth=1.8)
            axis.set_ylim(bottom=0)
            axis.set_xlim(0, self.options.tile // 2)
            axis.set_ylabel("grey levels")
            axis.set_title(figures.short(result.net.label, 60))
            axis.grid(axis="y")
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, fontsize=8.5
        )
        axes[-1].set_xlabel("distance to the nearest seam, HR pixels")
        return Chart(
            "slicing_distance",
            "Where do the two results differ?",
            "Mean over all images. Solid: root mean squared error against the ground truth. "
            "Dashed: mean absolute difference between the two results. Left is the seam, right "
            "the middle of a slice. The ripple has the period of the input's pixels.",
            figure,
        )

    def strips(self, result: Measured, i: int) -> list[Strip]:
        """One image's seams: ground truth, both results, their difference."""
        item, tile = result.items[i], self.options.tile
        picture = {name: result.pictures[item.key, name] for name in self.experiment.shown}
        height, width = picture["hr"].shape[:2]
        seams = [
            Mark.pixels((y, x, y + tile, x + tile), (height, width), "seam")
            for y in range(0, height, tile)
            for x in range(0, width, tile)
        ]
        whole, sliced = (float(result.columns[f"psnr_{w}"][i]) for w in ("whole", "sliced"))
        return [
            Strip(
                item.image,
                [
                    Panel(picture["hr"], "ground truth", "", seams),
                    Panel(
                        picture["whole"], "restored whole", f"{whole:.2f} dB", (), whole > sliced
                    ),
                    Panel(
                        picture["sliced"],
                        "restored in slices",
                        f"{sliced:.2f} dB",
                        (),
                        sliced > whole,
                    ),
                    Panel(picture["change"], "change", ""),
                ],
                f"slicing changes the image's PSNR by {sliced - whole:+.2f} dB",
            )
        ]
