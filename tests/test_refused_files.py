"""What the file system refuses, such as too long a name, is one line, before work begins."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_run import make_images, make_network

from fastbg.attribution.effect_result import CausalEffectResult
from fastbg.attribution.interventions import Interventions
from fastbg.attribution.result import AttributionResult
from fastbg.cli import main
from fastbg.data.windows import read_windows
from fastbg.errors import FastbgError
from fastbg.runs import RunStore

LONG = "x" * 300
REASON = os.strerror(errno.ENAMETOOLONG)


@pytest.mark.parametrize(
    "read",
    [
        lambda path: read_windows(Path(path), "--window"),
        AttributionResult.load,
        CausalEffectResult.load,
        Interventions.load,
        RunStore.read,
    ],
    ids=["windows", "attributions", "effects", "interventions", "run"],
)
def test_readers_name_the_reason(read: Callable[[str], object]) -> None:
    with pytest.raises(FastbgError, match=REASON):
        read(LONG)


ATTRIBUTE = ["attribute", "IMAGE", "--model", "NET", "--steps", "1", "--window"]
EFFECT = ["effect", "IMAGE", "--model", "NET", "--window", "0", "0", "16", "--out"]
EVALUATE = ["evaluate", "--data", "IMAGES", "--model"]


@pytest.mark.parametrize(
    "command",
    [
        [*ATTRIBUTE, f"{LONG}.csv", "--out", "o.png"],
        [*ATTRIBUTE, "center", "--out", f"{LONG}.png"],
        [*ATTRIBUTE, "center", "--out", LONG],
        [*ATTRIBUTE, "center", "--out", "o.png", "--html", f"{LONG}.html"],
        ["attribute", LONG, *ATTRIBUTE[2:], "center", "--out", "o.png"],
        ["attribute", LONG, *ATTRIBUTE[1:], "center", "--out", "o"],
        [*EVALUATE, LONG],
        [*EVALUATE, "NET", "--csv", f"{LONG}.csv"],
        [*EVALUATE, "NET", "--save", LONG],
        ["evaluate", "--data", LONG, "--model", "NET"],
        [*EFFECT, f"{LONG}.png"],
        [*EFFECT, "e.png", "--hr", LONG],
        ["run", "slicing", "--data", "IMAGES", "--model", "NET", "--out", LONG],
        ["diffusion", "--data", "IMAGES", "--model", "NET", "--out", LONG],
        [
            "diffusion",
            "--data",
            "IMAGES",
            "--model",
            "NET",
            "--windows",
            f"{LONG}.csv",
            "--out",
            "d",
        ],
        ["report", LONG],
        ["compare", LONG, LONG],
        ["train", "edsr", "--data", "IMAGES", "--out", f"{LONG}.safetensors"],
    ],
    ids=lambda command: " ".join(word[:9] for word in command),
)
def test_commands_say_it_in_one_line(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    images = make_images(tmp_path / "images")
    named = {"IMAGES": str(images), "NET": str(make_network(tmp_path / "n.safetensors"))}
    named["IMAGE"] = str(sorted(images.rglob("*.png"))[0])
    before = sorted(tmp_path.iterdir())
    assert main([named.get(word, word) for word in command]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("fastbg: ")
    assert REASON in lines[-1]
    assert sorted(tmp_path.iterdir()) == before


def test_a_disk_that_fills_up_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    network = make_network(tmp_path / "n.safetensors")
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "a.png")
    command = ["attribute", str(tmp_path / "a.png"), "--model", str(network), "--steps", "1"]
    assert main([*command, "--window", "center", "--out", str(tmp_path / "o.png")]) == 2
    assert capsys.readouterr().err.endswith("fastbg: [Errno 28] No space left on device\n")


def test_an_image_with_the_longest_name_is_scored_and_saved(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    name = "n" * 251 + ".png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "images" / name)
    network = make_network(tmp_path / "n.safetensors")
    command = ["evaluate", "--data", str(tmp_path / "images"), "--model", str(network)]
    assert main([*command, "--save", str(tmp_path / "sr")]) == 0
    assert (tmp_path / "sr" / "bicubic" / name).is_file()
