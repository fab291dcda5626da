"""Plausible mistakes with `fastbg diffusion` and `fastbg effect`: argument, value, what to give."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_run import make_images, make_network

from fastbg.cli import main

DIFFUSION = "diffusion --model net.safetensors --data images --out d"
EFFECT = "effect lr.png --model net.safetensors --window 0 0 16 --hr hr.png --out m.png"
NO_FOLDER = "expected a folder of images"
NO_IMAGE = "expected an image file"

# What was typed, and what of the answer must be there.
TYPED: dict[str, list[str]] = {
    "diffusion": ["--model: missing; expected --model NAME|FILE"],
    "diffusion --model net.safetensors --data nowhere --out d": ["--data: nowhere:", NO_FOLDER],
    "diffusion --model net.safetensors --data empty --out d": ["--data: empty: contains no images"],
    "diffusion --model net.safetensors --data notes.txt --out d": [
        "notes.txt: is a file",
        NO_FOLDER,
    ],
    "diffusion --model nowhere.pth --data images --out d": [
        "--model: nowhere.pth: no such file",
        "edsr",
    ],
    "diffusion --model ersd --data images --out d": [
        "ersd: no such file",
        "edsr, rcan, swinir",
    ],
    "diffusion --model notes.txt --data images --out d": ["notes.txt", "what torch.save or"],
    "diffusion --model net.safetensors --data images --out notes.txt": ["--out: got notes.txt"],
    "diffusion --model net.safetensors --data images --out images": ["a folder outside of images"],
    DIFFUSION: ["--size: got 256; expected at most 80", "0.png"],
    f"{DIFFUSION} --windows nowhere.csv": ["--windows: got nowhere.csv", "No such file"],
    f"{DIFFUSION} --windows notes.txt": ["--windows: got 'notes.txt'", "centre, hard or FILE.csv"],
    f"{DIFFUSION} --windows middle": ["--windows: got 'middle'", "centre, hard or FILE.csv"],
    f"{DIFFUSION} --windows head.csv": ["columns a, b", "columns image, y0, x0, y1, x1"],
    f"{DIFFUSION} --window 0": ["--window: got 0; expected a whole number, at least 1"],
    f"{DIFFUSION} --window many": ["--window: got 'many'", "a whole number"],
    f"{DIFFUSION} --window 4096": ["--window: got 4096; expected less than the size 256"],
    f"{DIFFUSION} --size 8": ["--window: got 16; expected less than the size 8"],
    f"{DIFFUSION} --size 0": ["--size: got 0", "at least 1"],
    f"{DIFFUSION} --size 30": ["--size: got 30; expected a multiple of 8"],
    f"{DIFFUSION} --nodes 16": ["--nodes: got '16'", "few, many, published"],
    f"{DIFFUSION} --seed -1": ["--seed: got -1", "at least 0"],
    f"{DIFFUSION} --seed x": ["--seed: got 'x'", "a whole number"],
    f"{DIFFUSION} --limit 0": ["--limit: got 0", "at least 1"],
    f"{DIFFUSION} --limit": ["--limit: got nothing; expected N"],
    f"{DIFFUSION} --device gpu": ["--device: got 'gpu'; expected a device of this machine"],
    f"{DIFFUSION} --precision fp16": ["--precision: got 'fp16'", "ieee, tf32, bf16", "bf16?"],
    f"{DIFFUSION} --backend best": ["--backend: got 'best'", "auto, torch, cpu"],
    f"{DIFFUSION} --engine spark": ["--engine: got 'spark'", "local, ray"],
    f"{DIFFUSION} --channel r": ["--channel: got 'r'", "rgb, y"],
    f"{DIFFUSION} --kernel lanczos": ["--kernel: got 'lanczos'", "matlab, pil"],
    f"{DIFFUSION} --quick": ["--quick: no such option of fastbg diffusion"],
    f"{DIFFUSION} --wndow 16": ["--wndow: no such option", "did you mean --window?"],
    f"{DIFFUSION} extra": ["extra: got one argument too many"],
    "effect": ["IMAGE, --model, --window, --out: missing"],
    "effect lr.png": ["--model, --window, --out: missing; expected --model NAME|FILE"],
    EFFECT.replace("lr.png", "nowhere.png"): ["IMAGE: got nowhere.png", NO_IMAGE, "No such file"],
    EFFECT.replace("lr.png", "notes.txt"): ["IMAGE: got notes.txt", NO_IMAGE],
    EFFECT.replace("lr.png", "images"): ["IMAGE: got images", NO_IMAGE, "this is a folder"],
    EFFECT.replace("--hr hr.png", ""): ["--hr: got None; expected the HR image", "--metric psnr"],
    EFFECT.replace("hr.png", "nowhere.png"): ["--hr: got nowhere.png", NO_IMAGE],
    EFFECT.replace("hr.png", "notes.txt"): ["--hr: got notes.txt", NO_IMAGE],
    EFFECT.replace("hr.png", "lr.png"): ["--hr: got 24x24 pixels", "96x96", "4 times IMAGE's"],
    EFFECT.replace("0 0 16", "0 0"): ["--window: got '0 0'; expected Y X SIZE"],
    EFFECT.replace("0 0 16", "a b c"): ["--window: got 'a'; expected a whole number"],
    EFFECT.replace("0 0 16", "0 0 0"): ["--window: got 0 0 0", "inside the SR image", "96x96"],
    EFFECT.replace("0 0 16", "90 90 16"): ["--window: got 90 90 16", "96x96 pixels"],
    EFFECT.replace("0 0 16", "-4 0 16"): ["--window: got -4 0 16", "96x96 pixels"],
    EFFECT.replace("m.png", "m.gif"): ["--out: got m.gif", "ends with .png, .pdf, .svg"],
    EFFECT.replace("m.png", "nowhere/m.png"): ["--out: got nowhere/m.png", "a folder that exists"],
    EFFECT.replace("m.png", "lr.png"): ["--out: got lr.png; expected another file than IMAGE"],
    f"{EFFECT} --precision fp16": ["--precision: got 'fp16'", "ieee, tf32, bf16", "bf16?"],
    f"{EFFECT} --precision tf32": ["--precision: got 'tf32'; expected ieee or bf16 on cpu"],
    EFFECT.replace("net.safetensors", "ersd"): ["ersd: no such file"],
    EFFECT.replace("net.safetensors", "notes.txt"): ["notes.txt", "no weights file"],
    f"{EFFECT} --block 0": ["--block: got 0", "at least 1"],
    f"{EFFECT} --block two": ["--block: got 'two'", "a whole number"],
    f"{EFFECT} --block 64": ["--window: got the box (0, 0, 16, 16), which touches every block"],
    f"{EFFECT} --coarse 0": ["--coarse: got 0", "at least 1"],
    f"{EFFECT} --fine 0": ["--fine: got 0", "at least 1"],
    f"{EFFECT} --tolerance -1": ["--tolerance: got -1"],
    f"{EFFECT} --tolerance nan": ["--tolerance: got 'nan'; expected a number"],
    f"{EFFECT} --metric ssim": ["--metric: got 'ssim'", "psnr, mse, change"],
    f"{EFFECT} --accuracy best": ["--accuracy: got 'best'", "published"],
    f"{EFFECT} --seed -1": ["--seed: got -1", "at least 0"],
    f"{EFFECT} --patches nowhere": ["--patches: got nowhere", NO_FOLDER],
    f"{EFFECT} --patches empty": ["--patches", "empty"],
    f"{EFFECT} --patches notes.txt": ["--patches", "notes.txt"],
    f"{EFFECT} --device tpu": ["--device: got 'tpu'; expected a device of this machine"],
    f"{EFFECT} --modle edsr": ["--modle: no such option of fastbg effect; did you mean --model?"],
    f"{EFFECT} --resume notes.txt": ["notes.txt"],
    f"{EFFECT} --interventions notes.txt": ["--interventions: got notes.txt", "is no .npz file"],
    f"{EFFECT} --save net.safetensors": ["--save: got net.safetensors", "that ends with .npz"],
    f"{EFFECT} --keep-interventions hr.png": ["--keep-interventions: got hr.png", "with .npz"],
    f"{EFFECT} extra.png": ["extra.png: got one argument too many"],
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    make_network(folder / "net.safetensors")
    make_images(folder / "images")
    for name, side in {"lr.png": 24, "hr.png": 96}.items():
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(folder / name)
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("no image")
    (folder / "head.csv").write_text("a,b\n1,2\n")
    return folder


@pytest.mark.parametrize("typed", TYPED)
def test_the_answer_names_argument_value_and_remedy(
    typed: str,
    prepared: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(prepared)
    before = sorted(prepared.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        raise SystemExit(main(shlex.split(typed)))
    answer = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2
    assert answer.startswith("fastbg: "), answer
    for part in TYPED[typed]:
        assert part in answer
    assert sorted(prepared.rglob("*")) == before, "a mistake left something behind"
