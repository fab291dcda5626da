"""Numbers that are known before a network runs: which predicts PSNR within foregrounds best?

    fastbg run swap --out RUN && python bench/seam_predictors.py RUN [--data DIR]

Candidates beside the measures that `gram` has, on the composites with hard seams of a run of
`swap`: mean rank correlation (Spearman) within foregrounds, of all and of those on the half of the
images that `gram` holds out. Then what no one knows before: each network's PSNR and how much its
output changes, as a prediction for every network.

A second table has the paired difference of the measure `seam_error` and that of bicubic
restoration, and what the former gives on the halves of the foregrounds whose PSNR varies less and
more; a third compares the networks' change of output at the rim with that of linear
restoration, which is where `seam_error` has its weights from.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

import fastbg
from fastbg.data.builtin import builtin_images
from fastbg.data.readable import open_readable
from fastbg.experiments.groups import first_in_each, lr_composites, sources
from fastbg.experiments.study import Item, Study, restore
from fastbg.experiments.swap import Swap, SwapOptions
from fastbg.filters.bicubic import bicubic_matrix
from fastbg.geometry import Box, centre
from fastbg.measures.likeness import GREY_LEVEL, SIMILARITIES, Images, linear_restoration
from fastbg.models.bicubic import Bicubic
from fastbg.reports.gram import foreign_psnr, halves
from fastbg.runs.records import results, stored_experiments
from fastbg.runs.store import RunStore
from fastbg.stats.correlation import spearman
from fastbg.stats.intervals import mean_interval

LUMA = torch.tensor([0.299, 0.587, 0.114])
FIFTHS = 5
LAPLACE = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(3, 1, 3, 3)


def rim(images: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """Pixels inward and outward at each place of the rim: (B,3,4,n,depth) each."""
    turned = [images.rot90(turns, (-2, -1)) for turns in range(4)]
    inside = [each[..., box.y0 : box.y1, box.x0 : box.x1].mT for each in turned]
    outside = [each[..., : box.y0, box.x0 : box.x1].flip(-2).mT for each in turned]
    return torch.stack(inside, dim=2), torch.stack(outside, dim=2)


def roughness(levels: Tensor, box: Box, scale: int) -> Tensor:
    """Root mean square difference (4,n/scale) of neighbours along the rim, of one foreground."""
    sides = rim(levels[:1], box)[0][0, ..., :scale]  # [3,4,n,scale]
    slopes = sides.diff(dim=2)
    squares = torch.cat([slopes, slopes[:, :, -1:]], dim=2).square().mean((0, 3))
    return (squares.unflatten(-1, (-1, scale)).mean(-1) + GREY_LEVEL**2).sqrt()


def rim_parts(errors: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """Squared errors of squares (K,3,n,n), outermost pixels: of grey, of colour (K,4,n/scale)."""
    sides = torch.stack([errors.rot90(turns, (-2, -1))[..., 0, :] for turns in range(4)], dim=2)
    grey = sides.mean(1).square().unflatten(-1, (-1, scale)).mean(-1)
    return grey, sides.square().mean(1).unflatten(-1, (-1, scale)).mean(-1) - grey


def restored_linearly(lr: Tensor, hr_size: int, scale: int, box: Box) -> Tensor:
    """The foreground (K,3,n,n) of `lr` (K,3,h,w), with least mean squared error."""
    up = torch.from_numpy(linear_restoration(hr_size, scale)).to(lr)
    return up[box.y0 : box.y1] @ lr @ up[box.x0 : box.x1].mT


def projected_back(lr: Tensor, scale: int, box: Box) -> Tensor:
    """The foreground of bicubic restoration whose reduced image is `lr`: iterated to its limit."""
    up = Bicubic(scale).matrix(lr.shape[-1])
    down = torch.from_numpy(bicubic_matrix(lr.shape[-1] * scale, scale).copy())
    exact = (up @ torch.linalg.inv(down @ up)).to(lr)
    return exact[box.y0 : box.y1] @ lr @ exact[box.x0 : box.x1].mT


def candidates(item: Item, study: Study, o: SwapOptions) -> dict[str, Tensor]:
    """Each number (K) for the foreground of `item` in its backgrounds; the less, the better."""
    hr = sources(item, study)
    levels, lr = hr.float() / 255, lr_composites(item, hr, study, o)
    box, scale = Box(*centre(o.region, o.size, o.size)), study.scale
    return {
        **steps(levels, lr, box, scale),
        **inputs(levels, lr, box, study, o),
        **restorations(levels, lr, box, scale),
        **{name: measure(name, hr, lr, box, scale) for name in ("bicubic_error", "seam_error")},
    }


def measure(name: str, hr: Tensor, lr: Tensor, box: Box, scale: int) -> Tensor:
    """A measure of `gram` that asks no network but its scale."""
    inside, around = SIMILARITIES[name].describe(Images(hr, lr, box, Bicubic(scale)))
    return SIMILARITIES[name].distance(inside[:1], around)


def averaged(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean (K) of each of (K,...)."""
    return {name: values.flatten(1).mean(1) for name, values in found.items()}


