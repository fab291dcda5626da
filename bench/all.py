"""Every ratio in the documents, measured by one command at a clean commit.

    python bench/all.py                 measure (about an hour on two cores), store, write the table
    python bench/all.py --only gram     only the commands that contain this word
    python bench/all.py --table         write the table again from the stored ratios

Runs the benchmarks below on one thread, in CPU time, which excludes other processes. For each
instruction set, bench/baselines/speed.json has the last run of each command: its ratios with
quartiles, its machine and its commit. The table is written between the two marks in README.md or
docs/.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

from bench import measure

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "bench" / "baselines" / "speed.json"
MARKS = ("<!-- begin: python bench/all.py -->", "<!-- end -->")
ALONE = ["--threads", "1", "--clock", "cpu"]
# Instruction set -> heading of its column; the record holds commands of each.
COLUMNS = {"avx2": "AVX2", "avx512": "AVX-512"}
Record = dict[str, dict[str, Any]]  # command -> {"machine": {...}, "ratios": {name: [...]}}
NOTHING: dict[str, Any] = {"machine": {}, "ratios": {}}
NETS = {"edsr": "EDSR", "rcan": "RCAN", "swinir": "SwinIR"}
EXPERIMENTS = ("table1", "slicing", "swap", "mosaic", "ring", "inward")
# Causal effect maps: ending of the ratio's name -> what is measured, what it is compared with.
EFFECTS = {
    "over_published": ("3 + 50 replacements", "the public script's loop"),
    "over_good": ("3 + 50 replacements", "good PyTorch: batches, channels_last, the reach only"),
    "rounds_over_published": ('`accuracy="published"`', "the public script's loop"),
}

# Command -> ratio's name -> what is measured, what it is compared with.
COMMANDS: dict[tuple[str, ...], dict[str, tuple[str, str]]] = {
    ("bench/bench_peers.py", *ALONE): {
        f"{key}_forward_over_{peer}": (f"{name} forward, LR 64x64, batch 1", said)
        for key, name in NETS.items()
        for peer, said in {
            "torch_channels_last": "PyTorch, channels_last",
            "torch_compile": "torch.compile",
            "onnx_runtime": "ONNX Runtime",
            "openvino": "OpenVINO",
        }.items()
    },
    ("bench/bench_attribution.py", *ALONE): {
        f"attribution_{key}_{ours}_over_{peer}": (
            f"LAM of {name}, LR 64x64, window 16, {what}",
            said,
        )
        for key, name in NETS.items()
        for ours, what in {
            "fastbg": "50 steps, equal to 1e-3",
            "quick": "as accurate as 50 steps",
        }.items()
        for peer, said in {
            "published": "the public script's loop",
            "good": "good PyTorch: frozen, channels_last",
        }.items()
    },
    ("bench/bench_effect.py", "--networks", "edsr", "--sizes", "64", "128", "256", *ALONE): {
        f"effect_edsr_{size}_{ours}": (f"causal effect map of EDSR, LR {size}x{size}, {what}", said)
        for size in (64, 128, 256)
        for ours, (what, said) in EFFECTS.items()
    },
    ("bench/bench_effect.py", "--networks", "swinir", "--sizes", "128", *ALONE): {
        f"effect_swinir_128_{ours}": (f"causal effect map of SwinIR, LR 128x128, {what}", said)
        for ours, (what, said) in EFFECTS.items()
    },
    ("bench/bench_effect.py", "--networks", "rcan", "--sizes", "64", "--paths", "direct", *ALONE): {
        f"effect_rcan_64_direct_{ours}": (
            f"causal effect map of RCAN, direct paths, LR 64x64, {what}",
            said,
        )
        for ours, (what, said) in EFFECTS.items()
    },
    ("bench/end_to_end.py", "--model", *NETS, "--items", "1", *ALONE): {
        **{
            f"{key}_{experiment}_over_{peer}": (f"`{experiment}`, {name}", said)
            for experiment in EXPERIMENTS
            for key, name in NETS.items()
            for peer, said in {"naive": "naive", "good": "good PyTorch"}.items()
        },
        "suite_over_naive": ("all six, three networks, as many items as planned", "naive"),
        "suite_over_good": ("all six, three networks, as many items as planned", "good PyTorch"),
    },
    ("bench/bench_gram.py", *ALONE): {
        **{
            f"conv_gram_{shape}_over_{peer}": (f"`conv_gram`, {said}", against)
            for shape, said in {
                "16x128": "16 images of 128x128",
                "150x32": "150 of 32x32",
                "4x512": "4 of 512x512",
            }.items()
            for peer, against in {
                "naive": "plain PyTorch",
                "good_torch": "PyTorch, channels_last",
            }.items()
        },
        **{
            f"gram_{shape}_over_{peer}": (
                f"`gram`, {shape.replace('x', ' channels, ')} pixels",
                said,
            )
            for shape in ("64x16384", "64x1024", "128x4096", "256x4096", "512x1024")
            for size in (shape.replace("x", " channels, "),)
            for peer, said in {"bmm": "torch.bmm", "ssyrk": "BLAS ssyrk"}.items()
        },
    },
    ("bench/bench_composite.py", *ALONE): {
        "composite_over_good_torch": ("`composite`, 2,250 of 128x128", "good PyTorch"),
        "composite_over_naive": ("`composite`, 2,250 of 128x128", "naive, pair by pair"),
        "composite_lr_over_good_torch": (
            "`composite_lr`, 2,250 of 128x128",
            "PyTorch, sources down-sampled once",
        ),
        "composite_lr_over_batched": (
            "`composite_lr`, 2,250 of 128x128",
            "PyTorch, composites down-sampled in a batch",
        ),
        "composite_lr_over_naive": ("`composite_lr`, 2,250 of 128x128", "naive, pair by pair"),
        "bridged_composite_over_good_torch": ("`composite`, seam bridged", "good PyTorch"),
        "bridged_composite_over_naive": ("`composite`, seam bridged", "naive, pair by pair"),
        "bridged_composite_lr_over_good_torch": ("`composite_lr`, seam bridged", "good PyTorch"),
        "bridged_composite_lr_over_naive": ("`composite_lr`, seam bridged", "naive, pair by pair"),
    },
}


def measured(command: tuple[str, ...]) -> dict[str, list[float]]:
    """Runs a benchmark; its `ratio` lines: name -> median, quartiles."""
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    print(done.stdout, flush=True)
    lines = (line.split() for line in done.stdout.splitlines() if line.startswith("ratio "))
    return {name: [float(value) for value in values] for _, name, *values in lines}


def text_of(ratio: list[float]) -> str:
    """ "4.1 (4.0 to 4.3)"."""
    value, *quartiles = (f"{v:.3g}" for v in ratio)
    return f"{value} ({' to '.join(quartiles)})" if quartiles else value


def line_of(command: tuple[str, ...]) -> str:
    """The command as typed, which is also its key in the record."""
    return f"python {' '.join(command)}"


def source_of(record: dict[str, Any]) -> str:
    """ "AMD EPYC (family 25, model 1), commit d0fa92e", or nothing where nothing was measured."""
    machine = record["machine"]
    return f"{machine['processor']}, commit {machine['commit']}" if record["ratios"] else ""


def releases(kept: dict[str, Record]) -> str:
    """The releases of PyTorch that were measured."""
    found = {r["machine"]["torch"] for records in kept.values() for r in records.values()}
    return f"PyTorch {' and '.join(sorted(found))}."


def table(kept: dict[str, Record]) -> str:
    """The table in Markdown, a column for each instruction set that was measured."""
    columns = {isa: kept[isa] for isa in COLUMNS if isa in kept}
    lines = [
        MARKS[0],
        "Times of the other divided by fastbg's: above 1, fastbg is faster. One thread; medians of "
        "interleaved runs, quartiles in brackets.",
        "The line of a command names processor and commit of its rows. " + releases(columns),
        "",
        f"| what | against | {' | '.join(COLUMNS[isa] for isa in columns)} |",
        "|---|---|" + "---|" * len(columns),
    ]
    for command, rows in COMMANDS.items():
        found = [records.get(line_of(command), NOTHING) for records in columns.values()]
        wanted = [name for name in rows if any(name in r["ratios"] for r in found)]
        if wanted:
            lines.append(f"| | `{line_of(command)}` | {' | '.join(map(source_of, found))} |")
        for name in wanted:
            what, against = rows[name]
            cells = (text_of(r["ratios"][name]) if name in r["ratios"] else "" for r in found)
            lines.append(f"| {what} | {against} | {' | '.join(cells)} |")
    return "\n".join([*lines, MARKS[1]])


def documents() -> list[Path]:
    """The documents that have the marks."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in found if MARKS[0] in path.read_text(encoding="utf-8")]


