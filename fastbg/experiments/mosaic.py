"""Section 6.2, Table 2, Figs 14 and 15: a region among copies of itself, against 25-fold TTA."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fastbg.errors import InvalidArgument
from fastbg.experiments.experiment import Experiment, Measured, Options, Summary, decibels
from fastbg.experiments.study import Item, Study, as_image, centre, restore
from fastbg.experiments.tta import average, family, restored_copies
from fastbg.measures.quality import psnr
from fastbg.models.network import Network
from fastbg.ops.composite import Transform, mosaic
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
from fastbg.stats.intervals import Interval, mean_interval, never_seen

# Mean PSNR (dB) of the region in its own image and in the mosaic (Table 2).
PAPER = {"edsr": (23.02, 23.28), "rcan": (23.11, 23.39), "swinir": (23.24, 23.33)}
# How a region is restored: column of the records, and its name in tables.
WAYS = {
    "whole": "in its own image",
    "alone": "the region alone",
    "mosaic": "in the mosaic",
    "tta": "test-time augmentation",
}
TOLERATED = 0.10  # an event that is rarer than this, at 95 %, counts as one that never happens
SHOWN = 2  # cases of either kind in the gallery
LARGEST = 400  # pixels a side of the photograph in the gallery


@dataclass(frozen=True)
class MosaicOptions(Options):
    """Sizes in HR pixels, differences in dB."""

    count: int = 69  # regions; the paper: 200
    region: int = 64
    size: int = 0  # of the image around the region that "its own image" means; 0: the photograph
    shave: int = 0  # border of the region that is not measured
    grid: int = 5  # regions along a side of the mosaic; TTA averages its square
    # What TTA draws from: identity, flips and turns, or also nearest zooms by 2 and 4.
    tta: Literal["turns", "zooms"] = "turns"
    harm: float = 0.0  # a loss of more than this counts as harm
    most: float = 0.1  # C9 says that TTA gains no more


class Mosaic(Experiment):
    """PSNR of a region in its own image, alone, in a mosaic of its copies, and with TTA."""

    name = "mosaic"
    title = "Do copies of a region make a better background than its own?"
    paper = "Section 6.2, Table 2, Figs 14 and 15"
    question = (
        "If similar surroundings help, a region should gain from a background of its own flipped, "
        "turned and zoomed copies. Does it, does it ever lose, and what does test-time "
        "augmentation (TTA) gain at the same price?"
    )
    method = (
        "The low-resolution (LR) region is restored four times: within its own image; alone; in "
        "the middle of a mosaic of its copies, drawn by seed from identity, flips, quarter turns "
        "and nearest zooms by 2 and 4; and by TTA, which restores as many flipped and turned "
        "copies one by one, undoes the transforms and averages. PSNR is that of the region."
    )
    options_type: ClassVar[type[Options]] = MosaicOptions
    shown = ("photograph", "mosaic_lr", "hr", "whole", "mosaic", "tta")

    def plan(self, study: Study) -> list[Item]:
        """Regions drawn by the seed, spread over the photographs."""
        o, scale = self.options, study.scale
        if o.region < 1 or o.region % scale:
            raise InvalidArgument("mosaic.region", o.region, f"a multiple of the scale {scale}")
        if o.size and (o.size < o.region or (o.size - o.region) % (2 * scale)):
            expected = f"0, or at least {o.region} with borders that the scale {scale} divides"
            raise InvalidArgument("mosaic.size", o.size, expected)
        if not 0 <= 2 * o.shave < o.region:
            raise InvalidArgument("mosaic.shave", o.shave, f"0 to less than {o.region // 2}")
        if o.grid < 1 or o.grid % 2 == 0:
            raise InvalidArgument(
                "mosaic.grid", o.grid, "an odd number: the region is in the middle"
            )
        border = (o.size - o.region) // 2 if o.size else 0
        items = []
        for item in study.sub_images(o.count, o.size or o.region):
            y0, x0, y1, x1 = item.box
            box = (y0 + border, x0 + border, y1 - border, x1 - border)
            items.append(Item(item.key, item.source, box))
        return items

    def surroundings(self, item: Item, study: Study) -> Item:
        """The image that the region `item` is a part of."""
        size, scale = self.options.size, study.scale
        if not size:
            height, width = study.images[item.source].size()
            box = (0, 0, height // scale * scale, width // scale * scale)
        else:
            border = (size - self.options.region) // 2
            y0, x0, y1, x1 = item.box
            box = (y0 - border, x0 - border, y1 + border, x1 + border)
        return Item(item.key, item.source, box)

    def measure(self, net: Network, items: Sequence[Item], study: Study) -> dict[str, Tensor]:
        """PSNR (dB) of the region restored in each way; size of the image around it."""
        o = self.options
        around = [self.surroundings(item, study) for item in items]
        images = [
            study.inputs([whole], study.ground_truth([whole]), o.lr, o.kernel) for whole in around
        ]
        windows = [inside(item.box, whole.box) for item, whole in zip(items, around, strict=True)]
        columns = self.compare(
            study.ground_truth(items),
            self.restored(net, images, windows, *self.draws(items, study), study.backend),
        )
        sizes = [(y1 - y0, x1 - x0) for y0, x0, y1, x1 in (whole.box for whole in around)]
        height, width = torch.tensor(sizes, device=study.device).unbind(1)
        return {**columns, "height": height, "width": width}

    def draws(self, items: Sequence[Item], study: Study) -> tuple[Tensor, Tensor]:
        """Codes of each mosaic (B,g,g), and how often TTA uses each transform (B,8)."""
        grid = self.options.grid
        drawable = [*family(self.options.tta == "zooms")]
        cells, counts = [], []
        for item in items:
            # Depends on nothing but the seed and the region: not on its place in a chunk.
            rng = np.random.default_rng((study.seed, zlib.crc32(item.key.encode())))
            drawn = rng.integers(len(Transform), size=(grid, grid))
            drawn[grid // 2, grid // 2] = Transform.IDENTITY
            cells.append(drawn)
            used = rng.choice(drawable, size=grid**2)
            counts.append(np.bincount(used, minlength=len(Transform)))
        return (
            torch.from_numpy(np.stack(cells)).to(study.device, non_blocking=True),
            torch.from_numpy(np.stack(counts)).to(study.device, non_blocking=True),
        )

    def restored(
        self,
        net: Network,
        images: Sequence[Tensor],
        windows: Sequence[tuple[int, int, int, int]],
        cells: Tensor,
        counts: Tensor,
        backend: str,
    ) -> dict[str, Tensor]:
        """The region (B,3,r,r) restored in each of `WAYS`.

        `windows` are the regions in SR pixels of the LR `images` (1,3,h,w); the mosaic and TTA get
        the LR pixels that the network sees there.
        """
        o = self.options
        whole = [restore(net, image, window) for image, window in zip(images, windows, strict=True)]
        tiles = torch.cat([cut(i, w, net.scale) for i, w in zip(images, windows, strict=True)])
        middle = centre(o.region, o.grid * o.region, o.grid * o.region)
        copies = restored_copies(net, tiles, o.tta == "zooms", backend)
        return {
            "whole": torch.cat(whole),
            "alone": copies[Transform.IDENTITY],
            "mosaic": restore(net, mosaic(tiles, cells, backend=backend), middle),
            "tta": average(copies, counts),
        }

    def compare(self, hr: Tensor, restored: dict[str, Tensor]) -> dict[str, Tensor]:
        """PSNR of each way against the regions `hr` (B,3,r,r) uint8; nothing leaves the device.

        "inner" is that of the half-sized square in the middle, which the seams hardly reach.
        """
        o, truth = self.options, hr.float() / 255
        return {
            f"{part}_{way}": psnr(sr, truth, shave=shave, channel=o.channel)
            for part, shave in (("psnr", o.shave), ("inner", o.region // 4))
            for way, sr in restored.items()
        }

    def exhibit(self, net: Network, item: Item, study: Study) -> dict[str, Picture]:
        """The photograph, the mosaic, the ground truth and three results."""
        o, whole = self.options, self.surroundings(item, study)
        photograph = study.ground_truth([whole])
        image = study.inputs([whole], photograph, o.lr, o.kernel)
        window = inside(item.box, whole.box)
        cells, counts = self.draws([item], study)
        results = self.restored(net, [image], [window], cells, counts, study.backend)
        tiles = cut(image, window, net.scale)
        shown = {
            "mosaic_lr": mosaic(tiles, cells, backend=study.backend),
            "hr": study.ground_truth([item]),
            **{way: results[way] for way in ("whole", "mosaic", "tta")},
        }
        pictures = {name: as_image(image[0]) for name, image in shown.items()}
        small = Image.fromarray(as_image(photograph[0]))
        small.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        return {"photograph": np.asarray(small), **pictures}

    def cases(self, measured: Measured) -> list[int]:
        """Where the mosaic gains most over the region's own image, then where it loses most."""
        order = np.argsort(gain(measured, "mosaic", "whole"), kind="stable")
        best, worst = order[::-1][:SHOWN], order[:SHOWN]
        return list(dict.fromkeys([*map(int, best), *map(int, worst)]))

    def summarise(self, results: Sequence[Measured]) -> Summary:
        """Gains and harm of each way, what each costs, claim C9."""
        rows, headlines = [], {}
        verdicts: list[Verdict] = []
        for result in results:
            paper = PAPER.get(result.net.architecture)
            published = {"whole": paper and paper[0], "mosaic": paper and paper[1]}
            for way, title in WAYS.items():
                against = [
                    None if way == other else value
                    for other in ("whole", "alone")
                    for value in (self.mean(result, way, other), self.harm(result, way, other))
                ]
                mean = float(decibels(result, f"psnr_{way}").mean())
                rows.append((result.net.label, title, mean, published.get(way), *against))
            both = [
                self.raises(result),
                self.never_harms(result),
                self.little(result),
                self.can_harm(result),
            ]
            verdicts += both
            headlines[result.net.label] = (
                f"mosaic {self.mean(result, 'mosaic', 'whole').text(2, signed=True)} dB against "
                f"its own image, TTA {self.mean(result, 'tta', 'alone').text(2, signed=True)} dB "
                f"against alone; C9 {' / '.join(v.outcome.value for v in both)}"
            )
        columns = (
            Column("network"),
            Column("restored"),
            Column("mean PSNR", "dB"),
            Column("the paper's", "dB"),
            Column("gain over its own image", "dB", 3, signed=True),
            Column("worse than there", "%", 1),
            Column("gain over the region alone", "dB", 3, signed=True),
            Column("worse than alone", "%", 1),
        )
        note = (
            f"{len(results[0].items)} regions. Intervals: 95 %, paired, Student's t over "
            "photographs. "
            f"Worse: the share of the regions that lose more than {self.options.harm:g} dB."
        )
        table = Table("mosaic", "Region restored in four ways, by network", columns, rows, note)
        return Summary(headlines, [table, self.inner(results), self.costs(results[0])], verdicts)

    def inner(self, results: Sequence[Measured]) -> Table:
        """What the seams have to do with it: mean gains in the whole region and in its middle."""
        pairs = (("mosaic", "whole"), ("mosaic", "alone"), ("tta", "alone"))
        names = ("mosaic over its own image", "mosaic over alone", "TTA over alone")
        columns = [Column("network"), Column("part")]
        columns += [Column(name, "dB", 3, signed=True) for name in names]

        def means(result: Measured, part: str) -> list[Interval]:
            gains = (gain(result, *pair, part) for pair in pairs)
            return [mean_interval(values, result.sources) for values in gains]

        rows: list[Sequence[Cell]] = [
            (result.net.label, title, *means(result, part))
            for result in results
            for part, title in (("psnr", "region"), ("inner", "inner half"))
        ]
        note = "Copies do not fit to the region at its border. The inner half is far from there."
        return Table("mosaic_inner", "Is it the seams?", columns, rows, note)

    def costs(self, result: Measured) -> Table:
        """Network calls and LR pixels of each way, for one region."""
        o, copies = self.options, self.options.grid**2
        enlarged = [*family(o.tta == "zooms").values()]
        around = (result.columns["height"] * result.columns["width"]).mean() / o.region**2
        costs = {
            "whole": (1, float(around)),
            "alone": (1, 1.0),
            "mosaic": (1, float(copies)),
            "tta": (copies, copies * float(np.mean(enlarged))),
        }
        note = (
            "Pixels: those that the network is given, in multiples of the region's. fastbg does "
            f"with less: TTA's {copies} calls are {len(enlarged)} different ones, and of the own "
            "image and the mosaic it works out what the region can see of them."
        )
        columns = (
            Column("restored"),
            Column("network calls"),
            Column("pixels given", "regions", 1),
        )
        rows = [(title, *costs[way]) for way, title in WAYS.items()]
        return Table("mosaic_cost", "What a region costs", columns, rows, note)

    def mean(self, result: Measured, way: str, other: str) -> Interval:
        """Mean gain of one way over another, paired, dB."""
        return mean_interval(gain(result, way, other), result.sources)

    def harmed(self, result: Measured, way: str, other: str) -> NDArray[np.bool_]:
        """Which regions (n) one way restores worse than another."""
        return gain(result, way, other) < -self.options.harm

    def harm(self, result: Measured, way: str, other: str) -> float:
        """Their share, %."""
        return 100 * float(self.harmed(result, way, other).mean())

    def raises(self, result: Measured) -> Verdict:
        """C9, the mean gain."""
        paper = PAPER.get(result.net.architecture)
        interval = self.mean(result, "mosaic", "whole")
        whole, mosaiced = (decibels(result, f"psnr_{way}").mean() for way in ("whole", "mosaic"))
        return Verdict(
            claim="C9",
            statement="A mosaic of a region's own copies raises its PSNR on average.",
            net=result.net.label,
            paper="-" if paper is None else f"{paper[0]:.2f} to {paper[1]:.2f} dB",
            ours=f"{whole:.2f} to {mosaiced:.2f} dB: {interval.text(3, signed=True)} dB",
            test="Against the region in its own image, paired: holds if the 95 % interval of the "
            "mean gain lies above 0, does not hold if it lies below.",
            outcome=interval.compare(0.0),
        )

    def never_harms(self, result: Measured) -> Verdict:
        """C9, no risk."""
        harmed = self.harmed(result, "mosaic", "whole")
        worst = gain(result, "mosaic", "whole").min()
        return Verdict(
            claim="C9",
            statement="The mosaic never harms.",
            net=result.net.label,
            paper="no risk of harm",
            ours=f"worse than in its own image: {harmed.sum()} of {harmed.size} regions, "
            f"at worst {worst:+.2f} dB",
            test=f"One region that loses more than {self.options.harm:g} dB refutes it. Holds if "
            "there is none in so many photographs that the share of photographs with one is below "
            f"{TOLERATED:.0%} at 95 %.",
            outcome=never_seen(harmed, result.sources, TOLERATED),
        )

    def little(self, result: Measured) -> Verdict:
        """C9, what TTA gains."""
        most, interval = self.options.most, self.mean(result, "tta", "alone")
        return Verdict(
            claim="C9",
            statement=f"{self.options.grid**2}-fold test-time augmentation gains {most:g} dB at "
            "most on average.",
            net=result.net.label,
            paper=f"at most {most:g} dB",
            ours=f"{interval.text(3, signed=True)} dB",
            test="Against the region alone, which TTA transforms, paired: holds if the 95 % "
            f"interval of the mean gain lies below {most:g} dB, does not hold if it lies above.",
            outcome=interval.compare(most).opposite,
        )

    def can_harm(self, result: Measured) -> Verdict:
        """C9, TTA's risk."""
        harmed = self.harmed(result, "tta", "alone")
        return Verdict(
            claim="C9",
            statement="Test-time augmentation can harm.",
            net=result.net.label,
            paper="sometimes worse than without",
            ours=f"worse than without: {harmed.sum()} of {harmed.size} regions, "
            f"at worst {gain(result, 'tta', 'alone').min():+.2f} dB",
            test=f"One region that loses more than {self.options.harm:g} dB is enough. Does not "
            "hold if there is none in so many photographs that the share of photographs with one "
            f"is below {TOLERATED:.0%} at 95 %.",
            outcome=never_seen(harmed, result.sources, TOLERATED).opposite,
        )

    def draw(self, results: Sequence[Measured]) -> list[Chart | Gallery]:
        """Mean gains beside the paper's, every region's gain in order, mosaics to look at."""
        caption = (
            "White: the region. The mosaic is shown as the network gets it. First where the mosaic "
            "gains most over the region's own image, then where it loses most; the best of the "
            "three results is in bold."
        )
        mosaics = self.galleries(results, self.strip, "Mosaics of", caption)
        return [self.draw_means(results), self.draw_gains(results), *mosaics]

    def draw_means(self, results: Sequence[Measured]) -> Chart:
        """Mean gain with its interval, the paper's beside it."""
        figure = figures.new_figure(1.2 + 0.75 * len(results))
        axis = figure.subplots()
        series = (
            ("mosaic over its own image", "mosaic", "whole", figures.FULL),
            ("mosaic over the region alone", "mosaic", "alone", figures.OTHERS[0]),
            ("TTA over the region alone", "tta", "alone", figures.ALONE),
        )
        for row, result in enumerate(results):
            for place, (label, way, other, colour) in enumerate(series):
                interval, y = self.mean(result, way, other), row + 0.24 * (place - 1)
                if interval.known:
                    axis.plot([interval.low, interval.high], [y, y], color=colour, linewidth=2)
                axis.plot(interval.value, y, "o", color=colour, label=label if not row else None)
            paper = PAPER.get(result.net.architecture)
            if paper is not None:
                figures.mark_paper(axis, paper[1] - paper[0], row - 0.24)
        axis.axvline(0, color=figures.MUTED, linewidth=0.8)
        figures.name_rows(axis, [r.net.label for r in results])
        axis.set_ylim(len(results) - 0.5, -0.5)
        axis.set_xlabel("mean gain, dB")
        axis.grid(axis="x")
        axis.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=2, fontsize=8.5)
        return Chart(
            "mosaic_means",
            "What do copies bring on average?",
            "Dots: mean gain over all regions. Lines: 95 % intervals. Diamonds: the mosaic's gain "
            "over the region's own image in the paper's Table 2 (200 images of DIV2K, published "
            "weights).",
            figure,
        )

    def draw_gains(self, results: Sequence[Measured]) -> Chart:
        """Every region's gain, in order: the mosaic's and TTA's."""
        figure = figures.new_figure(0.4 + 2.1 * len(results))
        axes = figure.subplots(len(results), 2, squeeze=False, sharex=True)
        pairs = (
            ("mosaic over own image", "mosaic", "whole"),
            ("TTA over alone", "tta", "alone"),
        )
        for row, result in zip(axes, results, strict=True):
            for axis, (title, way, other) in zip(row, pairs, strict=True):
                figures.gains_in_order(axis, gain(result, way, other))
                axis.set_title(f"{figures.short(result.net.label, 26)}\n{title}")
            row[0].set_ylabel("gain, dB")
        figure.supxlabel(
            "regions, from most helped to most hurt", color=figures.MUTED, fontsize=9.5
        )
        return Chart(
            "mosaic_gains",
            "Does it ever harm?",
            "One bar per region, in descending order. Blue: it came out better; red: worse. Left: "
            "the mosaic against the region's own image. Right: TTA against the region alone. "
            "Every plot has its own scale.",
            figure,
        )

    def strip(self, result: Measured, i: int) -> Strip:
        """One region: its place, the mosaic, ground truth, three results."""
        o, item = self.options, result.items[i]
        picture = {name: result.pictures[item.key, name] for name in self.shown}
        size = [int(result.columns[name][i]) for name in ("height", "width")]
        box = centre(o.region, *size) if o.size else item.box
        middle = centre(1, o.grid, o.grid)
        values = {way: float(result.columns[f"psnr_{way}"][i]) for way in WAYS}
        best = max(values[way] for way in ("whole", "mosaic", "tta"))

        def panel(way: str) -> Panel:
            detail = f"{values[way]:.2f} dB"
            return Panel(picture[way], WAYS[way], detail, best=values[way] == best)

        return Strip(
            f"{item.source}, at {item.box[0]}, {item.box[1]}",
            [
                Panel(picture["photograph"], "photograph", "", [Mark.pixels(box, size, "window")]),
                Panel(
                    picture["mosaic_lr"],
                    "the mosaic",
                    "",
                    [Mark.pixels(middle, (o.grid, o.grid), "window")],
                ),
                Panel(picture["hr"], "ground truth"),
                *(panel(way) for way in ("whole", "mosaic", "tta")),
            ],
            f"mosaic against its own image {values['mosaic'] - values['whole']:+.2f} dB, against "
            f"the region alone {values['mosaic'] - values['alone']:+.2f} dB",
        )


def gain(result: Measured, way: str, other: str, part: str = "psnr") -> NDArray[np.float64]:
    """PSNR of one way minus PSNR of another, dB (n): of the region, or of its "inner" half."""
    return decibels(result, f"{part}_{way}") - decibels(result, f"{part}_{other}")


def inside(
    box: tuple[int, int, int, int], outer: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    """`box` as seen from the corner of `outer`."""
    top, left = outer[:2]
    y0, x0, y1, x1 = box
    return y0 - top, x0 - left, y1 - top, x1 - left


def cut(lr: Tensor, window: Sequence[int], scale: int) -> Tensor:
    """LR pixels of the SR box `window`."""
    y0, x0, y1, x1 = (v // scale for v in window)
    return lr[..., y0:y1, x0:x1]
