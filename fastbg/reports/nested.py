"""Tables, charts and pictures of the experiments with nested squares (`ring`, `inward`)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from fastbg.experiments.experiment import Measured, decibels
from fastbg.experiments.nested import GAP, Nested, change
from fastbg.experiments.seams import HARD, Seam, title
from fastbg.reports import figures
from fastbg.reports.content import Cell, Chart, Column, Gallery, Mark, Panel, Strip, Table, Verdict
from fastbg.reports.seams import NOTE
from fastbg.stats.intervals import Interval, mean_interval

COLOURS = (figures.FULL, figures.ALONE, *figures.OTHERS)
READABLE = 0.07  # smallest share whose bar has room for a number


def outcomes(verdicts: Sequence[Verdict]) -> str:
    """The outcomes for a headline, such as "; C5 holds / undecided here; C6 holds"."""
    claims: dict[str, list[str]] = {}
    for verdict in verdicts:
        claims.setdefault(verdict.claim, []).append(verdict.outcome.value)
    return "".join(f"; {claim} {' / '.join(found)}" for claim, found in claims.items())


def first(results: Sequence[Measured], architecture: str) -> Measured | None:
    """The first network with this architecture; None if there is none."""
    return next((r for r in results if r.net.architecture == architecture), None)


def mean(experiment: Nested, result: Measured, column: str) -> Interval:
    """Mean of a column over the pairs, with its interval."""
    return mean_interval(result.columns[column], result.sources)


def share(experiment: Nested, result: Measured, column: str) -> Interval:
    """Mean of a column of shares; the interval is limited to 0..1."""
    return mean(experiment, result, column).clipped(0, 1)


def mean_change(experiment: Nested, result: Measured, size: int) -> Interval:
    """Mean change of PSNR from the unchanged image to `size`, dB."""
    gains = change(result, size, experiment.untouched)
    return mean_interval(gains, result.sources)


def views(experiment: Nested, results: Sequence[Measured]) -> dict[Seam, list[Measured]]:
    """The records of all networks by seam."""
    return {
        seam: [experiment.view(result, seam) for result in results] for seam in experiment.seams
    }


def attributed(experiment: Nested, results: Sequence[Measured]) -> list[tuple[str, Measured, str]]:
    """Name, records and column prefix of each network and of its null model, if measured."""
    found = []
    for result in results:
        found.append((result.net.label, result, ""))
        if f"null_di_{experiment.untouched}" in result.columns:
            found.append((f"{result.net.label}, random weights", result, "null_"))
    return found


def tables(experiment: Nested, results: Sequence[Measured]) -> list[Table]:
    """PSNR by size; then attribution by size."""
    return [psnr_table(experiment, results), attribution_table(experiment, results)]


def psnr_table(experiment: Nested, results: Sequence[Measured]) -> Table:
    """A row per network, a column per size."""
    untouched = experiment.label(experiment.untouched)
    columns = [Column("network"), Column("seam"), Column("pairs")]
    columns += [Column(f"mean PSNR, {untouched}", "dB")]
    columns += [
        Column(f"change, {experiment.label(s)}", "dB", signed=True) for s in experiment.changed
    ]
    rows: list[tuple[Cell, ...]] = [
        (
            result.net.label,
            title(seam),
            len(result.items),
            float(decibels(result, f"psnr_{experiment.untouched}").mean()),
            *(mean_change(experiment, result, size) for size in experiment.changed),
        )
        for seam, seen in views(experiment, results).items()
        for result in seen
    ]
    note = (
        f"Change: PSNR of the central window minus that of the same window, {untouched}, over the "
        f"same pairs. {NOTE} Intervals: 95 %, Student's t over photographs."
    )
    return Table(experiment.name, "PSNR of the window, by size and seam", columns, rows, note)


def attribution_table(experiment: Nested, results: Sequence[Measured]) -> Table:
    """A row per network and size."""
    columns = (
        Column("network"),
        Column("seam"),
        Column("size"),
        Column("diffusion index"),
        Column("share on the window", "%", 1),
        Column(f"share on {experiment.foreign_name}", "%", 1),
        Column("there, untouched", "%", 1),
        Column(f"share on {experiment.own_name}", "%", 1),
    )
    rows: list[tuple[Cell, ...]] = []
    for seam, seen in views(experiment, results).items():
        for name, result, prefix in attributed(experiment, seen):
            for size in experiment.attributed_with(seam):
                shares = (
                    share(experiment, result, f"{prefix}{part}_{size}").percent()
                    for part in ("window", "foreign", "before", "own")
                )
                index = mean(experiment, result, f"{prefix}di_{size}").clipped(0, 100)
                rows.append((name, title(seam), experiment.label(size), index, *shares))
    note = (
        "Shares of the attribution map, which add up to 100 %. 'There, untouched': the share of "
        "the same pixels in the unchanged image. Diffusion index: 0 if one pixel has all of it, "
        "100 if all have equal shares. Intervals as above."
    )
    name = f"{experiment.name}_attribution"
    return Table(name, "Which pixels were used for the window", columns, rows, note)


def charts(experiment: Nested, results: Sequence[Measured]) -> list[Chart | Gallery]:
    """One pair as in the paper's figures, then means over all pairs."""
    first = views(experiment, results)[experiment.seams[0]]
    return [
        *gallery(experiment, first),
        draw_psnr(experiment, results),
        draw_shares(experiment, first),
        draw_index(experiment, first),
    ]


