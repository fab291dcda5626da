"""The command line: what it prints, what it refuses, and how."""

import json
import re
from pathlib import Path

import pytest
import torch
from small_run import EXPERIMENTS, OPTIONS, contents, make_images, make_network, make_rcan

from fastbg.cli import main, train
from fastbg.models.checkpoints import load_model
from fastbg.models.edsr import EDSR
from fastbg.runs.local import Job


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("command")
    images, network = make_images(folder / "images"), make_network(folder / "net.safetensors")
    return ["run", *EXPERIMENTS, "--data", str(images), "--model", str(network), *OPTIONS]


def test_run_prints_a_line_per_result_and_the_report_last(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main([*command, "--out", str(out), "--limit", "3"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-1] == str(out / "report.html")
    assert Path(lines[-1]).is_file()
    results = [line for line in lines if re.match(r"(slicing|table1) +net-[0-9a-f]{6} ", line)]
    assert len(results) == 2
    assert "of 3" in results[0]
    sliced = {row[2] for row in contents(out)["records"] if row[0] == "slicing"}
    assert len(sliced) == 3
    assert sliced < {"0.png", "1.png", "2.png", "3.png"}

    # A larger limit goes on from there; the report is made again without images or networks.
    assert main([*command, "--out", str(out), "--limit", "4"]) == 0
    assert len(contents(out)["records"]) == 8
    page = (out / "report.html").read_text()
    assert "side of the region that is restored alone, HR pixels</span>" in page  # of the options
    (out / "report.html").unlink()
    capsys.readouterr()
    assert main(["report", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "report.html")
    assert (out / "report.html").read_text() == page


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error that is the user's."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("fastbg: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["table7"], "experiment: got 'table7'; expected one of surroundings, slicing"),
        (["--model", "vdsr"], "vdsr: no such file; the built-in networks are"),
        (["--limit", "0"], "--limit: got 0"),
        (["--pooling", "0"], "--pooling: got 0; expected a whole number, at least 1"),
        (["--pooling", "24"], "--pooling: got 24; expected an RCAN"),
        (["--device", "abacus"], "--device: got 'abacus'"),
        (["-o", "table1.colour=red"], "table1.colour: got 'red'"),
        (
            ["-o", "table1.count=many"],
            "table1.count: got 'many'; expected a whole number, at least",
        ),
        (["-o", "table1.count=0"], "table1.count: got 0; expected a whole number, at least 1"),
        (["-o", "table1.many=1.5"], "table1.many: got 1.5; expected a number from 0 to 1"),
        (["-o", "table1.many=nan"], "table1.many: got nan; expected a number from 0 to 1"),
        (["-o", "table1.contu=3"], "did you mean table1.count?"),
        (["-o", "table1"], "--option: got 'table1'; expected EXPERIMENT.NAME=VALUE"),
        (["slicing", "-o", "table1.size=64"], "--option: got"),
        (["--data", "/no/such/folder"], "/no/such/folder: no such folder"),
        (["--lr", "paired"], "no LR image"),
        (["--seed", "-1"], "seed: got -1"),
        (["--backend", "cuda", "--device", "cpu"], "backend 'cuda' cannot run"),
    ],
)
def test_errors_are_one_line(
    extra: list[str],
    message: str,
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FASTBG_EMULATE", "0")
    options = [] if "slicing" in extra else list(OPTIONS)
    named = extra[0] if not extra[0].startswith("-") else None
    data = command[1 + len(EXPERIMENTS) : -len(OPTIONS)]
    arguments = ["run", *((named,) if named else EXPERIMENTS), *data, *options]
    arguments += ["--out", str(tmp_path / "run"), *extra[bool(named) :]]
    assert message in refused(arguments, capsys)


def test_a_run_folder_keeps_to_its_configuration(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [*command, "--out", str(tmp_path), "--limit", "1"]
    assert main(base) == 0
    assert "channel = 'rgb', not 'y'" in refused([*base, "--channel", "y"], capsys)
    assert "seed" in refused([*base, "--seed", "1"], capsys)


def test_a_network_that_gives_no_numbers_is_refused(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def not_a_number(net: EDSR, x: torch.Tensor) -> torch.Tensor:
        return x.new_full((len(x), 3, 4 * x.shape[2], 4 * x.shape[3]), float("nan"))

    monkeypatch.setattr(EDSR, "forward", not_a_number)
    assert "is not a number" in refused([*command, "--out", str(tmp_path)], capsys)


def test_pooling_adds_a_row_beside_each_rcan(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rcan = make_rcan(tmp_path / "attentive.safetensors")
    data, options = command[1 + len(EXPERIMENTS) : -len(OPTIONS)], OPTIONS[:6]
    out = tmp_path / "run"
    arguments = ["run", "table1", *data, *options, "--model", str(rcan), "--pooling", "10"]
    assert main([*arguments, "--limit", "3", "--out", str(out)]) == 0
    values = {}
    for _, net, item, text, _ in contents(out)["records"]:
        values[net.rpartition("-")[0], "pooled" in net, item] = json.loads(text)
    items = {item for _, _, item in values}
    assert {(net, pooled) for net, pooled, _ in values} == {
        ("net", False),
        ("attentive", False),
        ("attentive", True),
    }
    for item in items:  # the region alone, 8 LR pixels wide, is smaller than the pooling's window
        plain, pooled = (values["attentive", local, item] for local in (False, True))
        assert plain["psnr_partial"] == pooled["psnr_partial"]
        assert plain["psnr_full"] != pooled["psnr_full"]
    assert "(pooled over 10)" in (out / "report.html").read_text()


def test_ctrl_c_says_how_to_resume(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put = Job.put

    def interrupted(job: Job, *arguments: object) -> None:
        put(job, *arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "put", interrupted)
    assert main([*command, "--out", str(tmp_path)]) == 130
    assert "the same command resumes" in capsys.readouterr().err
    assert len(contents(tmp_path)["records"]) == 1


def test_report_of_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no run" in refused(["report", str(tmp_path)], capsys)


def test_info_names_every_backend_and_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    words = "fastbg |torch: available|cpu|triton|cuda|auto (|edsr|table1"
    for word in words.split("|"):
        assert word in out


def test_options_are_told_with_their_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["options", "swap"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in ("region 32 a whole number, at", "side of the foreground", "domain hr one of hr,"):
        assert words in out
    assert "ring" not in out
    assert main(["options"]) == 0
    assert "outer sides of the ring" in " ".join(capsys.readouterr().out.split())
    assert "got 'tabel1'" in refused(["options", "tabel1"], capsys)


def test_train_writes_a_network_that_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(train.BUILT_IN, "edsr", lambda: EDSR(features=4, blocks=1))
    images, out = make_images(tmp_path / "images"), tmp_path / "net.safetensors"
    arguments = ["train", "edsr", "--data", str(images), "--out", str(out), "--steps", "2"]
    arguments += ["--batch", "1", "--patch", "8"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == str(out)
    assert load_model(out)(torch.rand(1, 3, 8, 8)).shape == (1, 3, 32, 32)
    assert "exists" in refused(arguments, capsys)
    assert "expected one of edsr" in refused(["train", "vdsr", *arguments[2:]], capsys)
