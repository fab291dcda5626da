"""The option `seam` of experiments: what it takes, how columns are named, runs of before it."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from small_run import make_images, make_network

from fastbg.cli import main
from fastbg.errors import InvalidArgument
from fastbg.experiments.experiment import Measured, NetLabel
from fastbg.experiments.seams import SeamedOptions, column, pixels, select_seam, title
from fastbg.experiments.study import Item
from fastbg.experiments.swap import Swap, SwapOptions
from fastbg.runs.values import checksum


def test_seams_are_ordered_and_named() -> None:
    seams = SeamedOptions(seam="16, 0.5,hard").seams("swap")
    assert seams == ("hard", 0.5, 16.0)
    assert [column("psnr", s) for s in seams] == ["psnr", "psnr_seam_0.5", "psnr_seam_16"]
    assert [title(s) for s in seams[:2]] == ["hard seam", "bridged over 0.5 pixels"]
    assert [pixels(s, 4) for s in seams] == ["hard", 0.125, 4.0]


@pytest.mark.parametrize(
    "text",
    ["", "soft", "hard,", "0", "-4", "nan", "inf", "hard,hard", "4,4.0", "4;8", "4,4.0000001"],
)
def test_other_seams_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="such as hard,4") as caught:
        Swap(SwapOptions(seam=text))
    assert caught.value.argument == "swap.seam"


def test_a_view_never_mixes_seams() -> None:
    """What was not measured with a bridge is absent there, and not the hard seam's number."""
    columns = {name: np.zeros(1) for name in ("psnr", "psnr_seam_4", "psnr_seam_14", "di", "key")}
    measured = Measured(NetLabel("edsr", "edsr"), [Item("a", "a", (0, 0, 1, 1))], columns)
    for seam, names in (("hard", {"psnr", "di", "key"}), (4.0, {"psnr", "key"})):
        view = select_seam(measured, seam, shared=lambda name: name == "key")
        assert set(view.columns) == names
        assert view.columns["psnr"] is columns[column("psnr", seam)]


def test_the_command_line_takes_one_or_several(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, net = make_images(tmp_path / "images"), make_network(tmp_path / "net.safetensors")
    command = ["run", "swap", "--data", str(images), "--model", str(net), "--limit", "1"]
    for option in ("size=64", "region=16", "groups=3", "backgrounds=4"):
        command += ["-o", f"swap.{option}"]
    out = tmp_path / "bridged"
    assert main([*command, "--out", str(out), "--seam", "8"]) == 0
    page = (out / "report.html").read_text()
    assert "bridged over 8 pixels" in page
    assert "hard seam" not in page
    # The seam is part of a run: another one is another run.
    assert main([*command, "--out", str(out), "--seam", "hard"]) != 0
    assert "seam = '8', not 'hard'" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "bad"), "--seam", "wide"]) != 0
    assert "swap.seam" in capsys.readouterr().err
    assert main(["run", "table1", "--seam", "4", "--out", str(tmp_path / "none")]) != 0
    assert "--seam" in capsys.readouterr().err


def test_runs_of_before_the_option_are_reported(tmp_path: Path) -> None:
    """Their records are those of hard seams."""
    images, net = make_images(tmp_path / "images"), make_network(tmp_path / "net.safetensors")
    out = tmp_path / "run"
    command = ["run", "swap", "--data", str(images), "--model", str(net), "--limit", "1"]
    for option in ("size=64", "region=16", "groups=3", "backgrounds=4", "seam=hard"):
        command += ["-o", f"swap.{option}"]
    assert main([*command, "--out", str(out)]) == 0
    page = (out / "report.html").read_text()
    forget(out)
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").read_text() == page


def test_runs_of_before_the_option_resume_with_hard_seams(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, net = make_images(tmp_path / "images"), make_network(tmp_path / "net.safetensors")
    out = tmp_path / "run"
    command = ["run", "swap", "--data", str(images), "--model", str(net), "--limit", "1"]
    for option in ("size=64", "region=16", "groups=3", "backgrounds=4"):
        command += ["-o", f"swap.{option}"]
    command += ["--out", str(out)]
    assert main([*command, "--seam", "hard"]) == 0
    forget(out)
    assert main([*command, "--seam", "hard"]) == 0
    capsys.readouterr()
    assert main([*command, "--seam", "4"]) != 0
    assert "seam = 'hard', not '4'" in capsys.readouterr().err


def forget(out: Path) -> None:
    """Take the option out of what the run remembers, and the digests, which came later."""
    key = "remember options swap"
    with closing(sqlite3.connect(out / "run.sqlite")) as database:
        (text,) = database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        options = json.loads(text)
        assert options.pop("seam") == "hard"
        (text,) = database.execute("SELECT value FROM meta WHERE key = 'counts'").fetchone()
        counts = [row[:4] for row in json.loads(text) if row[0] != "identity"]
        for row in ((key, json.dumps(options)), ("counts", json.dumps(counts))):
            database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (*row, checksum(*row)))
        database.execute("PRAGMA user_version = 3")
        database.commit()
