"""Figs 11-13 (section 5, method 2): foreign content that grows inwards from the border."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fastbg.experiments import nested_report
from fastbg.experiments.experiment import Measured, Options, Summary
from fastbg.experiments.nested import Box, Nested, NestedOptions, change
from fastbg.experiments.nested_report import first, outcomes
from fastbg.experiments.study import centre
from fastbg.reports.content import Chart, Gallery, Verdict
from fastbg.stats.intervals import Interval, mean_interval

PAPER = {
    "edsr": "drops to some degree",
    "rcan": "drops little",
    "swinir": "drops by nearly 2 dB",
}


@dataclass(frozen=True)
class InwardOptions(NestedOptions):
    """Sizes in HR pixels: sides of the central part that is kept, `size` for all of it."""

    sizes: str = "128,96,80,64,48,32"
    little: float = 1.0  # dB; C7 calls a smaller loss little, a larger one large


class Inward(Nested):
    """The centre of an image kept, another image around it."""

    name = "inward"
    title = "What if foreign content closes in from the border?"
    paper = "Section 5, Figs 11-13"
    question = (
        "The surroundings of a window are replaced by something else, at first far away at the "
        "border, then closer and closer. From where on does the window suffer?"
    )
    method = (
        "Only the central part of an image is kept; around it lies a dissimilar image (another "
        "texture, by the distance of Gram matrices). The composite is reduced and restored, and "
        "only a small window in the middle is compared with the ground truth. A local attribution "
        "map then tells which input pixels made the window."
    )
    options_type: ClassVar[type[Options]] = InwardOptions
    axis = "side of the part that is kept, HR pixels"
    foreign_name = "the foreign surroundings"
    own_name = "the rest that is kept"

    @property
    def untouched(self) -> int:
        """All is kept."""
        return int(self.options.size)

    def boxes(self, size: int) -> tuple[Box, Box]:
        """From the square of `size` to the image's border."""
        return self.border(size), self.border(self.options.size)

    def border(self, size: int) -> Box:
        """The part that is kept."""
        return centre(size, self.options.size, self.options.size)

    def label(self, size: int) -> str:
        """ "48 kept"."""
        return "untouched" if size == self.untouched else f"{size} kept"

    def summarise(self, results: Sequence[Measured]) -> Summary:
        """PSNR and attribution by the part that is kept; claim C7."""
        verdicts: list[Verdict] = []
        headlines = {}
        for result in results:
            loss = self.loss(result)
            found = self.drops(result, loss)
            verdicts += found
            headlines[result.net.label] = (
                f"{self.label(self.sizes[-1])} costs {loss.text(2, signed=True)} dB"
                + outcomes(found)
            )
        verdicts += self.largest(results)
        return Summary(headlines, nested_report.tables(self, results), verdicts)

    def loss(self, result: Measured) -> Interval:
        """PSNR that the most foreign content costs, dB."""
        losses = -change(result, self.sizes[-1], self.untouched)
        return mean_interval(losses, result.sources)

    def drops(self, result: Measured, loss: Interval) -> list[Verdict]:
        """C7 for one network."""
        architecture, little = result.net.architecture, self.options.little
        if architecture not in PAPER:
            return []
        kept = self.label(self.sizes[-1])
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
        """C7: self-attention loses more than the others."""
        transformer = first(results, "swinir")
        if transformer is None:
            return []
        verdicts = []
        for other in (first(results, name) for name in ("edsr", "rcan")):
            if other is None:
                continue
            size = self.sizes[-1]
            more = change(other, size, self.untouched) - change(transformer, size, self.untouched)
            interval = mean_interval(more, other.sources)
            verdicts.append(
                Verdict(
                    claim="C7",
                    statement="The network that looks farthest loses most.",
                    net=f"{transformer.net.label} against {other.net.label}",
                    paper="nearly 2 dB against little",
                    ours=f"{self.label(size)}: {interval.text(2, signed=True)} dB more",
                    test="Paired over the same pairs: holds if the 95 % interval of the difference "
                    "of losses lies above 0, does not hold if it lies below.",
                    outcome=interval.compare(0.0),
                )
            )
        return verdicts

    def draw(self, results: Sequence[Measured]) -> list[Chart | Gallery]:
        """One pair as in Figs 11-13, means over all pairs."""
        return nested_report.charts(self, results)
