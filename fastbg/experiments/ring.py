"""Figs 7-10 (section 5, method 1): a foreign ring around the window, growing outwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fastbg.experiments import nested_report
from fastbg.experiments.experiment import Measured, Options, Summary
from fastbg.experiments.nested import Box, Nested, NestedOptions, change
from fastbg.experiments.nested_report import first, mean, outcomes
from fastbg.experiments.study import centre
from fastbg.reports.content import Chart, Gallery, Verdict
from fastbg.stats.intervals import all_of, mean_interval

# PSNR (dB) of the paper's one pair by ring size, as far as its text tells (Figs 8-10).
PAPER = {
    "edsr": "21.34 dB without, 19.76 dB and below with a ring",
    "rcan": "26.82 dB without, 21.05 dB with ring 32, 18.88 dB with ring 48",
    "swinir": "26.33 dB without, 21.45 dB with ring 32, 20.61 dB with ring 48",
}
# Ring sizes between which the paper sees PSNR jump back: smaller, larger.
JUMPS = {"rcan": ((32, 48),), "swinir": ((32, 48), (48, 64))}
JUMPS_PAPER = {
    "rcan": "18.88 dB with ring 48, 21.05 dB with ring 32",
    "swinir": "better with rings 32 (21.45 dB) and 48 (20.61 dB)",
}
NEAR, FAR = 32, 48  # ring sizes that C6 speaks of


@dataclass(frozen=True)
class RingOptions(NestedOptions):
    """Sizes in HR pixels: outer sides of the ring, 0 for none."""

    sizes: str = "0,32,48,64,80,96"


class Ring(Nested):
    """The central window kept, a ring of another image around it, beyond it the first again."""

    name = "ring"
    title = "Can a network look past a ring of foreign content?"
    paper = "Section 5, Figs 7-10"
    question = (
        "A small window in the middle of an image is cut off from the rest by a ring of something "
        "else. Does the window suffer, and does the network find the useful pixels beyond?"
    )
    method = (
        "A ring from a dissimilar image (another texture, by the distance of Gram matrices) is put "
        "around the central window; beyond the ring the image goes on. The composite is reduced "
        "and restored, and only the window is compared with the ground truth. A local attribution "
        "map then tells which input pixels made the window."
    )
    options_type: ClassVar[type[Options]] = RingOptions
    axis = "outer side of the foreign ring, HR pixels"
    foreign_name = "the foreign ring"
    own_name = "the image beyond"

    @property
    def untouched(self) -> int:
        """No ring."""
        return 0

    def boxes(self, size: int) -> tuple[Box, Box]:
        """From the window to the square of `size`."""
        return self.window_box, self.border(size) if size else self.window_box

    def border(self, size: int) -> Box:
        """The ring's outer border."""
        return centre(size, self.options.size, self.options.size)

    def label(self, size: int) -> str:
        """ "ring 32"."""
        return f"ring {size}" if size else "no ring"

    def summarise(self, results: Sequence[Measured]) -> Summary:
        """PSNR and attribution by ring size; claims C5 and C6."""
        verdicts: list[Verdict] = []
        headlines = {}
        for result in results:
            found = [self.hurts(result), *self.jumps(result, results)]
            found += self.looks(result, results)
            verdicts += found
            smallest = self.changed[0]
            loss = nested_report.mean_change(self, result, smallest)
            headlines[result.net.label] = (
                f"{self.label(smallest)} changes PSNR by {loss.text(2, signed=True)} dB"
                + outcomes(found)
            )
        return Summary(headlines, nested_report.tables(self, results), verdicts)

    def hurts(self, result: Measured) -> Verdict:
        """C5, first half."""
        losses = {
            size: mean_interval(-change(result, size, 0), result.sources) for size in self.changed
        }
        least = min(losses, key=lambda size: losses[size].value)
        return Verdict(
            claim="C5",
            statement="A foreign ring of any size lowers the PSNR of what it encloses.",
            net=result.net.label,
            paper=PAPER.get(result.net.architecture, "-"),
            ours=f"least at {self.label(least)}: a loss of {losses[least].text(2)} dB",
            test="Paired over the pairs of images: holds if the 95 % interval of the mean loss "
            "lies above 0 at every ring size, does not hold if it lies below at one.",
            outcome=all_of(loss.compare(0.0) for loss in losses.values()),
        )

    def jumps(self, result: Measured, results: Sequence[Measured]) -> list[Verdict]:
        """C5, second half: what attention brings back when the ring is small."""
        architecture = result.net.architecture
        steps = [s for s in JUMPS.get(architecture, ()) if set(s) <= set(self.sizes)]
        if not steps:
            return []
        gains = [mean_interval(change(result, *step), result.sources) for step in steps]
        ours = "; ".join(
            f"ring {small} against {large}: {gain.text(2, signed=True)} dB"
            for (small, large), gain in zip(steps, gains, strict=True)
        )
        verdicts = [
            Verdict(
                claim="C5",
                statement="With attention, PSNR jumps back when the ring is small.",
                net=result.net.label,
                paper=JUMPS_PAPER[architecture],
                ours=ours,
                test="Paired: holds if the 95 % interval of each mean gain from the larger to the "
                "smaller ring lies above 0, does not hold if one lies below.",
                outcome=all_of(gain.compare(0.0) for gain in gains),
            )
        ]
        return verdicts + self.jumps_more(result, results, steps[0])

    def jumps_more(
        self, result: Measured, results: Sequence[Measured], step: tuple[int, int]
    ) -> list[Verdict]:
        """C5: the jump of a network with attention against EDSR's."""
        plain = first(results, "edsr")
        if plain is None:
            return []
        difference = change(result, *step) - change(plain, *step)
        gain = mean_interval(difference, result.sources)
        return [
            Verdict(
                claim="C5",
                statement="That jump is larger than a plain CNN's.",
                net=f"{result.net.label} against {plain.net.label}",
                paper="a jump is seen with attention only",
                ours=f"ring {step[0]} against {step[1]}: {gain.text(2, signed=True)} dB more",
                test="Paired over the same pairs: holds if the 95 % interval of the difference of "
                "both gains lies above 0, does not hold if it lies below.",
                outcome=gain.compare(0.0),
            )
        ]

    def looks(self, result: Measured, results: Sequence[Measured]) -> list[Verdict]:
        """C6: what the attribution says of this network."""
        by_net = {"edsr": self.edsr_looks, "rcan": self.rcan_looks, "swinir": self.swinir_looks}
        if result.net.architecture not in by_net or not {NEAR, FAR} <= set(self.sizes):
            return []
        return by_net[result.net.architecture](result, first(results, "edsr"))

    def edsr_looks(self, result: Measured, _: Measured | None) -> list[Verdict]:
        """C6 for the plain CNN."""
        floor = self.options.noticed
        ring, beyond = (mean(self, result, f"{part}_{NEAR}") for part in ("foreign", "own"))
        far = {s: mean(self, result, f"own_{s}") for s in self.changed if s >= FAR}
        near = [mean_interval(1 - result.columns[f"own_{s}"], result.sources) for s in far]
        return [
            Verdict(
                claim="C6",
                statement=f"With ring {NEAR} the network uses pixels of the ring and beyond it.",
                net=result.net.label,
                paper="uses both",
                ours=f"on the ring {ring.percent().text()} %, beyond it "
                f"{beyond.percent().text()} % of the attribution",
                test=f"Used means over {floor:.0%} of the attribution. Holds if both 95 % "
                "intervals lie above, does not hold if one lies below.",
                outcome=all_of((ring.compare(floor), beyond.compare(floor))),
            ),
            Verdict(
                claim="C6",
                statement=f"From ring {FAR} on the network uses near pixels only.",
                net=result.net.label,
                paper="indifferent to what lies beyond the ring",
                ours="beyond the ring "
                + ", ".join(f"({s}) {share.percent().text()} %" for s, share in far.items()),
                test=f"Holds if the 95 % interval of the share beyond the ring lies below "
                f"{floor:.0%} at every such size, does not hold if it lies above at one.",
                outcome=all_of(share.compare(1 - floor) for share in near),
            ),
        ]

    def rcan_looks(self, result: Measured, plain: Measured | None) -> list[Verdict]:
        """C6 for channel attention."""
        columns = result.columns
        spared = mean_interval(
            columns[f"before_{NEAR}"] - columns[f"foreign_{NEAR}"], result.sources
        )
        ring = mean(self, result, f"foreign_{NEAR}")
        before = mean(self, result, f"before_{NEAR}")
        statement = f"With ring {NEAR} the network skips the ring"
        verdicts = [
            Verdict(
                claim="C6",
                statement=f"{statement}.",
                net=result.net.label,
                paper="uses the ring less",
                ours=f"{ring.percent().text()} % of the attribution on the ring; on the same "
                f"pixels {before.percent().text()} % while they were the image's own",
                test="Paired: holds if the 95 % interval of the difference (own minus foreign) "
                "lies above 0, does not hold if it lies below.",
                outcome=spared.compare(0.0),
            )
        ]
        if plain is not None:
            less = plain.columns[f"foreign_{NEAR}"] - columns[f"foreign_{NEAR}"]
            verdicts.append(
                self.against(result, plain, f"{statement} more than a plain CNN does.", less)
            )
        return verdicts

    def swinir_looks(self, result: Measured, plain: Measured | None) -> list[Verdict]:
        """C6 for self-attention."""
        floor = self.options.noticed
        beyond = mean(self, result, f"own_{FAR}")
        statement = f"With ring {FAR} the network sees past the ring"
        verdicts = [
            Verdict(
                claim="C6",
                statement=f"{statement}.",
                net=result.net.label,
                paper="still uses what lies beyond",
                ours=f"beyond the ring {beyond.percent().text()} % of the attribution",
                test=f"Holds if the 95 % interval of the share beyond the ring lies above "
                f"{floor:.0%}, does not hold if it lies below.",
                outcome=beyond.compare(floor),
            )
        ]
        if plain is not None:
            more = result.columns[f"own_{FAR}"] - plain.columns[f"own_{FAR}"]
            verdicts.append(
                self.against(result, plain, f"{statement} more than a plain CNN does.", more)
            )
        return verdicts

    def against(
        self, result: Measured, plain: Measured, statement: str, difference: NDArray[np.float64]
    ) -> Verdict:
        """C6: a share of the attribution against EDSR's, in favour of the claim where positive."""
        interval = mean_interval(difference, result.sources)
        return Verdict(
            claim="C6",
            statement=statement,
            net=f"{result.net.label} against {plain.net.label}",
            paper="seen in the attribution maps",
            ours=f"{interval.percent().text(signed=True)} percentage points in favour",
            test="Paired over the same pairs: holds if the 95 % interval of the difference of "
            "shares lies above 0, does not hold if it lies below.",
            outcome=interval.compare(0.0),
        )

    def draw(self, results: Sequence[Measured]) -> list[Chart | Gallery]:
        """One pair as in Figs 8-10, means over all pairs."""
        return nested_report.charts(self, results)
