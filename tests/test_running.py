"""run_experiments: what `fastbg run` does, for networks in memory."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from small_run import contents, make_images, make_network
from torch import Tensor, nn

import fastbg
from fastbg.cli import main
from fastbg.errors import CheckpointError, DataError, InvalidArgument, RunStoreError
from fastbg.experiments.study import Item
from fastbg.models.edsr import EDSR
from fastbg.models.network import fingerprint
from fastbg.runs.local import Job


def tiny(scale: int = 4) -> EDSR:
    return EDSR(features=4, blocks=1, scale=scale).eval().requires_grad_(False)


OPTIONS = {"table1.count": 3, "table1.size": 64, "table1.region": 32}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images")


def test_a_wrapped_module_takes_part(folder: Path, tmp_path: Path) -> None:
    """Bilinear magnification beside an EDSR; the second call measures nothing again."""
    nets = {"bilinear": fastbg.wrap(nn.Upsample(scale_factor=4, mode="bilinear")), "mine": tiny()}
    out = tmp_path / "run"
    found = fastbg.run_experiments(nets, ["table1"], data=folder, out=out, options=OPTIONS)
    assert found.path == out / "report.html"
    assert Path(found) == found.path
    page = found.path.read_text()
    assert "bilinear" in page
    assert "mine" in page
    first = contents(out)
    assert len(first["records"]) == 6
    fastbg.run_experiments(nets, ["table1"], data=folder, out=out, options=OPTIONS)
    assert contents(out) == first


def test_the_result_has_records_and_verdicts(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog
) -> None:
    out, options = tmp_path / "run", OPTIONS | {"slicing.tile": 32}
    nets = {"a": tiny(), "b": tiny()}
    with caplog.at_level("INFO"):
        found = fastbg.run_experiments(
            nets, ["table1", "slicing"], data=folder, out=out, options=options, progress=False
        )
    assert capsys.readouterr().out == ""
    assert any(message.startswith("table1       a") for message in caplog.messages)
    assert {name.partition(".")[0] for name, _, _ in caplog.record_tuples} == {"fastbg"}  # no fonts
    records = found.records("table1")
    assert records["network"].tolist() == ["a"] * 3 + ["b"] * 3
    stored = [json.loads(row[3])["psnr_full"] for row in contents(out)["records"][-6:]]
    assert sorted(records["psnr_full"].tolist()) == sorted(stored)
    assert set(records["photograph"]) <= {f"{i}.png" for i in range(4)}
    assert found.records("slicing")["mse_whole"].shape == (8, 16)
    assert {each.claim for each in found.verdicts} == {"C1", "C2"}
    with pytest.raises(InvalidArgument, match="experiment: got 'ring'"):
        found.records("ring")
    one = fastbg.run_experiments(nets, ["table1"], data=folder, out=out, options=OPTIONS)
    assert {each.claim for each in one.verdicts} == {"C1"}


class Frame(dict[str, Any]):
    """What a DataFrame is made of."""


def test_the_frame_has_a_column_for_each_point_of_a_curve(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"slicing.tile": 32}
    found = fastbg.run_experiments(
        {"a": tiny()}, ["slicing"], data=folder, out=tmp_path / "run", options=options
    )
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=Frame))
    frame = found.frame("slicing")
    records = found.records("slicing")
    assert frame["mse_whole.3"].tolist() == records["mse_whole"][:, 3].tolist()
    assert frame["psnr_whole"].tolist() == records["psnr_whole"].tolist()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        found.frame("slicing")


def test_engines_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    def run(**arguments: Any) -> None:
        fastbg.run_experiments({"a": tiny()}, ["table1"], data=folder, out=tmp_path, **arguments)

    with pytest.raises(InvalidArgument, match="engine: got 'dask'; expected one of local, ray"):
        run(engine="dask")
    with pytest.raises(InvalidArgument, match="workers: got 2"):
        run(workers=2)
    with pytest.raises(InvalidArgument, match="gpus_per_worker: got -1"):
        run(engine="ray", gpus_per_worker=-1)


def test_ray_measures_what_this_process_measures(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'fastbg[ray]'")
    nets, out = {"a": tiny()}, [tmp_path / "local", tmp_path / "ray"]
    for place, more in zip(out, ({}, {"engine": "ray", "workers": 1}), strict=True):
        fastbg.run_experiments(
            nets, ["table1"], data=folder, out=place, options=OPTIONS, progress=False, **more
        )
    assert contents(out[0])["records"] == contents(out[1])["records"]


def test_measures_what_the_command_measures(folder: Path, tmp_path: Path) -> None:
    weights = make_network(tmp_path / "mine.safetensors")
    options = [part for name, value in OPTIONS.items() for part in ("-o", f"{name}={value}")]
    command = ["run", "table1", "--model", str(weights), "--data", str(folder), *options]
    assert main([*command, "--out", str(tmp_path / "command")]) == 0
    nets = {"mine": fastbg.load_model(weights)}
    out = tmp_path / "python"
    fastbg.run_experiments(nets, ["table1"], data=folder, out=out, options=OPTIONS)
    values = [[row[3] for row in contents(run)["records"]] for run in (tmp_path / "command", out)]
    assert values[0] == values[1]


SLICED = ("-o", "slicing.tile=32", "--device", "cpu")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the items that are measured, as they are stored."""
    keys: list[str] = []
    put = Job.put

    def counted(job: Job, items: Sequence[Item], columns: dict[str, list[Tensor]]) -> None:
        keys.extend(item.key for item in items)
        put(job, items, columns)

    monkeypatch.setattr(Job, "put", counted)
    return keys


