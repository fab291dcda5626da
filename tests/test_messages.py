"""Plausible mistakes, each answered in one line: the argument, what was given, what to give."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import make_images, make_network

from fastbg.cli import main
from fastbg.models.checkpoints import save_model
from fastbg.models.edsr import EDSR

ATTRIBUTE = "attribute lr.png --model net.safetensors --window 0 0 16 --out map.png"
EVALUATE = "evaluate --model net.safetensors --data images"
RUN = "run table1 --model net.safetensors --data images --out run"
TRAIN = "train edsr --data images --out new.safetensors --steps 1"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    make_network(folder / "net.safetensors")
    torch.manual_seed(0)
    save_model(EDSR(features=4, blocks=1, scale=2), folder / "double.safetensors")
    make_images(folder / "images")
    for name in ("small", "empty", "bad", "odd"):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(folder / "lr.png")
    Image.fromarray(rng.integers(0, 256, (7, 5, 3), dtype=np.uint8)).save(folder / "small/a.png")
    Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)).save(folder / "dot.png")
    (folder / "notes.txt").write_text("no image")
    (folder / "broken.png").write_text("no image")
    (folder / "bad/a.png").write_text("no image")
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files, as the working folder."""
    copy = tmp_path / "work"
    shutil.copytree(prepared, copy)
    monkeypatch.chdir(copy)
    return copy