def draw_psnr(experiment: Nested, results: Sequence[Measured]) -> Chart:
    """Change of PSNR by size, a line per network."""
    figure = figures.new_figure(3.2)
    axis = figure.subplots()
    lines = [
        (number, seam, result)
        for seam, seen in views(experiment, results).items()
        for number, result in enumerate(seen)
    ]
    for place, (number, seam, result) in enumerate(lines):
        means = [mean_change(experiment, result, size) for size in experiment.changed]
        label = f"{figures.short(result.net.label, 18)}, {title(seam)}"
        dash, colour = "-" if seam == HARD else "--", COLOURS[number % len(COLOURS)]
        line(axis, means, apart(place, len(lines)), colour, label, dash)
    axis.axhline(0, color=figures.MUTED, linewidth=0.8)
    size_axis(axis, experiment, experiment.changed)
    axis.set_ylabel("change of PSNR, dB")
    figure.legend(loc="outside upper left", ncols=len(experiment.seams), fontsize=8.5)
    return Chart(
        f"{experiment.name}_psnr",
        "How much PSNR is lost by foreign content?",
        f"PSNR of the window against {experiment.label(experiment.untouched)}: mean over "
        f"{len(results[0].items)} pairs of images. Bars: 95 % interval. Below 0: it harms. "
        "Dashed: the seam is bridged.",
        figure,
    )


def draw_index(experiment: Nested, results: Sequence[Measured]) -> Chart:
    """Diffusion index by size, a line per network; null models dashed."""
    figure = figures.new_figure(3.5)
    axis = figure.subplots()
    lines = attributed(experiment, results)
    nets = [result.net.label for result in results]
    for name, result, prefix in lines:
        means = [
            mean(experiment, result, f"{prefix}di_{size}").clipped(0, 100)
            for size in experiment.attributed
        ]
        number = nets.index(result.net.label)
        colour, dash = COLOURS[number % len(COLOURS)], "--" if prefix else "-"
        line(axis, means, apart(number, len(results)), colour, name, dash)
    size_axis(axis, experiment, experiment.attributed)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("diffusion index")
    figure.legend(loc="outside upper left", ncols=2, fontsize=8.5)
    return Chart(
        f"{experiment.name}_index",
        "How widely does the network look?",
        "Diffusion index of the attribution, mean over all pairs: the larger, the more evenly the "
        "attribution is spread over the image. Bars: 95 % interval. Composites: "
        f"{title(experiment.seams[0])}.",
        figure,
    )


def apart(place: int, count: int) -> float:
    """Shift to the right of line number `place` of `count`, so that intervals do not overlap."""
    return 0.12 * (place - (count - 1) / 2)


def line(
    axis: Axes, means: Sequence[Interval], shift: float, colour: str, label: str, dash: str
) -> None:
    """Means with their intervals at 0, 1, ..., moved to the right by `shift`."""
    values, lows, highs = (
        np.array(column) for column in zip(*((m.value, m.low, m.high) for m in means), strict=True)
    )
    x = np.arange(len(means)) + shift
    axis.plot(
        x, values, dash, marker="o", markersize=4, color=colour, label=figures.in_legend(label, 36)
    )
    known = np.isfinite(lows) & np.isfinite(highs)
    axis.vlines(x[known], lows[known], highs[known], color=colour, linewidth=1.4)


