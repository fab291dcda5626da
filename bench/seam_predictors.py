"""Numbers that are known before a network runs: which predicts PSNR within foregrounds best?

    fastbg run swap --out RUN && python bench/seam_predictors.py RUN [--data DIR]

Candidates beside the measures that `gram` has, on the composites with hard seams of a run of
`swap`: mean rank correlation (Spearman) within foregrounds, of all and of those on the half of the
images that `gram` holds out. The last line is no candidate: it is how much the network's own output
changes, which no one knows before.
"""

import argparse
import sys
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
from fastbg.geometry import Box, centre
from fastbg.models.bicubic import Bicubic
from fastbg.reports.gram import foreign_psnr, halves
from fastbg.runs.records import results, stored_experiments
from fastbg.runs.store import RunStore
from fastbg.stats.correlation import spearman

LUMA = torch.tensor([0.299, 0.587, 0.114])
LAPLACE = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(3, 1, 3, 3)


def rim(images: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """Pixels inward and outward at each place of the rim: (B,3,4,n,depth) each."""
    turned = [images.rot90(turns, (-2, -1)) for turns in range(4)]
    inside = [each[..., box.y0 : box.y1, box.x0 : box.x1].mT for each in turned]
    outside = [each[..., : box.y0, box.x0 : box.x1].flip(-2).mT for each in turned]
    return torch.stack(inside, dim=2), torch.stack(outside, dim=2)


def candidates(item: Item, study: Study, o: SwapOptions) -> dict[str, Tensor]:
    """Each number (K) for the foreground of `item` in its backgrounds; the less, the better."""
    hr = sources(item, study)
    levels, lr = hr.float() / 255, lr_composites(item, hr, study, o)
    box, scale = Box(*centre(o.region, o.size, o.size)), study.scale
    small = box.coarsen(scale)
    step = rim(levels[:1], box)[0][..., 0] - rim(levels, box)[1][..., 0]  # [K,3,4,n]
    (lr_in, lr_out), change = rim(lr, small), lr - lr[:1]
    around = (slice(small.y0 - 1, small.y1 + 1), slice(small.x0 - 1, small.x1 + 1))
    hard, bridged = (
        fastbg.composite(levels[:1], levels, first_in_each(levels), box, seam=seam)
        for seam in ("hard", 4.0)
    )
    soft = study.degrade((bridged * 255).round().to(torch.uint8), o.kernel)
    y0, x0, y1, x1 = box
    restored = Bicubic(scale)(lr).clamp(0, 1)[..., y0:y1, x0:x1]
    edges = conv2d(lr, LAPLACE, padding=1, groups=3)
    inner = edges[..., small.y0 : small.y1, small.x0 : small.x1].abs()
    found = {
        "step, mean absolute": step.abs(),
        "step, mean square": step.square(),
        "step, length of the colour difference": step.square().sum(1).sqrt(),
        "step of luma": (step * LUMA[:, None, None]).sum(1).abs(),
        "step, clipped at 0.1": step.abs().clamp(max=0.1),
        "step, logarithm": (step.abs() + 4 / 255).log(),
        "step, averaged over LR pixels": step.unflatten(-1, (-1, scale)).mean(-1).abs(),
        "step in the LR composite": (lr_in - lr_out)[..., 0].abs(),
        "change of the input, one LR pixel around": change[(..., *around)].abs(),
        "what a bridge of 4 pixels corrects, mean square": (bridged - hard).square(),
        "what it corrects in the input's foreground": (lr - soft)[
            ..., small.y0 : small.y1, small.x0 : small.x1
        ].square(),
        "Laplacian of the input's foreground": inner,
        "change of bicubic restoration": (restored - restored[:1]).square(),
        "error of bicubic restoration": (restored - levels[:1, :, y0:y1, x0:x1]).square(),
    }
    return {name: values.flatten(1).mean(1) for name, values in found.items()}


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
    items, study, o = measured[0].items, Study(images), swap.options
    _, held = halves(items, swap.seed)
    rows = [candidates(item, study, o) for item in items]
    columns = {name: torch.stack([row[name] for row in rows]).numpy() for name in rows[0]}
    window = centre(o.region, o.size, o.size)
    print("| number |" + "".join(f" {r.net.label}, all | held out |" for r in measured))
    print("|---" * (1 + 2 * len(measured)) + "|")
    for name, values in columns.items():
        show(name, [spearman(-values[:, 1:], foreign_psnr(r)) for r in measured], held)
    changes = []
    for result in measured:
        net, found = fastbg.load_model(result.net.label), []
        for item in items:
            sr = restore(net, lr_composites(item, sources(item, study), study, o), window)
            found.append((sr - sr[:1]).square().flatten(1).mean(1).numpy())
        changes.append(spearman(-np.stack(found)[:, 1:], foreign_psnr(result)))
    show("change of the network's own output", changes, held)


def show(name: str, correlations: list[np.ndarray], held: np.ndarray) -> None:
    """A line of the table."""
    cells = [f"{rho.mean():.2f} | {rho[held].mean():.2f}" for rho in correlations]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
