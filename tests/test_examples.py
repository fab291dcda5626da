"""examples/: every script runs, the notebook too, and its stored output is what it prints.

They import only what the API reference documents.
"""

import ast
import io
import json
import os
import re
import runpy
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "first_lam.ipynb"
pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the examples are not beside")

# What each script prints, as a pattern, and the files that it writes.
SCRIPTS = {
    "swap_backgrounds": (r"seam hard: change .* -1\.\d\d dB.*seam 4\.0: .* -0\.\d\d dB", ()),
    "compare_networks": (
        r"edsr .*rcan .*swinir .* far away",
        ("lam_edsr.png", "lam_rcan.png", "lam_swinir.png"),
    ),
    "degradation_paths": (
        r"EDSR, JPEG: diffusion index \d.* misses [0-6]\.\d%.*median, rain: .* misses 0\.\d%",
        ("edsr_jpeg.png", "median_rain.png"),
    ),
    "nearest_texture": (r"grass/aitz_grass +grass/grass001 .*same class: \d+ of 45", ()),
    "own_network": (r"own-network-run/report\.html", ("own-network-run/report.html",)),
}


def cells() -> list[dict[str, Any]]:
    """The notebook's cells of Python, without IPython's own commands."""
    found = [
        c for c in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if c["cell_type"] == "code"
    ]
    for cell in found:
        cell["source"] = re.sub(r"^%.*\n", "", "".join(cell["source"]), flags=re.M)
    return found


def imported(source: str) -> set[str]:
    """The names that `source` takes from fastbg, without their modules."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("fastbg"):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_only_documented_names_are_imported(path: Path) -> None:
    source = path.read_text("utf-8")
    if path == NOTEBOOK:
        source = "\n".join(cell["source"] for cell in cells())
    reference = (ROOT / "docs" / "reference" / "api.md").read_text("utf-8")
    documented = set(re.findall(r"^\.\. auto\w+:: (?:[\w.]+\.)?(\w+)$", reference, flags=re.M))
    assert "psnr" in documented
    assert "import fastbg." not in source
    assert imported(source) <= documented


def test_every_script_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed, written = SCRIPTS[name]
    with redirect_stdout(io.StringIO()) as stdout:
        runpy.run_path(os.fspath(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert re.search(printed, stdout.getvalue(), flags=re.S), stdout.getvalue()
    for file in written:
        assert (tmp_path / file).stat().st_size > 1000


def numbers(text: str) -> list[float]:
    """All numbers in `text`."""
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


def test_the_notebook_prints_what_it_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text alike, and numbers to the last digit but one: instruction sets may round apart."""
    monkeypatch.setitem(mpl.rcParams, "backend", "agg")
    names: dict[str, object] = {}
    for cell in cells():
        with redirect_stdout(io.StringIO()) as stdout:
            exec(cell["source"], names)  # noqa: S102
        stored = "".join("".join(o["text"]) for o in cell["outputs"] if "text" in o)
        printed = stdout.getvalue()
        assert re.sub(r" *[\d.]+", "#", printed) == re.sub(r" *[\d.]+", "#", stored)
        assert numbers(printed) == pytest.approx(numbers(stored), rel=0.01, abs=0.05)


def test_the_notebook_has_run_and_is_small() -> None:
    code = cells()
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    pictures = [o["data"]["image/png"] for c in code for o in c["outputs"] if "data" in o]
    assert len(pictures) == 2
    assert NOTEBOOK.stat().st_size < 300_000


def test_links_of_the_notebook_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", NOTEBOOK.read_text("utf-8"))
    assert len(links) >= 3
    for link in links:
        assert (EXAMPLES / link).is_file(), link
