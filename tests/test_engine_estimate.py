"""`fastbg run --dry-run`: right counts, a plausible time, and nothing written."""

from pathlib import Path

import pytest
from small_run import EXPERIMENTS, OPTIONS, make_images, make_network

from fastbg.cli import main
from fastbg.cli.dry_run import amount, duration
from fastbg.data.images import open_folder
from fastbg.experiments.slicing import Slicing, SlicingOptions
from fastbg.experiments.study import Study
from fastbg.experiments.table1 import Table1, Table1Options
from fastbg.models.checkpoints import load_model
from fastbg.runs.estimate import estimate, makespan


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("estimate")
    images, network = make_images(folder / "images"), make_network(folder / "net.safetensors")
    return ["run", *EXPERIMENTS, "--data", str(images), "--model", str(network), *OPTIONS]


def test_counts_come_from_the_plan_and_shrink_with_what_is_stored(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = [*command, "--out", str(out), "--device", "cpu"]

    def rows() -> dict[str, list[str]]:
        """First five numbers of each experiment, and of each count of workers."""
        assert main([*arguments, "--dry-run"]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
        return {line[0]: line[1:] for line in lines}

    before = rows()
    assert not out.exists()
    # 4 images of 80 x 96, cropped to 2 x 3 slices: each whole, and its slices.
    assert before["slicing"][1:5] == ["4", "0", str(4 + 4 * 6), "4"]
    assert before["table1"][1:5] == ["25", "0", "50", "3"]
    assert {"1", "8", "64"} <= before.keys()
    assert before["1"][-1] == "7"  # chunks of the only worker
    assert before["64"][-1] == "2"

    assert main([*arguments, "--limit", "3"]) == 0
    capsys.readouterr()
    after = rows()
    assert after["slicing"][1:5] == ["1", "0", "7", "1"]
    assert after["table1"][1:5] == ["22", "0", "44", "3"]

    assert main(arguments) == 0
    capsys.readouterr()
    assert rows()["table1"][1:5] == ["0", "0", "0", "0"]


def test_time_is_spread_by_pixels(command: list[str]) -> None:
    study = Study(open_folder(command[command.index("--data") + 1]), backend="torch")
    net = load_model(command[command.index("--model") + 1])
    experiment = Table1(Table1Options(count=25, size=64, region=32))
    items = experiment.plan(study)
    found = estimate(experiment, net, items, {items[0].key, items[24].key}, study)
    assert found.items == 23
    # Chunks of 9, 10 and 4 items of one size.
    assert [round(s / found.chunks[1], 6) for s in found.chunks] == [0.9, 1.0, 0.4]
    assert found.seconds == pytest.approx(sum(found.chunks))
    # Two numbers an item: between 15 and 60 bytes of JSON.
    assert 15 * 23 < found.stored < 60 * 23

    slicing = Slicing(SlicingOptions(tile=32))
    curves = estimate(slicing, net, slicing.plan(study), set(), study)
    assert curves.stored > 4 * 3 * 16 * 8  # three curves of 16 float64 for each of 4 images


def test_makespan_gives_a_chunk_to_whoever_is_free() -> None:
    assert makespan([3.0, 1.0, 1.0, 1.0], 1) == 6.0
    assert makespan([3.0, 1.0, 1.0, 1.0], 2) == 3.0
    assert makespan([1.0, 1.0, 1.0, 3.0], 2) == 4.0
    assert makespan([1.0, 2.0], 64) == 2.0
    assert makespan([], 8) == 0.0


def test_amounts_and_durations_are_short() -> None:
    assert [amount(n) for n in (0, 999, 1 << 20, 3 << 29)] == ["0 B", "999 B", "1.0 MiB", "1.5 GiB"]
    assert [duration(s) for s in (0.04, 99.0, 600.0, 7200.0)] == [
        "0.0 s",
        "99.0 s",
        "10 min",
        "2.0 h",
    ]
