"""The report of the experiment `ring`: tables, verdicts and figures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastbg.experiments.experiment import Measured
from fastbg.experiments.nested import change
from fastbg.experiments.ring import FAR, NEAR, Ring
from fastbg.experiments.seams import title
from fastbg.reports import nested
from fastbg.reports.content import Chart, Gallery, Verdict
from fastbg.reports.nested import first, outcomes, share
from fastbg.reports.seams import with_seam
from fastbg.reports.section import ExperimentReport, Summary
from fastbg.stats.intervals import all_of, mean_interval

# PSNR (dB) of the paper's one pair by ring size, as given in its text (Figs 8-10).
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


class RingReport(ExperimentReport):
    """Tables, verdicts and figures of `Ring`."""

    experiment: Ring

    def summarise(self, results: Sequence[Measured]) -> Summary:
        """PSNR and attribution by ring size; claims C5 and C6."""
        verdicts: list[Verdict] = []
        said: dict[str, list[str]] = {result.net.label: [] for result in results}
        smallest = self.experiment.changed[0]
        for seam, seen in nested.views(self.experiment, results).items():
            for result in seen:
                found = [self.hurts(result), *self.jumps(result, seen), *self.looks(result, seen)]
                verdicts += with_seam(found, seam)
                loss = nested.mean_change(self.experiment, result, smallest)
                said[result.net.label].append(
                    f"{self.experiment.label(smallest)}, {title(seam)}, changes PSNR by "
                    f"{loss.text(2, signed=True)} dB{outcomes(found)}"
                )
        headlines = {label: ". ".join(texts) for label, texts in said.items()}
        return Summary(headlines, nested.tables(self.experiment, results), verdicts)

    def hurts(self, result: Measured) -> Verdict:
        """C5, first half."""
        losses = {
            size: mean_interval(-change(result, size, 0), result.sources)
            for size in self.experiment.changed
        }
        least = min(losses, key=lambda size: losses[size].value)
        return Verdict(
            claim="C5",
            statement="A foreign ring of any size lowers the PSNR of what it encloses.",
            net=result.net.label,
            paper=PAPER.get(result.net.architecture, "-"),
            ours=f"least at {self.experiment.label(least)}: a loss of {losses[least].text(2)} dB",
            test="Paired over the pairs of images: holds if the 95 % interval of the mean loss "
            "lies above 0 at every ring size, does not hold if it lies below at one.",
            outcome=all_of(loss.compare(0.0) for loss in losses.values()),
        )

    def jumps(self, result: Measured, results: Sequence[Measured]) -> list[Verdict]:
        """C5, second half: with attention PSNR recovers for small rings."""
        architecture = result.net.architecture
        steps = [s for s in JUMPS.get(architecture, ()) if set(s) <= set(self.experiment.sizes)]
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
        """C5: the jump of a network with attention compared with EDSR's."""
        plain = first(results, "edsr")
        if plain is None:
            return []
        difference = change(result, *step) - change(plain, *step)
        gain = mean_interval(difference, result.sources)
        return [
            Verdict(
                claim="C5",
                statement="That jump is larger than a plain CNN's.",
                net=None,
                about=f"{result.net.label} against {plain.net.label}",
                paper="a jump is seen with attention only",
                ours=f"ring {step[0]} against {step[1]}: {gain.text(2, signed=True)} dB more",
                test="Paired over the same pairs: holds if the 95 % interval of the difference of "
                "both gains lies above 0, does not hold if it lies below.",
                outcome=gain.compare(0.0),
            )
        ]

    def looks(self, result: Measured, results: Sequence[Measured]) -> list[Verdict]:
        """C6 for one network."""
        by_net = {"edsr": self.edsr_looks, "rcan": self.rcan_looks, "swinir": self.swinir_looks}
        if result.net.architecture not in by_net or not {NEAR, FAR} <= set(self.experiment.sizes):
            return []
        return by_net[result.net.architecture](result, first(results, "edsr"))

    def edsr_looks(self, result: Measured, _: Measured | None) -> list[Verdict]:
        """C6 for the plain CNN."""
        floor = self.options.noticed
        ring, beyond = (
            share(self.experiment, result, f"{part}_{NEAR}") for part in ("foreign", "own")
        )
        far = {
            s: share(self.experiment, result, f"own_{s}")
            for s in self.experiment.changed
            if s >= FAR and f"own_{s}" in result.columns
        }
        near = [
            mean_interval(1 - result.columns[f"own_{s}"], result.sources).clipped(0, 1) for s in far
        ]
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
                + ", ".join(f"({s}) {part.percent().text()} %" for s, part in far.items()),
                test=f"Holds if the 95 % interval of the share beyond the ring lies below "
                f"{floor:.0%} at every such size, does not hold if it lies above at one.",
                outcome=all_of(part.compare(1 - floor) for part in near),
            ),
        ]

    def rcan_looks(self, result: Measured, plain: Measured | None) -> list[Verdict]:
        """C6 for channel attention."""
        columns = result.columns
        spared = mean_interval(
            columns[f"before_{NEAR}"] - columns[f"foreign_{NEAR}"], result.sources
        ).clipped(-1, 1)
        ring = share(self.experiment, result, f"foreign_{NEAR}")
        before = share(self.experiment, result, f"before_{NEAR}")
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
        beyond = share(self.experiment, result, f"own_{FAR}")
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
        """C6 against EDSR; a positive `difference` of shares (n) supports the claim."""
        interval = mean_interval(difference, result.sources).clipped(-1, 1)
        return Verdict(
            claim="C6",
            statement=statement,
            net=None,
            about=f"{result.net.label} against {plain.net.label}",
            paper="seen in the attribution maps",
            ours=f"{interval.percent().text(signed=True)} percentage points in favour",
            test="Paired over the same pairs: holds if the 95 % interval of the difference of "
            "shares lies above 0, does not hold if it lies below.",
            outcome=interval.compare(0.0),
        )

    def draw(self, results: Sequence[Measured]) -> list[Chart | Gallery]:
        """One pair as in Figs 8-10, means over all pairs."""
        return nested.charts(self.experiment, results)