def steps(levels: Tensor, lr: Tensor, box: Box, scale: int) -> dict[str, Tensor]:
    """Of the colours on both sides of the rim."""
    (own, _), (_, beside) = rim(levels[:1], box), rim(levels, box)
    small = box.coarsen(scale)
    lr_in, lr_out = rim(lr, small)
    step = own[..., 0] - beside[..., 0]  # [K,3,4,n]
    continued = 1.5 * own[..., 0] - 0.5 * own[..., 1] - 1.5 * beside[..., 0] + 0.5 * beside[..., 1]
    foreign = (beside - beside[:1])[..., :12].square()
    parts = step.square().mean(1).unflatten(-1, (-1, scale)).mean(-1).flatten(1)  # [K,n/4*4]
    rough = roughness(levels, box, scale).flatten()
    around = beside[..., :scale].diff(dim=3).square().mean((1, 4))  # [K,4,n-1]
    return averaged(
        {
            "step, mean absolute": step.abs(),
            "step, mean square": step.square(),
            "step, length of the colour difference": step.square().sum(1).sqrt(),
            "step of luma": (step * LUMA[:, None, None]).sum(1).abs(),
            "step, clipped at 0.1": step.abs().clamp(max=0.1),
            "step, logarithm": (step.abs() + 4 / 255).log(),
            "step, averaged over LR pixels": step.unflatten(-1, (-1, scale)).mean(-1).abs(),
            "step in the LR composite": (lr_in[..., 0] - lr_out[..., 0]).abs(),
            "step less the own background's, mean square": (step - step[:1]).square(),
            "step from both sides' continuation, mean square": continued.square(),
            "background less the own one, decaying over 4 pixels": foreign
            * (-torch.arange(foreign.shape[-1]) / 4).exp(),
            "step squared, the largest LR pixel": parts.amax(1, keepdim=True),
            "step squared, the median LR pixel": parts.median(1, keepdim=True).values,
            "how the step varies along the rim": step.diff(dim=-1).square(),
            "how the background varies along the rim": around,
            "step squared, by the foreground's roughness": parts * rough,
            "step squared / (itself + roughness squared)": parts / (parts + rough.square()),
        }
    )


def inputs(levels: Tensor, lr: Tensor, box: Box, study: Study, o: SwapOptions) -> dict[str, Tensor]:
    """Of what the network gets."""
    small, change = box.coarsen(study.scale), lr - lr[:1]
    around = (slice(small.y0 - 1, small.y1 + 1), slice(small.x0 - 1, small.x1 + 1))
    inner = (..., slice(small.y0, small.y1), slice(small.x0, small.x1))
    hard, bridged = (
        fastbg.composite(levels[:1], levels, first_in_each(levels), box, seam=seam)
        for seam in ("hard", 4.0)
    )
    soft = study.degrade((bridged * 255).round().to(torch.uint8), o.kernel)
    edges = conv2d(lr, LAPLACE, padding=1, groups=3)
    return averaged(
        {
            "change of the input, one LR pixel around": change[(..., *around)].abs(),
            "what a bridge of 4 pixels corrects, mean square": (bridged - hard).square(),
            "what it corrects in the input's foreground": (lr - soft)[inner].square(),
            "Laplacian of the input's foreground": edges[inner].abs(),
        }
    )