def clean_commit() -> str | None:
    """The checked-out commit; None if files that this script does not write have changes."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout

    written = {str(path.relative_to(ROOT)) for path in (KEPT, *documents())}
    changed = set(git("diff", "--name-only", "HEAD").splitlines())
    return None if changed - written else git("rev-parse", "--short", "HEAD").strip()


def write(kept: dict[str, Record]) -> None:
    """Write the table between the marks of every document that has them."""
    for path in documents():
        text = path.read_text(encoding="utf-8")
        before, _, rest = text.partition(MARKS[0])
        path.write_text(before + table(kept) + rest.partition(MARKS[1])[2], encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--table", action="store_true", help="only write the table, measure nothing"
    )
    parser.add_argument("--only", metavar="WORD", help="only commands that contain this word")
    options = parser.parse_args()
    kept: dict[str, Record] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    if not options.table:
        from fastbg.registration.dispatch import instruction_set

        commit = clean_commit()
        if commit is None:
            parser.error("there are changes that are not committed")
        records = kept.setdefault(instruction_set(), {})
        for command in COMMANDS:
            if options.only is None or options.only in line_of(command):
                ratios = measured(command)
                about = measure.machine() | {"commit": commit}
                records[line_of(command)] = {"machine": about, "ratios": ratios}
                KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    write(kept)


if __name__ == "__main__":
    main()
