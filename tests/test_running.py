"""run_experiments: what `fastbg run` does, for networks in memory."""

from pathlib import Path

import pytest
from small_run import contents, make_images, make_network
from torch import nn

import fastbg
from fastbg.cli import main
from fastbg.errors import CheckpointError, InvalidArgument, RunStoreError
from fastbg.models.edsr import EDSR
from fastbg.models.network import fingerprint


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
    report = fastbg.run_experiments(nets, ["table1"], data=folder, out=out, options=OPTIONS)
    assert report == out / "report.html"
    page = report.read_text()
    assert "bilinear" in page
    assert "mine" in page
    first = contents(out)
    assert len(first["records"]) == 6
    fastbg.run_experiments(nets, ["table1"], data=folder, out=out, options=OPTIONS)
    assert contents(out) == first


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


def test_refuses(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"networks.*wrap"):
        fastbg.run_experiments({"plain": nn.Identity()})  # type: ignore[dict-item]
    with pytest.raises(InvalidArgument, match="networks"):
        fastbg.run_experiments({})
    with pytest.raises(CheckpointError, match="magnify"):
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