def restorations(levels: Tensor, lr: Tensor, box: Box, scale: int) -> dict[str, Tensor]:
    """Of restored foregrounds, without a network."""
    y0, x0, y1, x1 = box
    truth = levels[:1, :, y0:y1, x0:x1]
    bicubic = Bicubic(scale)(lr).clamp(0, 1)[..., y0:y1, x0:x1]
    linear = restored_linearly(lr, levels.shape[-1], scale, box)
    projected = projected_back(lr, scale, box)
    grey, colour = rim_parts(linear - truth, scale)
    rough = roughness(levels, box, scale)
    shifted = rough.flatten().roll(rough.numel() // 2).view_as(rough)  # of the opposite side
    return averaged(
        {
            "change of bicubic restoration": (bicubic - bicubic[:1]).square(),
            "error of bicubic restoration": (bicubic - truth).square(),
            "change of bicubic restoration, projected back": (projected - projected[:1]).square(),
            "error of bicubic restoration, projected back": (projected - truth).square(),
            "change of linear restoration": (linear - linear[:1]).square(),
            "error of linear restoration": (linear - truth).square(),
            "the same, outermost pixels": grey + colour,
            "the same, by the foreground's roughness": (grey + colour) * rough,
            "the same, by the root of roughness": (grey + colour) * rough.sqrt(),
            "the same, by the root of the opposite side's": (grey + colour) * shifted.sqrt(),
            "outermost pixels, grey counts half": grey / 2 + colour,
            "outermost pixels, grey counts twice": 2 * grey + colour,
            "grey counts half, by roughness": (grey / 2 + colour) * rough,
            "grey counts a quarter, by the root of roughness": (grey / 4 + colour) * rough.sqrt(),
        }
    )


def response(
    sr: Sequence[Tensor], items: Sequence[Item], study: Study, o: SwapOptions
) -> list[float]:
    """Where a network's output changes, and how much more than that of linear restoration.

    The share of the outermost pixels in the squared change; there, over that of linear restoration:
    of grey, of colour, and of both in each fifth of the positions, from smooth to rough.
    """
    found: list[list[Tensor]] = []
    everywhere = outermost = 0.0
    for each, item in zip(sr, items, strict=True):
        hr = sources(item, study)
        box, lr = Box(*centre(o.region, o.size, o.size)), lr_composites(item, hr, study, o)
        linear = restored_linearly(lr, hr.shape[-1], study.scale, box)
        parts = [rim_parts((y - y[:1])[1:], study.scale) for y in (each, linear)]
        rough = roughness(hr.float() / 255, box, study.scale).expand_as(parts[0][0])
        found.append([v.flatten() for v in (*parts[0], *parts[1], rough)])
        change = (each - each[:1]).square()
        everywhere += float(change.sum())
        outermost += float(change.sum() - change[..., 1:-1, 1:-1].sum())
    grey, colour, linear_grey, linear_colour, rough = (
        torch.cat([*v]) for v in zip(*found, strict=True)
    )
    both, linear_both = grey + colour, linear_grey + linear_colour
    fifths = rough.argsort().tensor_split(FIFTHS)
    return [
        outermost / everywhere,
        float(grey.sum() / linear_grey.sum()),
        float(colour.sum() / linear_colour.sum()),
        *(float(both[places].sum() / linear_both[places].sum()) for places in fifths),
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder with the built-in networks' swap")
    parser.add_argument("--data", type=Path, metavar="DIR", help="its images, if not built in")
    options = parser.parse_args()
    images = builtin_images() if options.data is None else open_readable(options.data)
    with RunStore.read(options.run) as store:
        swap = next(each for each in stored_experiments(store) if isinstance(each, Swap))
        measured = [swap.view(result, "hard") for result in results(store, swap)]
    items, study, o = measured[0].items, Study(images, seed=swap.seed), swap.options
    _, held = halves(items, swap.seed)
    rows = [candidates(item, study, o) for item in items]
    columns = {name: torch.stack([row[name] for row in rows]).numpy() for name in rows[0]}
    scores = {result.net.label: foreign_psnr(result) for result in measured}
    print("| number |" + "".join(f" {label}, all | held out |" for label in scores))
    print("|---" * (1 + 2 * len(scores)) + "|")
    for name, values in columns.items():
        show(name, [spearman(-values[:, 1:], score) for score in scores.values()], held)

    window, ratios = centre(o.region, o.size, o.size), {}
    for label, score in scores.items():
        net = fastbg.load_model(label)
        sr = [
            restore(net, lr_composites(item, sources(item, study), study, o), window)
            for item in items
        ]
        changes = np.stack([(y - y[:1]).square().flatten(1).mean(1).numpy() for y in sr])[:, 1:]
        for what, values in (
            (f"PSNR of {label}", score),
            (f"change of {label}'s output", -changes),
        ):
            show(what, [spearman(values, other) for other in scores.values()], held)
        ratios[label] = response(sr, items, study, o)

    columns_of = ("all", "held out", "PSNR varies less", "PSNR varies more")
    print(
        f"\n| `seam_error` less `bicubic_error` | {' | '.join(columns_of)} |\n|---|---|---|---|---|"
    )
    photographs = np.array([item.source for item in items])
    for label, score in scores.items():
        found, worse = (
            spearman(-columns[name][:, 1:], score) for name in ("seam_error", "bicubic_error")
        )
        spread = score.std(axis=1)
        less = spread < np.median(spread)
        differences = (
            mean_interval((found - worse)[chosen], photographs[chosen].tolist()).text(
                3, signed=True
            )
            for chosen in (held | True, held)
        )
        alone = (f"{found[chosen].mean():.2f}" for chosen in (less, ~less))
        print(f"| {label} | {' | '.join([*differences, *alone])} |")

    header = ("change of the outermost pixels", "share", "grey", "colour", "smooth to rough")
    print(f"\n| {' | '.join(header)} |")
    print("|---" * len(header) + "|")
    for label, numbers in ratios.items():
        share, grey, colour, *fifths = (f"{number:.2f}" for number in numbers)
        print(f"| {label} | {share} | {grey} | {colour} | {', '.join(fifths)} |")


def show(name: str, correlations: list[np.ndarray], held: np.ndarray) -> None:
    """A line of the table."""
    cells = [f"{rho.mean():.2f} | {rho[held].mean():.2f}" for rho in correlations]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
