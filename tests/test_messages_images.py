"""Plausible mistakes with `fastbg attribute` and `evaluate`; more are in test_messages.py."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_run import make_rcan
from test_messages import ATTRIBUTE, EVALUATE
from test_messages import folder as folder
from test_messages import prepared as prepared

from fastbg.cli import main

LINES = {
    "columns": "image,y,x,size\nlr.png,0,0,16\n",
    "strange": "image,y0,x0,y1,x1\nwho.png,0,0,8,8\n",
    "words": "image,y0,x0,y1,x1\nlr.png,a,0,8,8\n",
    "short": "image,y0,x0,y1,x1\nlr.png,0,0,8\n",
    "empty": "image,y0,x0,y1,x1\n",
    "blank": "",
    "outside": "image,y0,x0,y1,x1\nlr.png,0,0,99,8\n",
}


@pytest.fixture
def files(folder: Path) -> Path:
    """The files of test_messages.py and some more, as the working folder."""
    make_rcan(folder / "wide.safetensors")
    pixels = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for name in ("other.png", "LR_bicubic/a.png"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    for name, text in LINES.items():
        (folder / f"{name}.csv").write_text(text)
    (folder / "binary.csv").write_bytes(bytes(range(256)))
    return folder


# What stands behind --window, and the answer.
WINDOWS: dict[str, str] = {
    "": "--window: got nothing; expected Y X SIZE|Y0 X0 Y1 X1|center [SIZE]|FILE.csv",
    "1 2": "--window: got '1 2'; expected Y X SIZE, Y0 X0 Y1 X1, center [SIZE], or a CSV file",
    "0 0 0 16 16": "--window: got '0 0 0 16 16'; expected Y X SIZE, Y0 X0 Y1 X1",
    "0,0,16": "--window: got '0,0,16'; expected Y X SIZE, Y0 X0 Y1 X1",
    "0 0 16.5": "--window: got '0 0 16.5'; expected Y X SIZE, Y0 X0 Y1 X1, center [SIZE], or",
    "middle": "--window: got 'middle'; expected Y X SIZE, Y0 X0 Y1 X1, center [SIZE], or",
    "center 0": "--window: got 'center 0'; expected center, or center SIZE, SIZE >= 1",
    "center big": "--window: got 'center big'; expected center, or center SIZE, SIZE >= 1",
    "center 8 8": "--window: got 'center 8 8'; expected center, or center SIZE, SIZE >= 1",
    "center 200": "--window: got center 200; expected at most 96 pixels a side, the SR image's",
    "16 0 8 16": "--window: got 16 0 8 16; expected Y0 X0 Y1 X1 with 0 <= Y0 < Y1",
    "-1 0 8 8": "--window: got -1 0 8 8; expected Y0 X0 Y1 X1 with 0 <= Y0 < Y1",
    "0 0 99 16": "--window: got 0 0 99 16; expected a window inside the SR image, which has 96x96",
    "nowhere.csv": "--window: got nowhere.csv; expected a CSV file; it cannot be read: No such fil",
    "binary.csv": "--window: got binary.csv; expected a CSV file; it cannot be read: 'utf-8' codec",
    "columns.csv": "--window: got columns.csv with columns image, y, x, size; expected columns ima",
    "blank.csv": "--window: got blank.csv with columns (none); expected columns image, y0, x0,",
    "empty.csv": "--window: got empty.csv without a line; expected a window a line",
    "strange.csv": "--window: got image 'who.png' in a CSV file; expected the name of an IMAGE",
    "words.csv": "--window: got words.csv, line 2: lr.png,a,0,8,8; expected an image's name and",
    "short.csv": "--window: got short.csv, line 2: lr.png,0,0,8,; expected an image's name and",
    "outside.csv": "--window: got 0 0 99 8; expected a window inside the SR image, which has 96x96",
}

# The whole line, and the answer.
ATTRIBUTED: dict[str, str] = {
    "attribute": "IMAGE, --model, --window, --out: missing; expected IMAGE and --model",
    ATTRIBUTE.replace("lr.png ", ""): "IMAGE: missing; expected IMAGE",
    ATTRIBUTE.replace("--out map.png", ""): "--out: missing; expected --out FILE|DIR",
    ATTRIBUTE.replace("lr.png", "lr.png gone.png"): "IMAGE: got gone.png; expected an image file",
    ATTRIBUTE.replace("lr.png", "lr.png other.png"): "--out: got map.png; expected a folder, as",
    f"{ATTRIBUTE} --window center": "--out: got map.png; expected a folder, as there are 2 windows",
    ATTRIBUTE.replace("lr.png", "empty"): "IMAGE: empty: contains no images; looked for",
    ATTRIBUTE.replace("lr.png", "LR_bicubic") + " --hr": "IMAGE: image set LR_bicubic: is named li",
    ATTRIBUTE.replace("map.png", "notes.txt"): "--out: got notes.txt; expected a file that ends",
    ATTRIBUTE.replace("map.png", "no/out"): "--out: got no/out; expected a file in a folder that",
    ATTRIBUTE.replace("lr.png", "images").replace("map.png", "images/maps"): "--out: got "
    "images/maps; expected a folder outside of images, whose images are read",
    f"{ATTRIBUTE} --format jpg": "--format: got 'jpg'; expected one of png, pdf, svg",
    f"{ATTRIBUTE} --format pdf": "--format: got pdf; expected none with --out map.png",
    f"{ATTRIBUTE} --steps 5 --accuracy published": "--steps: got 5; expected none with --accuracy",
    f"{ATTRIBUTE} --method arc_midpoint --accuracy published": "--method: got arc_midpoint; "
    "expected none with --accuracy",
    f"{ATTRIBUTE} --gpu": "--gpu: no such option of fastbg attribute; did you mean --device?",
    f"{ATTRIBUTE} --html lr.png": "--html: got lr.png; expected a file that ends with .html",
    f"{ATTRIBUTE} --html no/a.html": "--html: got no/a.html; expected a file in a folder that",
    f"{ATTRIBUTE} --window center --html a.html".replace("map.png", "out"): "--html: got a.html; "
    "expected one image and one window, not 2",
    ATTRIBUTE.replace("0 16", "0 16 32") + " --html a.html": "--window: got 0 0 16 32; expected a "
    "square for --html",
    f"{ATTRIBUTE} --grid x": "--grid: got 'x'; expected a whole number, at least 1",
    f"{ATTRIBUTE} --grid": "--grid: got nothing; expected N",
    f"{ATTRIBUTE} --steps 2.5": "--steps: got '2.5'; expected a whole number, at least 1",
    f"{ATTRIBUTE} --accuracy high": "--accuracy: got 'high'; expected one of published",
    f"{ATTRIBUTE} --method": "--method: got nothing; expected one of riemann_right",
    f"{ATTRIBUTE} --memory lots": "--memory: got 'lots'; expected a number",
    f"{ATTRIBUTE} --memory 0": "--memory: got 0.0; expected a positive number of GiB",
    f"{ATTRIBUTE} --memory -1": "--memory: got -1.0; expected a positive number of GiB",
    f"{ATTRIBUTE} --crop 0": "--crop: got 0; expected a whole number, at least 1",
    f"{ATTRIBUTE} --crop 16x16": "--crop: got '16x16'; expected a whole number, at least 1",
    f"{ATTRIBUTE} --memory 1e-6".replace("net.", "wide."): "IMAGE: got 24x24 LR pixels; wide looks "
    "at all of them, which takes about 8.6e-05 GiB; expected at most 1e-06 GiB: a smaller image",
    f"{ATTRIBUTE} --crop 9 --html a.html": "--crop: got 9; expected none with --html, whose maps",
    ATTRIBUTE.replace("0 16", "0 99").replace("map.png", "out"): "--window: got 0 0 99; expected",
    f"{ATTRIBUTE} --hr=yes": "--hr: got 'yes'; expected --hr alone, it takes no value",
    f"{ATTRIBUTE} --windows 0 0 8": "--windows: no such option of fastbg attribute; did you mean -",
    ATTRIBUTE.replace("net.safetensors", "rcna"): "rcna: no such file; the built-in networks are",
    ATTRIBUTE.replace("net.safetensors", "broken.png"): "broken.png is damaged, or no weights file",
}  # fmt: skip

EVALUATED: dict[str, str] = {
    "evaluate": "--model, --data: missing; expected --model NAME|FILE[,OPTION=VALUE] and --data DI",
    "evaluate images --model net.safetensors": "--data: missing; expected --data DIR",
    f"{EVALUATE} images": "images: got one argument too many; expected as in fastbg evaluate",
    "evaluate --data images --model": "--model: got nothing; expected NAME|FILE",
    EVALUATE.replace("images", ""): "--data: got nothing; expected DIR",
    EVALUATE.replace("images", "empty"): "--data: empty: contains no images; looked for",
    EVALUATE.replace("images", "nowhere"): "--data: nowhere: no such folder; expected a folder of",
    EVALUATE.replace("images", "LR_bicubic"): "--data: image set LR_bicubic: is named like low-res",
    f"{EVALUATE} --channel yuv": "--channel: got 'yuv'; expected one of rgb, y",
    f"{EVALUATE} --channel": "--channel: got nothing; expected one of rgb, y",
    f"{EVALUATE} --shave": "--shave: got nothing; expected N",
    f"{EVALUATE} --shave two": "--shave: got 'two'; expected a whole number, at least 0",
    f"{EVALUATE} --shave 1.5": "--shave: got '1.5'; expected a whole number, at least 0",
    f"{EVALUATE} --shave 40": "expected at least 91x91 for SSIM with a border (--shave) of 40",
    f"{EVALUATE} --kernel bicubic": "--kernel: got 'bicubic'; expected one of matlab, pil",
    f"{EVALUATE} --tile": "--tile: got nothing; expected N",
    f"{EVALUATE} --tile 0": "--tile: got 0; expected a whole number, at least 1",
    f"{EVALUATE} --tile -4": "--tile: got -4; expected a whole number, at least 1",
    f"{EVALUATE} --tile 8x8": "--tile: got '8x8'; expected a whole number, at least 1",
    f"{EVALUATE} --tiles 4": "--tiles: no such option of fastbg evaluate; did you mean --tile?",
    f"{EVALUATE} --csv odd": "--csv: got odd; expected a file that ends with .csv",
    f"{EVALUATE} --csv images/0.png": "--csv: got images/0.png; expected a file that ends with .cs",
    f"{EVALUATE} --csv no/a.csv": "--csv: got no/a.csv; expected a file in a folder that exists",
    f"{EVALUATE} --json a.csv": "--json: got a.csv; expected a file that ends with .json",
    f"{EVALUATE} --json no/a.json": "--json: got no/a.json; expected a file in a folder that exist",
    f"{EVALUATE} --save notes.txt": "--save: got notes.txt; expected a folder; this is a file",
    f"{EVALUATE} --save no/sr": "--save: got no/sr; expected a folder, or a new one in a folder",
    f"{EVALUATE} --save images": "--save: got images; expected a folder outside of images",
    f"{EVALUATE} --save images/sr": "--save: got images/sr; expected a folder outside of images",
    f"{EVALUATE} --measure": "--measure: got nothing; expected NAME",
    f"{EVALUATE} --measure psnr": "--measure: got 'psnr'; expected others than psnr and ssim",
    f"{EVALUATE} --measures lpips": "--measures: no such option of fastbg evaluate; did you mean -",
    f"{EVALUATE} --lr images --kernel matlab": "--kernel: got matlab; expected none with --lr",
    f"{EVALUATE} --lr notes.txt": "--lr: notes.txt: is a file; expected a folder of images",
    f"{EVALUATE} --lr small": "--lr: image set small: has no LR image x4 named like 0.png, 1.png",
    f"{EVALUATE} --lr images": "is 80x96; expected 1/4 of 80x96, the size of",
    f"{EVALUATE} --lr-name x": "--lr-name: got 'x'; expected the HR name as {} once",
    f"{EVALUATE} --lr-name": "--lr-name: got nothing; expected TEMPLATE",
    f"{EVALUATE} --skip-bad=no": "--skip-bad: got 'no'; expected --skip-bad alone",
    EVALUATE.replace("net.safetensors", "edrs"): "edrs: no such file; the built-in networks are",
    EVALUATE.replace("net.safetensors", "notes.txt"): "notes.txt is damaged, or no weights file",
}  # fmt: skip

TYPED = {ATTRIBUTE.replace("0 0 16", window): said for window, said in WINDOWS.items()}
TYPED |= ATTRIBUTED | EVALUATED


@pytest.mark.parametrize("typed", TYPED)
def test_the_answer_names_argument_value_and_remedy(
    typed: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in files.rglob("*")}
    assert main(typed.split()) == 2
    said = capsys.readouterr().err
    assert TYPED[typed] in said
    assert "\nfastbg: " in f"\n{said}"
    assert "Traceback" not in said
    assert {path: path.stat().st_mtime_ns for path in files.rglob("*")} == before  # nothing written


def test_a_bad_file_among_several_is_left_out(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ATTRIBUTE.replace("lr.png", "lr.png notes.txt other.png").replace("map.png", "out")
    assert main([*typed.split(), "--steps", "2"]) == 1
    printed = capsys.readouterr()
    assert "left out: notes.txt: IMAGE: got notes.txt; expected an image file" in printed.err
    names = ["attribution.csv", "lr_0_0_16_16.png", "other_0_0_16_16.png"]
    assert sorted(path.name for path in (files / "out").glob("*.[pc]*")) == names
