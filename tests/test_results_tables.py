"""The tables of results in the documents: what the commands write, and where."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from fastbg.reports.content import Section, Verdict
from fastbg.stats.intervals import Outcome

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "bench").is_dir(), reason="the benchmarks are not here")


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("bench.results_table")


def verdict(net: str | None, about: str, outcome: Outcome) -> Verdict:
    return Verdict("C3", "Own is best.", net, "preferred", "9 of 10", "test", outcome, about)


def test_verdicts_stand_under_their_claims_and_statements(tables: ModuleType) -> None:
    swap = [
        verdict("edsr", "photographs, hard seam", Outcome.HOLDS),
        verdict("edsr", "photographs, bridged", Outcome.FAILS),
        verdict("rcan", "photographs, hard seam", Outcome.UNDECIDED),
        verdict(None, "rcan against edsr, bridged", Outcome.FAILS),
    ]
    table1 = [
        Verdict("C1", "Alone is better.", "edsr", "62 | 150", "a", "", Outcome.HOLDS),
        Verdict("C1", "Alone is better.", "rcan", "33", "b", "", Outcome.HOLDS),
    ]
    sections = {
        name: Section(name, "", "", "", "", {}, [], verdicts, [], {}, {}, 1, 1)
        for name, verdicts in (("swap", swap), ("table1", table1))
    }
    assert tables.claims(sections) == [
        "## C1. Background is not always useful",
        "",
        "**Alone is better.**",
        "",
        "| edsr | rcan |",
        "|---|---|",
        "| **holds**: a (the paper: 62 \\| 150) | **holds**: b (the paper: 33) |",
        "",
        "## C3. A region is restored best in its own background",
        "",
        "**Own is best.** The paper: preferred.",
        "",
        "|  | edsr | rcan |",
        "|---|---|---|",
        "| photographs, hard seam | **holds**: 9 of 10 | undecided here: 9 of 10 |",
        "| photographs, bridged | **does not hold**: 9 of 10 |  |",
        "",
        "- rcan against edsr, bridged: **does not hold**: 9 of 10",
    ]


def test_pictures_come_from_the_first_report_that_has_them(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("docs/pictures", "a/figures", "b/figures"):
        (tmp_path / place).mkdir(parents=True)
    Image.new("RGB", (2000, 900), "red").save(tmp_path / "a/figures/ring_pair.png")
    for figure in ("ring_pair", "seam_costs"):
        Image.new("RGB", (500, 300), "blue").save(tmp_path / f"b/figures/{figure}.png")
    monkeypatch.setattr(tables, "DOCS", tmp_path / "docs")
    tables.draw([tmp_path / "a", tmp_path / "b"])
    made = {path.name: Image.open(path) for path in (tmp_path / "docs/pictures").iterdir()}
    assert {name: (picture.size, picture.getpixel((0, 0))) for name, picture in made.items()} == {
        "ring.png": ((1000, 450), (255, 0, 0)),
        "ring_edsr.png": ((1000, 150), (255, 0, 0)),
        "seam_costs.png": ((1000, 600), (0, 0, 255)),
    }


def test_the_pages_have_the_marks(tables: ModuleType) -> None:
    if not tables.DOCS.is_dir():
        pytest.skip("the documents are not beside the tests")
    checks = importlib.import_module("bench.seam_checks")
    assert all(mark in checks.PAGE.read_text(encoding="utf-8") for mark in checks.MARKS)
    for page, blocks in tables.BLOCKS.items():
        text = (tables.DOCS / page).read_text(encoding="utf-8")
        for block in blocks:
            assert tables.END in text.partition(tables.BEGIN.format(block))[2], (page, block)
