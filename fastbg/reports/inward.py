"""The report of the experiment `inward`: tables, verdicts and figures."""

from collections.abc import Sequence

from fastbg.experiments.experiment import Measured
from fastbg.experiments.inward import Inward
from fastbg.experiments.nested import change
from fastbg.experiments.seams import title
from fastbg.reports import nested
from fastbg.reports.content import Chart, Gallery, Verdict
from fastbg.reports.nested import first, outcomes
from fastbg.reports.seams import with_seam
from fastbg.reports.section import ExperimentReport, Summary
from fastbg.stats.intervals import Interval, mean_interval

PAPER = {
    "edsr": "drops to some degree",
    "rcan": "drops little",
    "swinir": "drops by nearly 2 dB",
}


class InwardReport(ExperimentReport):
    """Tables, verdicts and figures of `Inward`."""

    experiment: Inward

    def summarise(self, results: Sequence[Measured]) -> Summary:
        """PSNR and attribution by the size of the kept part; claim C7."""
        verdicts: list[Verdict] = []
        said: dict[str, list[str]] = {result.net.label: [] for result in results}
        last = self.experiment.label(self.experiment.sizes[-1])
        for seam, seen in nested.views(self.experiment, results).items():
            for result in seen:
                loss = self.loss(result)
                found = self.drops(result, loss)
                verdicts += with_seam(found, seam)
                said[result.net.label].append(
                    f"{last}, {title(seam)}, costs {loss.text(2, signed=True)} dB{outcomes(found)}"
                )
            verdicts += with_seam(self.largest(seen), seam)
        headlines = {label: ". ".join(texts) for label, texts in said.items()}
        return Summary(headlines, nested.tables(self.experiment, results), verdicts)

    def loss(self, result: Measured) -> Interval:
        """Mean loss of PSNR with the most foreign content, dB."""
        losses = -change(result, self.experiment.sizes[-1], self.experiment.untouched)
        return mean_interval(losses, result.sources)

    def drops(self, result: Measured, loss: Interval) -> list[Verdict]:
        """C7 for one network."""
        architecture, little = result.net.architecture, self.options.little
        if architecture not in PAPER:
            return []
        kept = self.experiment.label(self.experiment.sizes[-1])
        if architecture == "swinir":
            statement = "With self-attention PSNR drops far when foreign content closes in."
            test = f"holds if the 95 % interval of the mean loss lies above {little:g} dB, does "
            test += "not hold if it lies below."
            outcome = loss.compare(little)
        elif architecture == "rcan":
            statement = "With channel attention PSNR drops little when foreign content closes in."
            test = f"holds if the 95 % interval of the mean loss lies below {little:g} dB, does "
            test += "not hold if it lies above."
            outcome = loss.opposite.compare(-little)
        else:
            statement = "A plain CNN loses some PSNR when foreign content closes in."
            test = "holds if the 95 % interval of the mean loss lies above 0, does not hold if it "
            test += "lies below."
            outcome = loss.compare(0.0)
        return [
            Verdict(
                claim="C7",
                statement=statement,
                net=result.net.label,
                paper=PAPER[architecture],
                ours=f"{kept}: a loss of {loss.text(2)} dB",
                test=f"Paired over the pairs of images, {kept} against untouched: {test}",
                outcome=outcome,
            )
        ]

    def largest(self, results: Sequence[Measured]) -> list[Verdict]:
        """C7: self-attention loses more than other networks."""
        transformer = first(results, "swinir")
        if transformer is None:
            return []
        verdicts = []
        for other in (first(results, name) for name in ("edsr", "rcan")):
            if other is None:
                continue
            size = self.experiment.sizes[-1]
            more = change(other, size, self.experiment.untouched) - change(
                transformer, size, self.experiment.untouched
            )
            interval = mean_interval(more, other.sources)
            verdicts.append(
                Verdict(
                    claim="C7",
                    statement="The network that looks farthest loses most.",
                    net=None,
                    about=f"{transformer.net.label} against {other.net.label}",
                    paper="nearly 2 dB against little",
                    ours=f"{self.experiment.label(size)}: {interval.text(2, signed=True)} dB more",
                    test="Paired over the same pairs: holds if the 95 % interval of the difference "
                    "of losses lies above 0, does not hold if it lies below.",
                    outcome=interval.compare(0.0),
                )
            )
        return verdicts

    def draw(self, results: Sequence[Measured]) -> list[Chart | Gallery]:
        """One pair as in Figs 11-13, means over all pairs."""
        return nested.charts(self.experiment, results)