def size_axis(axis: Axes, experiment: Nested, sizes: Sequence[int]) -> None:
    """Label the horizontal axis with the sizes."""
    axis.set_xticks(range(len(sizes)), ["none" if size == 0 else str(size) for size in sizes])
    axis.set_xlabel(experiment.axis)
    axis.grid(axis="y")
    axis.set_axisbelow(True)


def draw_shares(experiment: Nested, results: Sequence[Measured]) -> Chart:
    """Shares of the attribution by size, stacked; a row of bars per network and null model."""
    rows = attributed(experiment, results)
    figure = figures.new_figure(0.9 + 1.7 * len(rows))
    axes = figure.subplots(len(rows), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    parts = (
        ("window", "the window", figures.FULL),
        ("foreign", experiment.foreign_name, figures.ALONE),
        ("own", experiment.own_name, figures.OTHERS[0]),
    )
    x = np.arange(len(experiment.attributed))
    for axis, (name, result, prefix) in zip(axes, rows, strict=True):
        bottom = np.zeros(len(x))
        for part, label, colour in parts:
            columns = [result.columns[f"{prefix}{part}_{size}"] for size in experiment.attributed]
            share = np.mean(columns, axis=1)
            axis.bar(x, share, 0.72, bottom, color=colour, label=label, linewidth=0)
            for i in np.flatnonzero(share >= READABLE):
                place = bottom[i] + share[i] / 2
                text = f"{100 * share[i]:.0f}"
                axis.text(x[i], place, text, ha="center", va="center", fontsize=8, color="white")
            bottom += share
        axis.set_title(figures.short(name, 60))
        axis.set_ylim(0, 1)
        axis.set_yticks([0, 0.5, 1], ["0", "50", "100 %"])
        axis.tick_params(axis="x", length=0)
    size_axis(axes[-1], experiment, experiment.attributed)
    axes[-1].grid(visible=False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, fontsize=8.5)
    return Chart(
        f"{experiment.name}_shares",
        "Where are the pixels that were used for the window?",
        "Share of the attribution on the window itself, on the foreign pixels and on the image's "
        f"other pixels, mean over all pairs. Composites: {title(experiment.seams[0])}.",
        figure,
    )


def gallery(experiment: Nested, results: Sequence[Measured]) -> list[Gallery]:
    """The first pair, a row per network and a column per size: SR image, map, PSNR."""
    strips = [
        strip(experiment, result, i)
        for result in results
        for i in experiment.cases(result)
        if (result.items[i].key, "grid") in result.pictures
    ]
    if not strips:
        return []
    return [
        Gallery(
            f"{experiment.name}_pair",
            "One pair, from an untouched image to the most foreign content",
            "The most dissimilar pair of images. Above: the composite, restored by the network. "
            "Below: the input pixels that were used for the central window (white square); the "
            "redder, the more. Yellow: border of the foreign content. PSNR is that of the window; "
            "DI, the diffusion index, is large if attribution is spread widely. "
            f"Composites: {title(experiment.seams[0])}."
            + (
                " Last: the same for a network with random weights."
                if f"null_di_{experiment.untouched}" in results[0].columns
                else ""
            ),
            strips,
        )
    ]


def strip(experiment: Nested, result: Measured, i: int) -> Strip:
    """One network's row."""
    item, sizes = result.items[i], experiment.sizes
    columns = np.split(result.pictures[item.key, "grid"], len(sizes), axis=1)
    panels = [
        Panel(
            picture,
            experiment.label(size),
            numbers(experiment, result, size, i),
            marks(experiment, size, picture.shape[:2]),
        )
        for size, picture in zip(sizes, columns, strict=True)
    ]
    return Strip(result.net.label, panels, f"{item.partners[0].image} in {item.image}")


def numbers(experiment: Nested, result: Measured, size: int, i: int) -> str:
    """PSNR of a picture's window, and the diffusion index of its map where all were measured."""
    text = f"{result.columns[f'psnr_{size}'][i]:.2f} dB"
    if size in experiment.attributed:
        text += f", DI {result.columns[f'di_{size}'][i]:.1f}"
    return text


def marks(experiment: Nested, size: int, shape: tuple[int, ...]) -> list[Mark]:
    """The window in the upper picture, and in all pictures the border of the foreign pixels."""
    side = experiment.options.size
    found = [Mark.pixels(experiment.window_box, shape, "window")]
    if size != experiment.untouched:
        y0, x0, y1, x1 = experiment.border(size)
        for top in range(0, shape[0], side + GAP):
            found.append(Mark.pixels((top + y0, x0, top + y1, x1), shape, "input"))
    return found
