"""Do the results of `seam` hold for other seeds, sizes, kernels, channels, scales and networks?

    python bench/seam_checks.py                      all checks on the built-in images
    python bench/seam_checks.py --data DIR           the same experiment on other photographs
    python bench/seam_checks.py seed_1 region_16     some of them

Each check is a run of `seam` on 24 foregrounds of each set in 5 foreign backgrounds, with EDSR
unless the check names another network. Each has its own folder under --out; the same command
resumes it. Writes the table of all finished checks between the two marks of docs/concepts/seam.md.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

import torch

import fastbg
from fastbg.experiments.experiment import decibels
from fastbg.experiments.groups import SETS
from fastbg.models.bicubic import Bicubic
from fastbg.models.network import Network
from fastbg.reports.groups import parts
from fastbg.reports.seam import JUDGED, SeamReport, change
from fastbg.runs.records import results, stored_experiments
from fastbg.runs.store import RunStore
from fastbg.stats.intervals import mean_interval

PAGE = Path(__file__).parents[1] / "docs" / "concepts" / "seam.md"
MARKS = ("<!-- begin: python bench/seam_checks.py -->", "<!-- end -->")
FEWER = {"seam.backgrounds": 6}  # the own one and five foreign ones


@dataclass(frozen=True)
class Check:
    """A run of `seam` that differs from the default in one setting."""

    title: str
    options: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    networks: tuple[str, ...] = ("edsr",)


CHECKS = {
    "default": Check("nothing", networks=("edsr", "swinir")),
    "seed_1": Check("seed 1", seed=1),
    "seed_2": Check("seed 2", seed=2),
    "region_16": Check("foreground of 16 pixels", {"seam.region": 16}),
    "region_64": Check("foreground of 64 pixels", {"seam.region": 64}),
    "channel_y": Check("PSNR on luma", {"seam.channel": "y"}),
    "kernel_pil": Check("Pillow's kernel", {"seam.kernel": "pil"}),
    "domain_lr": Check("composed in LR", {"seam.domain": "lr"}),
    "no_network": Check("bicubic up-sampling", networks=("bicubic",)),
    "scale_2": Check("x2, bicubic up-sampling", networks=("bicubic_x2",)),
    "untrained": Check("random weights", networks=("untrained edsr",)),
}


def network(name: str) -> Network:
    """The network that a check names."""
    if name.startswith("bicubic"):
        return Bicubic(2 if name.endswith("x2") else 4)
    net = fastbg.load_model(name.removeprefix("untrained "))
    if name.startswith("untrained "):
        torch.manual_seed(0)
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.reset_parameters()
    return net


def run(check: Check, folder: Path, data: Path | None) -> None:
    """Measure one check, and resume it if `folder` has a part of it."""
    fastbg.run_experiments(
        {name: network(name) for name in check.networks},
        ["seam"],
        data=data,
        out=folder,
        options={**FEWER, **check.options},
        seed=check.seed,
    )


def rows(title: str, folder: Path) -> list[str]:
    """A line of the table for each network and set of a run."""
    found = []
    with RunStore.read(folder) as store:
        (experiment,) = stored_experiments(store)
        said = SeamReport(experiment)
        for result in results(store, experiment):
            for name, part in parts(result).items():
                costs = {
                    way: mean_interval(change(part, way), part.sources) for way in ("hard", JUDGED)
                }
                own = decibels(part, "hard")[:, 0].mean()
                verdict = said.seam_is_most(part, name, costs)
                hard, bridged = costs["hard"], costs[JUDGED]
                removed = f"{1 - bridged.value / hard.value:.0%}" if hard.value < 0 else "-"
                cells = [
                    title,
                    f"{result.net.label}, {SETS[name]} ({len(part.items)})",
                    f"{own:.1f}",
                    hard.text(2, signed=True),
                    bridged.text(2, signed=True),
                    removed,
                    verdict.outcome.value,
                ]
                found.append(f"| {' | '.join(cells)} |")
    return found


def table(out: Path) -> str:
    """All checks under `out`, in the order of `CHECKS`, then those of other data sets."""
    heads = ("what differs", "network, set (foregrounds)", "own, dB", "hard seam, dB")
    heads += ("bridged over 4 pixels, dB", "of the loss removed", "C11")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, check in CHECKS.items():
        if (out / name).is_dir():
            lines += rows(check.title, out / name)
    for folder in sorted(out.glob("data *")):
        lines += rows(folder.name.removeprefix("data "), folder)
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(CHECKS)}; default: all")
    add("--data", type=Path, metavar="DIR", help="run the default on these photographs instead")
    add("--out", type=Path, default=Path("seam-checks"), metavar="DIR", help="folder of the runs")
    add("--table", action="store_true", help="write the table of finished checks, run nothing")
    options = parser.parse_args()
    if unknown := [name for name in options.checks if name not in CHECKS]:
        parser.error(f"checks: got {unknown[0]!r}; expected some of {', '.join(CHECKS)}")
    if options.data is not None:
        run(Check("other data"), options.out / f"data {options.data.resolve().name}", options.data)
    elif not options.table:
        for name in options.checks or CHECKS:
            run(CHECKS[name], options.out / name, None)
    text = PAGE.read_text(encoding="utf-8")
    before, found, rest = text.partition(MARKS[0])
    if not found:
        parser.error(f"{PAGE}: lacks the mark {MARKS[0]}")
    after = rest.partition(MARKS[1])[2]
    made = f"{before}{MARKS[0]}\n\n{table(options.out)}\n\n{MARKS[1]}{after}"
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