@pytest.mark.parametrize("built_in", [True, False], ids=["built-in", "file"])
@pytest.mark.parametrize("command_first", [True, False], ids=["command first", "Python first"])
def test_the_command_and_python_resume_each_other(
    built_in: bool, command_first: bool, folder: Path, tmp_path: Path, measured: list[str]
) -> None:
    """Half by one, the rest by the other, then both again: as one of them alone."""
    name = "edsr" if built_in else str(make_network(tmp_path / "net.safetensors"))
    net = fastbg.load_model(name)
    label = "edsr" if built_in else f"{net.name}-{fingerprint(net)[:6]}"

    def by_command(out: Path, *limit: str) -> None:
        command = ["run", "slicing", "--model", name, "--data", str(folder), *SLICED, *limit]
        assert main([*command, "--out", str(out)]) == 0

    def by_python(out: Path, limit: int | None = None) -> None:
        options = {"slicing.tile": 32}
        fastbg.run_experiments(
            {label: net}, ["slicing"], data=folder, out=out, options=options, limit=limit
        )

    by_command(tmp_path / "whole")
    assert len(measured) == 4
    measured.clear()
    out = tmp_path / "run"
    if command_first:
        by_command(out, "--limit", "2")
        by_python(out)
    else:
        by_python(out, limit=2)
        by_command(out)
    assert sorted(measured) == [f"{i}.png" for i in range(4)]
    by_python(out)
    by_command(out)
    assert len(measured) == 4
    assert contents(out)["records"] == contents(tmp_path / "whole")["records"]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """HR images with LR images of their own beside them."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    make_images(folder / "HR")
    (folder / "LR").mkdir()
    for path in sorted((folder / "HR").iterdir()):
        with Image.open(path) as image:
            image.resize((24, 20), Image.Resampling.BOX).save(folder / "LR" / path.name)
    return folder


def test_lr_images_of_the_data_set_are_part_of_the_run(
    pairs: Path, tmp_path: Path, measured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """One pixel of an LR file that was changed: neither the command nor Python resume."""
    weights, out = make_network(tmp_path / "net.safetensors"), tmp_path / "run"
    command = ["run", "slicing", "--model", str(weights), "--data", str(pairs), *SLICED]
    paired = [*command, "--lr", "paired", "--out", str(out)]
    assert main([*paired, "--limit", "2"]) == 0
    assert "LR x4 read from LR" in capsys.readouterr().out
    assert "with its own LR images" in (out / "report.html").read_text()
    path = pairs / "LR" / "3.png"  # not measured yet
    before = path.read_bytes()
    with Image.open(path) as image:
        image.putpixel((0, 0), (1, 2, 3))
        image.save(path)
    measured.clear()
    assert main(paired) == 2
    assert "was run with other LR images of pairs" in capsys.readouterr().err
    net = fastbg.load_model(weights)
    options = {"slicing.tile": 32, "slicing.lr": "paired"}
    nets = {f"{net.name}-{fingerprint(net)[:6]}": net}
    with pytest.raises(RunStoreError, match="other LR images of pairs"):
        fastbg.run_experiments(nets, ["slicing"], data=pairs, out=out, options=options)
    path.unlink()
    with pytest.raises((RunStoreError, DataError), match=r"LR"):
        fastbg.run_experiments(nets, ["slicing"], data=pairs, out=out, options=options)
    assert measured == []
    path.write_bytes(before)
    fastbg.run_experiments(nets, ["slicing"], data=pairs, out=out, options=options)
    assert len(measured) == 2


def test_lr_images_that_are_not_read_are_no_part_of_the_run(pairs: Path, tmp_path: Path) -> None:
    options = {"slicing.tile": 32}
    nets, out = {"a": tiny()}, tmp_path / "run"
    fastbg.run_experiments(nets, ["slicing"], data=pairs, out=out, options=options)
    (pairs / "LR" / "3.png").write_bytes((pairs / "LR" / "2.png").read_bytes())
    before = contents(out)
    fastbg.run_experiments(nets, ["slicing"], data=pairs, out=out, options=options)
    assert contents(out) == before


def test_refuses(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"networks.*wrap"):
        fastbg.run_experiments({"plain": nn.Identity()})  # type: ignore[dict-item]
    with pytest.raises(InvalidArgument, match="networks"):
        fastbg.run_experiments({})
    with pytest.raises(InvalidArgument, match="networks: got EDSR; expected networks by name"):
        fastbg.run_experiments(tiny())  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="experiments: got 'table1'; expected a list"):
        fastbg.run_experiments({"a": tiny()}, "table1")
    with pytest.raises(CheckpointError, match="must have the same scale"):
        fastbg.run_experiments({"a": tiny(), "b": tiny(scale=2)})
    with pytest.raises(InvalidArgument, match="one device and dtype"):
        fastbg.run_experiments({"a": tiny(), "b": tiny().double()})
    with pytest.raises(InvalidArgument, match="limit"):
        fastbg.run_experiments({"a": tiny()}, limit=0)
    with pytest.raises(InvalidArgument, match="experiment"):
        fastbg.run_experiments({"a": tiny()}, ["table9"])
    out = tmp_path / "run"
    fastbg.run_experiments({"a": tiny()}, ["table1"], data=folder, out=out, options=OPTIONS)
    with pytest.raises(RunStoreError, match="other weights of a"):
        fastbg.run_experiments({"a": tiny()}, ["table1"], data=folder, out=out, options=OPTIONS)


def test_fingerprint_tells_weights_apart() -> None:
    net = tiny()
    before = fingerprint(net)
    assert fingerprint(net) == before
    net.conv_last.bias.add_(1e-3)
    assert fingerprint(net) != before


def test_no_attribute_is_made_up() -> None:
    with pytest.raises(AttributeError, match="no attribute 'run_everything'"):
        fastbg.run_everything  # noqa: B018
