"""Options behind a network's name on the command line: taken apart, used, kept, refused."""

from pathlib import Path

import pytest
import torch
from small_run import OPTIONS, contents, make_images, make_network, make_rcan

import fastbg
from fastbg.cli import main
from fastbg.errors import CheckpointError, InvalidArgument
from fastbg.models.edsr import EDSR
from fastbg.models.network import fingerprint
from fastbg.models.options import describe, load_choice, load_choices, parse_choice


def test_options_are_taken_apart(tmp_path: Path) -> None:
    choice = parse_choice("dir/a.pth,res_scale=0.1,mean=0.5:0.4:0.3,scale=4,pooling=24,img_range=1")
    assert choice.name == "dir/a.pth"
    assert choice.options == {
        "res_scale": 0.1,
        "mean": (0.5, 0.4, 0.3),
        "scale": 4,
        "pooling": 24,
        "img_range": 1.0,
    }
    assert parse_choice("edsr") == ("edsr", {}, "", "--model")
    assert parse_choice("edsr", "--start").argument == "--start"
    assert parse_choice("a,b.pth,scale=2").name == "a,b.pth"
    odd = tmp_path / "odd,scale=2"
    odd.touch()
    assert parse_choice(str(odd))[:3] == (str(odd), {}, "")  # a file that is called so


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("edsr,depth=3", r"--model: got 'edsr,depth=3'; expected each of res_scale, .*pooling"),
        ("edsr,scale=4,scale=2", "at most once"),
        ("edsr,res_scale=big", r"--model edsr,res_scale: got 'big'; expected a number"),
        ("edsr,scale=2.5", "got '2.5'; expected a number"),
        ("edsr,mean=a:b:c", "three numbers R:G:B"),
    ],
)
def test_bad_options_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        parse_choice(text)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("mean=0.5", "mean: got"),
        ("res_scale=nan", "res_scale: got nan"),
        ("img_range=0", "img_range: got 0"),
        ("scale=3", "magnifies x4, not x3"),
        ("pooling=8", "no pooling"),
    ],
)
def test_values_that_the_network_cannot_have(option: str, message: str, tmp_path: Path) -> None:
    path = make_network(tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_choice(parse_choice(f"{path},{option}"))


def test_what_was_set_is_said_and_belongs_to_the_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"params_ema": EDSR(features=128, blocks=1).state_dict()}, tmp_path / "e.pth")
    texts = [f"{tmp_path / 'e.pth'},res_scale={value}" for value in (0.1, 0.2, 0.1)]
    models = load_choices(texts)
    names = ["e (res_scale=0.1)", "e (res_scale=0.2)", "e (res_scale=0.1) (3)"]
    assert [model.name for model in models] == names
    assert describe(models[0]) == (
        "e (res_scale=0.1): edsr x4, res_scale 0.1, img_range 255,"
        " mean 0.4488:0.4371:0.404, weights under 'params_ema'"
    )
    assert describe(models[0]) in capsys.readouterr().out
    prints = [fingerprint(model) for model in models]
    assert prints[0] == prints[2] != prints[1]


def test_a_run_keeps_networks_of_other_options_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, images = make_network(tmp_path / "net.safetensors"), make_images(tmp_path / "images")
    command = ["run", "table1", "--data", str(images), *OPTIONS[:6], "--limit", "2"]
    command += ["--out", str(tmp_path / "run"), "--model", str(path), "--model"]
    assert main([*command, f"{path},res_scale=0.5"]) == 0
    networks = {row[1] for row in contents(tmp_path / "run")["records"]}
    assert len(networks) == 2
    assert sum("(res_scale=0.5)" in name for name in networks) == 1
    assert main([*command, f"{path},depth=3"]) == 2
    assert "--model: got" in capsys.readouterr().err


def test_a_run_goes_on_in_python(tmp_path: Path) -> None:
    """The command and run_experiments know a network by the same fingerprint."""
    path = make_rcan(tmp_path / "net.safetensors")
    net = load_choice(parse_choice(f"{path},pooling=8"))
    assert fingerprint(net) == fingerprint(fastbg.load_model(path, pooling=8))
    assert fingerprint(net) != fingerprint(fastbg.load_model(path))


def test_training_starts_with_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = make_network(tmp_path / "net.safetensors")
    command = ["train", "edsr", "--data", str(make_images(tmp_path / "images"))]
    command += ["--out", str(tmp_path / "out.safetensors"), "--start"]
    assert main([*command, f"{start},colour=3"]) == 2
    assert "--start: got" in capsys.readouterr().err
    assert main([*command, f"{start},res_scale=0.5"]) == 2
    said = capsys.readouterr().err
    assert "blocks 1, res_scale 0.5, not edsr with features 64, blocks 16, res_scale 1.0" in said
