"""CONTRIBUTING.md, followed word for word in a copy of the package: experiment, measure, option."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import fastbg

ROOT = Path(__file__).parents[1]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PACKAGE = Path(fastbg.__file__).parent
pytestmark = pytest.mark.skipif(
    not CONTRIBUTING.is_file(), reason="the documents are not beside the tests"
)

Run = Callable[..., subprocess.CompletedProcess[str]]


def blocks(page: Path) -> list[str]:
    """The Python blocks of a page, without their indentation."""
    found = []
    for indent, block in re.findall(
        r"^( *)```python\n(.*?)^ *```", page.read_text(encoding="utf-8"), flags=re.S | re.M
    ):
        found.append(re.sub(rf"^{indent}", "", block, flags=re.M))
    return found


def insert(file: Path, after: str, text: str) -> None:
    """Put `text` behind the line that contains `after`, the first one."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if after in line) + 1
    file.write_text("".join([*lines[:at], text, *lines[at:]]), encoding="utf-8")


def add_experiment(package: Path) -> None:
    """Steps 1 to 3 of "Add an experiment", with the tutorial's two files."""
    experiment, report = blocks(ROOT / "docs" / "tutorials" / "write_experiment.md")[:2]
    (package / "experiments" / "grey.py").write_text(experiment, encoding="utf-8")
    (package / "reports" / "grey.py").write_text(report, encoding="utf-8")
    rows = re.findall(r"^ +\| `fastbg/(\S+)`, .* \| (.*) \|$", CONTRIBUTING.read_text(), flags=re.M)
    assert len(rows) == 3
    for file, lines in rows:
        *imported, entry = re.findall(r"`(.*?)`", lines)
        registry = re.search(r"^(?:EXPERIMENTS|REPORTS)\b.*$", (package / file).read_text(), re.M)
        assert registry is not None
        start = "    for e in (" if file == "experiments/__init__.py" else registry.group()
        insert(package / file, start, f"        {entry}\n")
        for line in imported:
            insert(package / file, "from fastbg.experiments.experiment import", f"{line}\n")


def add_measure(package: Path) -> None:
    """Steps 1 and 2 of "Add a measure of similarity"."""
    function, entry = blocks(CONTRIBUTING)[:2]
    file = package / "measures" / "likeness.py"
    text = file.read_text(encoding="utf-8")
    registry = "SIMILARITIES: dict[str, Similarity] = {\n"
    assert text.count(registry) == 1
    new = f"{function}\n\n{registry}    {entry.strip()}\n"
    file.write_text(text.replace(registry, new), encoding="utf-8")


def add_option(package: Path) -> None:
    """The field of "Add an option", and a line that reads it."""
    field = re.sub(r"^", "    ", blocks(CONTRIBUTING)[2].rstrip("\n"), flags=re.M)
    file = package / "experiments" / "grey.py"
    insert(file, "import ClassVar", "from typing import Literal\n")
    insert(file, '"""Sizes in HR pixels."""', f"\n{field}\n")
    use = '        if o.background == "middle":\n            mean = torch.full_like(mean, 128)\n'
    insert(file, "mean = hr.float()", use)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs `fastbg ...` on a copy of the package that has all three."""
    folder = tmp_path_factory.mktemp("contributing")
    package = folder / "fastbg"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    (package / "assets").symlink_to(PACKAGE / "assets")
    add_experiment(package)
    add_measure(package)
    add_option(package)

    def fastbg_command(*arguments: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(folder), *filter(None, sys.path)])
        return subprocess.run(
            [sys.executable, "-m", "fastbg.cli", *arguments],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )

    return fastbg_command


def test_experiment_and_measure_are_run_and_reported(run: Run, tmp_path: Path) -> None:
    done = run(
        *("run", "grey", "gram", "--model", "edsr", "--limit", "2", "--out", str(tmp_path / "run")),
        *("-o", "grey.count=2", "-o", "grey.background=middle", "-q"),
        *("-o", "swap.backgrounds=4", "-o", "swap.sources=8"),
    )
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Does a grey background serve as well" in report
    assert "mean grey level" in report
    assert (tmp_path / "run" / "tables" / "grey.csv").is_file()


def test_commands_know_the_experiment_and_its_option(run: Run) -> None:
    assert re.search(r"\bgrey\b", run("run", "--help").stdout)
    assert re.search(r"\bgrey\b", run("info").stdout)
    told = run("options", "grey").stdout
    assert re.search(r"background +mean +one of mean, middle", told)
    refused = run("run", "grey", "--dry-run", "-o", "grey.background=white")
    assert refused.returncode == 2
    assert "grey.background: got 'white'; expected one of mean, middle" in refused.stderr


def test_the_dry_run_counts_the_experiment(run: Run) -> None:
    done = run("run", "grey", "--dry-run", "--model", "edsr", "-o", "grey.count=4")
    assert done.returncode == 0, done.stderr
    assert "grey" in done.stdout
