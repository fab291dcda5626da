"""The tables and pictures of results in docs/, from a run folder.

    fastbg run --out RUN && python bench/results_table.py RUN

Writes two pages, between their marks. docs/results.md: the verdicts on each statement that the
experiments test, a column for each network, decided ones in **bold**. docs/concepts/seam.md: the
cost of each way of composing, and its predictors. docs/pictures: figures of the run's report.
Experiments may be in several run folders; each is taken from the first folder that has it.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import groupby
from pathlib import Path

from PIL import Image
from PIL.Image import Resampling

sys.path.append(str(Path(__file__).parents[1]))  # bench; fastbg is the installed one

from fastbg.experiments import EXPERIMENTS
from fastbg.reports.claims import Tested, by_statement, number_of
from fastbg.reports.content import CLAIMS, Section, Verdict
from fastbg.reports.seam import JUDGED, TITLES
from fastbg.runs.records import stored_experiments
from fastbg.runs.reporting import section
from fastbg.runs.store import RunStore
from fastbg.stats.intervals import Interval, Outcome

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- begin: python bench/results_table.py, {} -->", "<!-- end -->"


def claims(sections: Mapping[str, Section]) -> list[str]:
    """A heading for each claim; under it each statement with its verdicts."""
    tested = [each for part in sections.values() for each in by_statement(part)]
    tested.sort(key=lambda each: number_of(each.claim))
    lines: list[str] = []
    for claim, statements in groupby(tested, key=lambda each: each.claim):
        lines += [f"## {claim}. {CLAIMS[claim]}", ""]
        for each in statements:
            lines += [*statement(each), ""]
    return lines[:-1]


def statement(tested: Tested) -> list[str]:
    """What is claimed, a row for each subject with a column for each network, comparisons."""
    paper = f" The paper: {tested.paper}." if tested.paper else ""
    lines = [f"**{tested.statement}**{paper}", ""]
    named = [""] if any(about for about, _ in tested.rows) else []  # else one row for all images
    if tested.rows:
        lines += header(*named, *tested.nets)
    for about, cells in tested.rows:
        found = [cells[net].verdict if net in cells else None for net in tested.nets]
        texts = [outcome(verdict, tested) if verdict else "" for verdict in found]
        lines.append(line(*([about] if named else []), *texts))
    if tested.rows and tested.across:
        lines.append("")
    verdicts = [cell.verdict for cell in tested.across]
    return lines + [f"- {verdict.about}: {outcome(verdict, tested)}" for verdict in verdicts]


def outcome(verdict: Verdict, tested: Tested) -> str:
    """The outcome, what was measured, and the paper's result where it is this verdict's alone."""
    decided = verdict.outcome in (Outcome.HOLDS, Outcome.FAILS)
    text = f"**{verdict.outcome.value}**" if decided else verdict.outcome.value
    paper = "" if tested.paper else f" (the paper: {verdict.paper})"
    return f"{text}: {verdict.ours}{paper}".replace("|", r"\|")


def costs(sections: Mapping[str, Section]) -> list[str]:
    """Change of PSNR by foreign backgrounds, for each way of composing (`seam`)."""
    (found,) = (table for table in sections["seam"].tables if table.name == "seam")
    ways = [TITLES[way] for way in ("hard", "mean", JUDGED, "elsewhere")]
    lines = header("", *ways, "of the loss removed")
    for row in found.rows:
        cells = dict(zip((column.title for column in found.columns), row, strict=True))
        intervals = [cells[way] for way in ways]
        assert all(isinstance(each, Interval) for each in intervals)
        hard, bridged = (cells[TITLES[way]].value for way in ("hard", JUDGED))  # type: ignore[union-attr]
        removed = f"{1 - bridged / hard:.0%}" if hard < 0 else "-"
        texts = [each.text(2, signed=True) for each in intervals]  # type: ignore[union-attr]
        lines.append(line(f"{cells['network']}, {cells['set']}", *texts, removed))
    return lines


def predictors(sections: Mapping[str, Section]) -> list[str]:
    """How well each measure predicts PSNR within foregrounds, on held-out photographs (`gram`)."""
    (found,) = (t for t in sections["gram"].tables if t.name == "gram_similarities")
    by_measure: dict[str, dict[str, str]] = {}
    for net, measure, _, held in found.rows:
        assert isinstance(held, Interval)
        by_measure.setdefault(str(measure), {})[str(net)] = held.text(2, signed=True)
    nets = list(next(iter(by_measure.values())))
    return header("measure", *nets) + [
        line(measure, *(texts[net] for net in nets)) for measure, texts in by_measure.items()
    ]


def header(*titles: str) -> list[str]:
    """The first two lines of a table."""
    return [line(*titles), "|---" * len(titles) + "|"]


def line(*cells: str) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


# Page -> its blocks by name -> function that returns their lines.
BLOCKS: dict[str, dict[str, Callable[[Mapping[str, Section]], list[str]]]] = {
    "results.md": {"claims": claims},
    "concepts/seam.md": {"costs": costs, "predictors": predictors},
}

# Picture -> the figure that it shows, which part of its height from the top, its width in pixels.
PICTURES = {
    "ring_edsr.png": ("ring_pair", Fraction(1, 3), 1000),  # of three networks, the first
    "ring.png": ("ring_pair", Fraction(1), 1000),
    "seam_cases.png": ("seam_cases_1", Fraction(1, 2), 1400),  # the photographs, not the textures
    "seam_costs.png": ("seam_costs", Fraction(1), 1000),
    "swap_seams.png": ("swap_shares", Fraction(1), 900),
    "table1.png": ("table1_shares", Fraction(1), 900),
    "swap.png": ("swap_likeness", Fraction(1), 900),
    "gram.png": ("gram_similarities", Fraction(1), 900),
}


def sections_of(folders: Sequence[Path]) -> dict[str, Section]:
    """Each experiment's part of the report, by name."""
    found: dict[str, Section] = {}
    for folder in folders:
        with RunStore.read(folder) as store:
            for experiment in stored_experiments(store):
                if experiment.name not in found:
                    part = section(store, experiment)
                    if part is not None:
                        found[experiment.name] = part
    return {name: found[name] for name in EXPERIMENTS if name in found}


def write(sections: Mapping[str, Section]) -> None:
    """Write all blocks of all pages."""
    for name, blocks in BLOCKS.items():
        path = DOCS / name
        text = path.read_text(encoding="utf-8")
        for block, made in blocks.items():
            begin = BEGIN.format(block)
            before, mark, rest = text.partition(begin)
            if not mark:
                raise SystemExit(f"{path}: lacks the mark {begin}")
            lines = "\n".join(made(sections))
            text = f"{before}{begin}\n\n{lines}\n\n{END}{rest.partition(END)[2]}"
        path.write_text(text, encoding="utf-8")


def draw(folders: Sequence[Path]) -> None:
    """Write docs/pictures, each from the first report that has its figure."""
    for name, (figure, part, width) in PICTURES.items():
        found = [folder / "figures" / f"{figure}.png" for folder in folders]
        path = next((path for path in found if path.exists()), None)
        if path is None:
            continue
        with Image.open(path) as opened:
            whole = opened.convert("RGB")
        picture = whole.crop((0, 0, whole.width, int(whole.height * part)))
        size = width, round(picture.height * width / picture.width)
        picture.resize(size, Resampling.LANCZOS).save(DOCS / "pictures" / name, optimize=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder")
    folders = parser.parse_args().runs
    write(sections_of(folders))
    draw(folders)


if __name__ == "__main__":
    main()