# What was typed, and what of the answer must be there.
TYPED: dict[str, list[str]] = {
    "": ["COMMAND: missing; expected one of run, report, compare"],
    "rnu": ["COMMAND: got 'rnu'; expected one of run, report", "did you mean run?"],
    "--hlep": ["COMMAND: missing"],
    "run --modle edsr": ["--modle: no such option of fastbg run; did you mean --model?"],
    "run --nothing-like-it": [
        "--nothing-like-it: no such option of fastbg run; see fastbg run --help"
    ],
    "run --limit": ["--limit: got nothing; expected N"],
    "run --limit many": ["--limit: got 'many'; expected a whole number, at least 1"],
    "run --limit 1.5": ["--limit: got '1.5'; expected a whole number, at least 1"],
    "run --limit 0": ["--limit: got 0; expected a whole number, at least 1"],
    "run --seed -1": ["--seed: got -1; expected a whole number, at least 0"],
    "run --dtype float64": ["--dtype: got 'float64'; expected one of float32, bfloat16"],
    "run --kernel bicubic": ["--kernel: got 'bicubic'; expected one of matlab, pil"],
    "run --channel": ["--channel: got nothing; expected one of rgb, y"],
    "run --gpus-per-worker half": ["--gpus-per-worker: got 'half'; expected a number"],
    "run --gpus-per-worker nan": ["--gpus-per-worker: got 'nan'; expected a number"],
    "run --workers 4": ["--workers: got 4; expected none without --engine ray"],
    "run -q -v": ["--verbose: not allowed beside -q/--quiet"],
    "run --dry-run=yes": ["--dry-run: got 'yes'; expected --dry-run alone"],
    "run --d cpu": ["--d: could be any of", "write it in full"],
    "run tabel1": ["experiment: got 'tabel1'; expected one of", "did you mean table1?"],
    f"{RUN} -o swap.groups=3": ["--option: got 'swap.groups=3'; expected an experiment of this"],
    f"{RUN} -o count=3": ["--option: got 'count=3'; expected EXPERIMENT.NAME=VALUE"],
    f"{RUN} -o table1.region=60 -o table1.size=64": ["table1.region: got 60; expected at most 64"],
    f"{RUN} --model net.safetensors,size=3": ["--model: got", "each of res_scale, img_range"],
    f"{RUN} --model net.safetensors,mean=1": [
        "mean: got (1.0,); expected one number for each of R, G, B"
    ],
    f"{RUN} --model odd": ["odd is a folder; pass the weights file"],
    f"{RUN} --model odd,scale=2": ["odd is a folder; pass the weights file"],
    f"{EVALUATE} --model odd": ["odd is a folder; pass the weights file"],
    f"{RUN} --model edrs": [
        "--model: edrs: no such file; the built-in networks are edsr, rcan, swinir; did you mean ed"
    ],
    f"{RUN} --model EDSR": ["--model: EDSR: no such file", "did you mean edsr?"],
    f"{RUN} --model=": ["--model: got ''; expected a built-in network or a weights file"],
    f"{RUN} --model double.safetensors": ["must have the same scale; got ", "double", " x2"],
    f"{RUN} --model net.safetensors rcan": [
        "rcan: got one argument too many",
        "--model takes one value: --model net.safetensors --model rcan",
    ],
    f"{RUN} --lr-name x": ["--lr-name: got 'x'; expected the HR name as {}"],
    f"{RUN} --lr-name {{}}_small": ["--lr-name: got '{}_small'; expected the LR names of images"],
    f"{RUN} --out=": ["--out: got ''; expected a path that is not empty"],
    f"{RUN} --data=": ["--data: got ''; expected a path that is not empty"],
    f"{RUN} --seed {2**63}": [f"--seed: got {2**63}; expected at most {2**63 - 1}"],
    RUN: ["0 different squares of 256 pixels", "more or larger images, or a smaller size or count"],
    "compare run other --model edsr": ["--model: got 'edsr'; expected LABEL LABEL"],
    f"{RUN} --model notes.txt": ["notes.txt", "expected"],
    f"{RUN} --data lr.png": ["--data: lr.png: is a file; expected a folder of images"],
    f"{RUN} --data empty": ["--data: empty: contains no images; looked for"],
    f"{RUN} --data imgaes": ["--data: imgaes: no such folder; expected a folder of images"],
    f"{RUN} --device gpu": ["--device: got 'gpu'; expected a device of this machine"],
    f"{RUN} --out notes.txt": ["--out: got notes.txt; expected a folder"],
    f"{RUN} --out images/run": ["--out: got images/run; expected a folder outside of images"],
    "report": ["DIR: missing; expected DIR"],
    "report empty": ["empty: holds no run", "expected the --out folder of fastbg run"],
    "report nowhere": ["DIR: got nowhere; expected the --out folder of a run", "no such folder"],
    "report notes.txt": ["DIR: got notes.txt; expected the --out folder of a run", "a file"],
    "report empty small": ["small: got one argument too many; expected as in fastbg report DIR"],
    "attribute lr.png": ["--model, --window, --out: missing; expected", "--window Y X SIZE"],
    ATTRIBUTE.replace("0 0 16", "0 16"): ["--window: got '0 16'; expected Y X SIZE"],
    ATTRIBUTE.replace("0 0 16", "0 0 big"): [
        "--window: got '0 0 big'; expected Y X SIZE, Y0 X0 Y1 X1",
        "whole numbers",
    ],
    ATTRIBUTE.replace("0 0 16", "90 0 16"): [
        "--window: got 90 0 16; expected a window inside the SR image, which has 96x96 pixels"
    ],
    ATTRIBUTE.replace("0 0 16", "-4 0 16"): [
        "--window: got -4 0 16; expected Y X SIZE with Y, X >= 0"
    ],
    ATTRIBUTE.replace("0 0 16", "0 0 0"): [
        "--window: got 0 0 0; expected Y X SIZE with",
        "SIZE >= 1",
    ],
    ATTRIBUTE.replace("map.png", "map.gif"): ["--out: got map.gif; expected a file that ends"],
    ATTRIBUTE.replace("map.png", "no/map.png"): ["--out: got no/map.png; expected a file in a"],
    ATTRIBUTE.replace("map.png", "lr.png"): ["--out: got lr.png; expected another file than"],
    ATTRIBUTE.replace("lr.png", "images"): [
        "--out: got map.png; expected a folder, as there are 4 windows"
    ],
    ATTRIBUTE.replace("lr.png", "l.png"): ["IMAGE: got l.png; expected an image file; it cannot"],
    ATTRIBUTE.replace("lr.png", "broken.png"): ["IMAGE: got broken.png; expected an image file"],
    ATTRIBUTE.replace("lr.png", "dot.png") + " --hr": ["IMAGE: got 3x3 pixels; expected at least"],
    f"{ATTRIBUTE} --html odd": ["--html: got odd; expected a file; this is a folder"],
    f"{ATTRIBUTE} --steps 0": ["--steps: got 0; expected a whole number, at least 1"],
    f"{ATTRIBUTE} --steps 1 --method riemann_trapezoid": ["--steps: got 1; expected at least 2"],
    f"{ATTRIBUTE} --method simpson": ["--method: got 'simpson'; expected one of riemann_right"],
    f"{ATTRIBUTE} --grid 8": ["--grid: got 8; expected none without --html"],
    f"{ATTRIBUTE} --grid 0": ["--grid: got 0; expected a whole number, at least 1"],
    f"{ATTRIBUTE} --device tpu": ["--device: got 'tpu'; expected a device of this machine"],
    f"{ATTRIBUTE} --model net.safetensors double.safetensors": [
        "--model: got net x4, double x2; expected networks of one scale"
    ],
    EVALUATE.replace("images", "small"): ["small/a.png: 4x4 pixels", "expected at least 19x19"],
    EVALUATE.replace("images", "bad"): [
        "--data: bad: no image can be scored",
        "bad/a.png: cannot be read",
    ],
    EVALUATE.replace("images", "lr.png"): ["--data: lr.png: is a file; expected a folder"],
    f"{EVALUATE} --shave -1": ["--shave: got -1; expected a whole number, at least 0"],
    f"{EVALUATE} --lr nowhere": ["--lr: nowhere: no such folder; expected a folder of images"],
    f"{EVALUATE} --lr empty --kernel pil": ["--kernel: got pil; expected none with --lr"],
    f"{EVALUATE} --device tpu": ["--device: got 'tpu'; expected a device of this machine"],
    f"{EVALUATE} --model double.safetensors": ["--model: got net x4, double x2; expected"],
    "evaluate --data images": ["--model: missing; expected --model NAME|FILE"],
    TRAIN.replace("edsr", "vdsr"): ["NETWORK: got 'vdsr'; expected one of edsr, rcan, swinir"],
    TRAIN.replace("new.", "net."): ["--out: net.safetensors exists; choose another file"],
    TRAIN.replace("new.", "no/new."): ["--out: got no/new.safetensors; expected a file in a"],
    f"{TRAIN} --batch 0": ["--batch: got 0; expected a whole number, at least 1"],
    f"{TRAIN} --rate fast": ["--rate: got 'fast'; expected a number"],
    f"{TRAIN} --rate 0": ["--rate: got 0.0; expected a positive number"],
    f"{TRAIN} --resize 2": ["--resize: got 2.0; expected in (0, 1]"],
    f"{TRAIN} --resume": ["--resume: got new.safetensors.ckpt; expected that file to exist"],
    f"{TRAIN} --patch 8 --start net.safetensors": [
        "--start net.safetensors is edsr with features 4, blocks 1, not edsr with features 64, bloc"
    ],
    f"{TRAIN} --patch 8 --start rcan": ["--start rcan is rcan, not edsr"],
    f"{TRAIN} --patch 8 --start no.pth": ["--start: no.pth: no such file"],
    f"{TRAIN} --patch 999": ["--patch: got 999; expected at most 20 LR pixels a side"],
    f"{TRAIN} --lr 1e-4": ["--lr-name: got '1e-4'"],
    f"{TRAIN} --seed {2**63}": ["--seed: got"],
    TRAIN.replace("new.safetensors", "/proc/new.safetensors"): [
        "--out: got /proc/new.safetensors; expected a path where files can be written"
    ],
    ATTRIBUTE.replace("map.png", "/proc/map.png"): ["--out: got /proc/map.png; expected a path wh"],
    ATTRIBUTE.replace("map.png", "/proc"): ["--out: got /proc; expected a path where files can be"],
    f"{EVALUATE} --save /proc": ["--save: got /proc; expected a path where files can be written"],
    f"{EVALUATE} --lr-name {{}}_small": ["--lr-name: got '{}_small'; expected the LR names of ima"],
    "options tabel1": ["experiment: got 'tabel1'; expected one of", "did you mean table1?"],
    "info cuda": ["cuda: got one argument too many; expected as in fastbg info"],
}


@pytest.mark.parametrize("typed", TYPED, ids=lambda typed: typed or "(nothing)")
def test_the_answer_names_argument_value_and_remedy(
    typed: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    assert main(typed.split()) == 2
    said = capsys.readouterr().err
    for words in TYPED[typed]:
        assert words in said
    assert "\nfastbg: " in f"\n{said}"
    assert "Traceback" not in said
    assert sorted(folder.rglob("*")) == before, "a mistake left something behind"


def test_the_corrected_command_runs_in_the_same_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake's options, images and networks are not those of the run folder."""
    small = "-o table1.size=64 -o table1.region=32 -o table1.count=4"
    assert main(RUN.split()) == 2  # squares of 256 pixels, in smaller images
    assert main([*RUN.split(), *small.replace("32", "33").split()]) == 2
    assert not (folder / "run").exists()
    assert main([*RUN.split(), *small.split()]) == 0
    more = "run slicing --model net.safetensors --data images --out run -o slicing.count=4"
    assert main([*more.split(), "-o", "slicing.tile=33"]) == 2  # beside what is stored
    assert main([*more.split(), "-o", "slicing.tile=32"]) == 0
    assert "choose another" not in capsys.readouterr().err
