"""`fastbg compare`: two runs side by side, paired over what both have."""

import csv
from pathlib import Path

import numpy as np
import pytest
from small_run import OPTIONS, make_images, make_network

from fastbg.cli import main
from fastbg.experiments.experiment import Measured, NetLabel
from fastbg.experiments.study import Item
from fastbg.experiments.table1 import Table1
from fastbg.runs.comparison import paired
from fastbg.runs.store import RunStore
from fastbg.stats.intervals import mean_interval

NET = NetLabel("edsr", "edsr")


def measured(values: dict[str, float], name: str = "psnr") -> Measured:
    """One item for each key "photograph/number"."""
    items = [Item(key, key.split("/")[0], (0, 0, 8, 8), image=key) for key in values]
    return Measured(NET, items, {name: np.array([*values.values()])})


def test_items_of_both_are_paired_whatever_their_order() -> None:
    first = measured({"a/0": 1.0, "a/1": 2.0, "b/0": 4.0, "c/0": 5.0})
    second = measured({"c/0": 5.5, "b/0": 5.0, "a/1": 2.0, "a/0": 3.0, "d/0": 100.0})
    (found,) = paired(Table1(), first, second)
    assert (found.pairs, found.unit) == (4, "items")
    assert found.means == (3.0, 3.875)
    assert found.change == mean_interval([2.0, 0.0, 1.0, 0.5], ["a", "a", "b", "c"])


def test_runs_of_other_items_are_paired_by_photograph() -> None:
    first = measured({"a/0": 1.0, "a/1": 3.0, "b/0": 4.0, "x/0": 9.0})
    second = measured({"a/7": 5.0, "b/0": 4.0, "b/8": 6.0})
    (found,) = paired(Table1(), first, second)
    assert (found.pairs, found.unit) == (2, "photographs")
    assert found.means == (3.0, 5.0)
    assert found.change == mean_interval([3.0, 1.0])


def test_perfect_results_stay_finite_and_nothing_shared_is_nothing() -> None:
    (found,) = paired(Table1(), measured({"a/0": np.inf}), measured({"a/0": 40.0}))
    assert found.change.value == -60.0
    assert not found.change.known
    assert paired(Table1(), measured({"a/0": 1.0}), measured({"b/0": 1.0})) == []
    assert paired(Table1(), measured({"a/0": 1.0}), measured({"a/0": 1.0}, "other")) == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two networks; the first again with another seed."""
    place = tmp_path_factory.mktemp("compare")
    images = make_images(place / "images", 6)
    found = []
    for name, weights, seed in (("one", 0, 0), ("two", 1, 0), ("three", 0, 5)):
        network = make_network(place / f"{name}.safetensors", weights)
        out = place / name / "run"
        command = ["run", "table1", "--data", str(images), "--model", str(network), *OPTIONS[:6]]
        assert main([*command, "--seed", str(seed), "--out", str(out)]) == 0
        found.append(out)
    return found


def test_two_networks(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], labels: list[str]
) -> None:
    table = tmp_path / "table.csv"
    arguments = ["compare", *map(str, runs[:2]), "--model", *labels[:2], "--csv", str(table)]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert f"A: {runs[0]}" in told
    assert "weights" in told
    assert "C1" in told
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert {row["number"] for row in rows} >= {"psnr_full", "psnr_partial"}
    for row in rows:
        assert (row["pairs"], row["paired by"], row["photographs"]) == ("25", "items", "6")
        assert float(row["B - A"]) == pytest.approx(float(row["mean B"]) - float(row["mean A"]))


def test_a_run_against_itself_differs_in_nothing(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(runs[0]), str(runs[0])]) == 0
    told = capsys.readouterr().out
    assert "differ in nothing" in told
    assert "+0 (+0 to +0)" in told
    assert "psnr_partial" in told
    assert "\u2026" not in told  # nothing is cut, however narrow the terminal


def test_another_seed_is_said(
    runs: list[Path], labels: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", str(runs[0]), str(runs[2]), "--model", labels[0], labels[2]]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "seed: 0 against 5" in told
    assert "photographs" in told


def test_refusals(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = map(str, runs[:2])
    cases = {
        ("compare", first, str(tmp_path)): "OTHER: got",
        ("compare", first, second): "name one of each: --model",
        ("compare", first, second, "--model", "x", "y"): "--model: got 'x'; expected a network of",
        ("compare", first): "OTHER: missing",
        ("compare", first, first, "--csv", str(tmp_path)): "--csv: got",
        ("compare", first, first, "--csv", f"{second}/run.sqlite"): "that ends with .csv",
    }
    for arguments, expected in cases.items():
        assert main([*arguments]) == 2
        assert expected in capsys.readouterr().err.replace("\n", " ")


@pytest.fixture(scope="module")
def labels(runs: list[Path]) -> list[str]:
    """The network's label in each run."""
    found = []
    for run in runs:
        with RunStore.read(run) as store:
            found.append(store.remembered("network ")[0].removeprefix("network "))
    return found
