"""Fig. 1 (section 1): one box, restored from inputs with more and more of its surroundings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastbg.errors import InvalidArgument
from fastbg.experiments.experiment import (
    Experiment,
    Measured,
    Options,
    Summary,
    Work,
    decibels,
    integers,
)
from fastbg.experiments.study import Item, Study, as_image, centre, restore
from fastbg.measures.quality import psnr
from fastbg.models.network import Network
from fastbg.reports import figures
from fastbg.reports.content import (
    Cell,
    Chart,
    Column,
    Gallery,
    Mark,
    Panel,
    Picture,
    Strip,
    Table,
    Verdict,
)
from fastbg.stats.intervals import Interval, mean_interval, share_interval

SHOWN = 2  # cases of either kind in the gallery
COLOURS = (figures.FULL, figures.ALONE, *figures.OTHERS)


@dataclass(frozen=True)
class SurroundingsOptions(Options):
    """Sizes in HR pixels."""

    count: int = 69  # boxes, one of each built-in image
    box: int = 64  # side of the box
    shave: int = 4  # border of the box that is not measured, as in Table 1
    margins: str = "0,8,16,32,64,96"  # surroundings on each side of the box
    # What is cut out: the network's input ("lr": the box holds the same LR pixels in all inputs),
    # or the HR image, which is then down-sampled alone ("hr").
    domain: Literal["lr", "hr"] = "lr"
    gap: float = 0.1  # dB by which fewer surroundings must be better to count
    many: float = 0.10  # C1 says "many": a larger share of the boxes than this


class Surroundings(Experiment):
    """PSNR of a box by the width of the surroundings that the network is given with it."""

    name = "surroundings"
    title = "How much of its surroundings does a box need?"
    paper = "Section 1, Fig. 1"
    question = (
        "The same box is restored several times, each time with more of the pixels around it. Do "
        "more pixels always help?"
    )
    method = (
        "From the low-resolution (LR) input a box is cut out with a margin that grows from nothing "
        "to the whole sub-image. The network restores each cutting; the same pixels in the box are "
        "compared with the ground truth."
    )
    options_type: ClassVar[type[Options]] = SurroundingsOptions
    shown = ("hr", "crops")

    @property
    def margins(self) -> tuple[int, ...]:
        """Widths of the surroundings, growing."""
        return tuple(integers("surroundings.margins", self.options.margins, among=0))

    @property
    def size(self) -> int:
        """Side of the box with all its surroundings."""
        return int(self.options.box) + 2 * self.margins[-1]

    def plan(self, study: Study) -> list[Item]:
        """Sub-images drawn by the seed, a box in the middle of each."""
        o, scale = self.options, study.scale
        if o.box < 1 or o.box % scale:
            raise InvalidArgument("surroundings.box", o.box, f"a multiple of the scale {scale}")
        for margin in self.margins:
            if margin < 0 or margin % scale:
                expected = f"multiples of the scale {scale}, none negative"
                raise InvalidArgument("surroundings.margins", margin, expected)
        if not 0 <= 2 * o.shave < o.box:
            raise InvalidArgument("surroundings.shave", o.shave, f"0 to less than {o.box // 2}")
        o.check_pairing(self.name)
        return study.sub_images(o.count, self.size)

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """PSNR (dB) of the box by margin."""
        hr = study.ground_truth(items)
        return self.compare(net, hr, self.inputs(items, hr, study))

    def work(self, items: Sequence[Item], study: Study) -> Work:
        """The box in each of its surroundings."""
        return Work(forwards=len(self.margins) * len(items))

    def inputs(self, items: Sequence[Item], hr: Tensor, study: Study) -> list[Tensor]:
        """LR inputs (B,3,h,w) of the sub-images `hr` (B,3,H,W) uint8, one batch per margin."""
        o, scale = self.options, study.scale
        sides = [o.box + 2 * margin for margin in self.margins]
        if o.domain == "hr":
            cut = (centre(side, *hr.shape[-2:]) for side in sides)
            return [study.degrade(hr[..., y0:y1, x0:x1], o.kernel) for y0, x0, y1, x1 in cut]
        lr = study.inputs(items, hr, o.lr, o.kernel)
        cut = (centre(side // scale, *lr.shape[-2:]) for side in sides)
        return [lr[..., y0:y1, x0:x1] for y0, x0, y1, x1 in cut]

    def compare(self, net: Network, hr: Tensor, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """The hot loop; nothing leaves the device."""
        o = self.options
        side = o.box - 2 * o.shave
        y0, x0, y1, x1 = centre(side, *hr.shape[-2:])
        truth = hr[..., y0:y1, x0:x1].float() / 255
        columns = {}
        for margin, lr in zip(self.margins, inputs, strict=True):
            whole = o.box + 2 * margin
            window = restore(net, lr, centre(side, whole, whole))
            columns[f"psnr_{margin}"] = psnr(window, truth, channel=o.channel)
        return columns

    def exhibit(self, net: Network, item: Item, study: Study) -> dict[str, Picture]:
        """Ground truth; the box restored with each margin, side by side."""
        hr = study.ground_truth([item])
        box = self.options.box
        crops = [
            as_image(restore(net, lr, centre(box, box + 2 * margin, box + 2 * margin))[0])
            for margin, lr in zip(self.margins, self.inputs([item], hr, study), strict=True)
        ]
        return {"hr": as_image(hr[0]), "crops": np.hstack(crops)}

    def cases(self, measured: Measured) -> list[int]:
        """Where most surroundings are worst against the best choice, then where they gain most."""
        worst = np.argsort(-self.regret(measured), kind="stable")[:SHOWN]
        best = np.argsort(-self.gain(measured, self.margins[-1]), kind="stable")[:SHOWN]
        return list(dict.fromkeys([*map(int, worst), *map(int, best)]))

    def gain(self, result: Measured, margin: int) -> NDArray[np.float64]:
        """PSNR with `margin` minus PSNR of the box alone, dB (n)."""
        return decibels(result, f"psnr_{margin}") - decibels(result, "psnr_0")

    def regret(self, result: Measured) -> NDArray[np.float64]:
        """Best PSNR of all margins minus PSNR with the largest, dB (n)."""
        scores = np.stack([decibels(result, f"psnr_{margin}") for margin in self.margins])
        best: NDArray[np.float64] = scores.max(axis=0) - scores[-1]
        return best

    def spread(self, result: Measured) -> NDArray[np.float64]:
        """Best minus worst PSNR of all margins, dB (n)."""
        scores = np.stack([decibels(result, f"psnr_{margin}") for margin in self.margins])
        return np.ptp(scores, axis=0)

    def share(self, result: Measured) -> Interval:
        """Share of the boxes that fewer surroundings restore better, by more than `gap`."""
        better = self.regret(result) > self.options.gap
        return share_interval(better, result.sources)

    def summarise(self, results: Sequence[Measured]) -> Summary:
        """PSNR by margin; how often less is more."""
        columns = [
            Column("network"),
            Column("boxes"),
            Column("mean PSNR, box alone", "dB"),
            *(Column(f"gain, {m} pixels around", "dB", signed=True) for m in self.margins[1:]),
            Column("better with fewer", "%", 1),
            Column("best minus worst, mean", "dB"),
            Column("best minus worst, largest", "dB"),
        ]
        rows: list[tuple[Cell, ...]] = []
        headlines, verdicts = {}, []
        for result in results:
            share, spread = self.share(result), self.spread(result)
            rows.append(
                (
                    result.net.label,
                    len(result.items),
                    float(decibels(result, "psnr_0").mean()),
                    *(self.mean_gain(result, margin) for margin in self.margins[1:]),
                    share.percent(),
                    mean_interval(spread, result.sources),
                    float(spread.max()),
                )
            )
            verdict = self.not_always_useful(result, share)
            verdicts.append(verdict)
            gain = self.mean_gain(result, self.margins[-1])
            headlines[result.net.label] = (
                f"{self.margins[-1]} pixels around gain {gain.text(2, signed=True)} dB, fewer are "
                f"better for {share.percent().text()} %; C1 {verdict.outcome.value}"
            )
        note = (
            f"Better with fewer: boxes that some smaller margin restores better than the largest "
            f"by more than {self.options.gap:g} dB. Best minus worst: over all margins of one box. "
            "Intervals: 95 %, Student's t over photographs."
        )
        title = "PSNR of the box, by its surroundings"
        return Summary(headlines, [Table(self.name, title, columns, rows, note)], verdicts)

    def mean_gain(self, result: Measured, margin: int) -> Interval:
        """Mean of `gain`."""
        return mean_interval(self.gain(result, margin), result.sources)

    def not_always_useful(self, result: Measured, share: Interval) -> Verdict:
        """C1, as Fig. 1 introduces it."""
        o = self.options
        return Verdict(
            claim="C1",
            statement="More surroundings are not always better: many boxes are restored best with "
            "fewer of them.",
            net=result.net.label,
            paper="one example",
            ours=f"{share.percent().text()} % of the boxes lose more than {o.gap:g} dB with "
            f"{self.margins[-1]} pixels around, against fewer",
            test=f"Holds if the 95 % interval of that share lies above {100 * o.many:g} %, does "
            "not hold if it lies below.",
            outcome=share.compare(o.many),
        )

    def draw(self, results: Sequence[Measured]) -> list[Chart | Gallery]:
        """The clearest cases as in Fig. 1, and the gain of every box by its surroundings."""
        return [*self.pictures(results), self.draw_gains(results)]

    def draw_gains(self, results: Sequence[Measured]) -> Chart:
        """A thin line per box, the mean with its interval."""
        figure = figures.new_figure(0.5 + 2.3 * len(results))
        axes = figure.subplots(len(results), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
        x = np.arange(len(self.margins))
        for number, (axis, result) in enumerate(zip(axes, results, strict=True)):
            colour = COLOURS[number % len(COLOURS)]
            gains = np.stack([self.gain(result, margin) for margin in self.margins])
            axis.plot(x, gains, color=figures.MUTED, linewidth=0.5, alpha=0.35)
            axis.axhline(0, color=figures.MUTED, linewidth=0.8)
            means = [self.mean_gain(result, margin) for margin in self.margins]
            axis.plot(x, [m.value for m in means], color=colour, marker="o", markersize=4)
            for place, interval in zip(x, means, strict=True):
                if interval.known:
                    axis.vlines(place, interval.low, interval.high, color=colour, linewidth=1.6)
            low, high = np.percentile(gains, [1, 99])
            axis.set_ylim(min(low, -0.1) - 0.1, max(high, 0.1) + 0.1)
            axis.set_title(figures.short(result.net.label, 60))
            axis.set_ylabel("gain, dB")
            axis.grid(axis="y")
        axes[-1].set_xticks(x, [str(margin) for margin in self.margins])
        axes[-1].set_xlabel("HR pixels of surroundings on each side of the box")
        return Chart(
            "surroundings_gains",
            "What do more surroundings bring?",
            "PSNR of the box against that of the box alone. Thin: each box. Thick: the mean, with "
            "its 95 % interval. A line that falls to the right lost by seeing more.",
            figure,
        )

    def pictures(self, results: Sequence[Measured]) -> list[Gallery]:
        """The clearest cases of each network."""
        found = []
        for number, result in enumerate(results):
            strips = [
                self.strip(result, i)
                for i in self.cases(result)
                if all((result.items[i].key, name) in result.pictures for name in self.shown)
            ]
            if strips:
                caption = (
                    "White: the box. Yellow: the inputs with more and more surroundings. Then the "
                    "box as it was restored from each of them; the best is in bold. First where "
                    "the largest input loses most, then where it gains most."
                )
                title = f"One box, growing surroundings: {result.net.label}"
                found.append(Gallery(f"surroundings_cases_{number + 1}", title, caption, strips))
        return found

    def strip(self, result: Measured, i: int) -> Strip:
        """One box: where it lies, its ground truth, and what became of it by margin."""
        item, box, size = result.items[i], self.options.box, self.size
        hr = result.pictures[item.key, "hr"]
        crops = np.split(result.pictures[item.key, "crops"], len(self.margins), axis=1)
        scores = [float(result.columns[f"psnr_{margin}"][i]) for margin in self.margins]
        y0, x0, y1, x1 = inside = centre(box, size, size)
        inputs = [centre(box + 2 * margin, size, size) for margin in self.margins[1:-1]]
        marks = [Mark.pixels(given, (size, size), "input") for given in reversed(inputs)]
        panels = [
            Panel(hr, "ground truth", "", [*marks, Mark.pixels(inside, (size, size), "window")]),
            Panel(hr[y0:y1, x0:x1], "the box", ""),
        ]
        for margin, crop, score in zip(self.margins, crops, scores, strict=True):
            title = f"{margin} pixels around" if margin else "box alone"
            panels.append(Panel(crop, title, f"{score:.2f} dB", (), score == max(scores)))
        loss = max(scores) - scores[-1]
        gain = scores[-1] - scores[0]
        return Strip(
            f"{item.source}, at {item.box[0]}, {item.box[1]}",
            panels,
            f"all surroundings: {gain:+.2f} dB against none, {-loss:+.2f} dB against the best",
        )
