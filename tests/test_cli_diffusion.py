"""The command `fastbg diffusion`: what it writes, how it goes on, and what it refuses."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import lr_tensor, make_images, make_network

import fastbg
from fastbg.cli import main
from fastbg.cli.diffusion import names

WINDOW = (24, 24, 40, 40)  # in the middle of 64 pixels


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with images/ (four of 80 x 96) and two networks."""
    make_images(tmp_path / "images")
    for seed, name in enumerate("ab"):
        make_network(tmp_path / f"{name}.safetensors", seed)
    return tmp_path


def command(files: Path, *more: object, size: int = 64) -> list[str]:
    nets = [files / "a.safetensors", files / "b.safetensors"]
    given = ["--data", files / "images", "--out", files / "out", "--size", size, *more]
    return [str(part) for part in ("diffusion", "--model", *nets, "--device", "cpu", *given)]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def windows_file(path: Path, lines: dict[str, tuple[int, ...]]) -> Path:
    rows = [f"{name},{','.join(map(str, box))}\n" for name, box in lines.items()]
    path.write_text("image,y0,x0,y1,x1\n" + "".join(rows), encoding="utf-8")
    return path


EACH = {  # odd corners, sizes and shapes; at borders; by key, and without ending
    "0.png": (0, 0, 16, 16),
    "1": (61, 79, 80, 96),
    "2.png": (33, 5, 43, 67),
    "3.png": (31, 30, 46, 50),
}


def test_files_hold_what_a_plain_attribution_gives(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = windows_file(files / "w.csv", EACH)
    assert main(command(files, "--windows", given)) == 0
    out = files / "out"
    rows = table(out / "diffusion.csv")
    assert len(rows) == 8
    labels = list(dict.fromkeys(row["network"] for row in rows))
    nets = [fastbg.load_model(files / f"{name}.safetensors") for name in "ab"]
    for row in rows:
        net = nets[labels.index(row["network"])]
        box = [int(row[name]) for name in ("y0", "x0", "y1", "x1")]
        name = row["image"].removesuffix(".png")
        assert tuple(box) == EACH.get(row["image"], EACH.get(name))
        y, x = int(row["input_y0"]), int(row["input_x0"])
        assert y % 4 == x % 4 == 0
        assert y <= box[0] < box[2] <= y + 64 <= 80
        assert x <= box[1] < box[3] <= x + 64 <= 96
        with Image.open(files / "images" / row["image"]) as image:
            hr = np.array(image)[y : y + 64, x : x + 64]
        lr, inside = lr_tensor(hr), (box[0] - y, box[1] - x, box[2] - y, box[3] - x)
        result = fastbg.LocalAttribution(net).attribute(lr, inside, accuracy="published")
        assert float(row["diffusion_index"]) == pytest.approx(float(result.diffusion_index))
        assert float(row["gini"]) == pytest.approx(float(result.gini))
        assert int(row["area_lr_pixels"]) == int(result.area())
        assert float(row["area_percent"]) == pytest.approx(100 * int(result.area()) / 256)
        with torch.no_grad():
            sr = net(lr)[0].clamp(0, 1).mul(255).round().permute(1, 2, 0).double().numpy()
        rows_, columns = slice(inside[0], inside[2]), slice(inside[1], inside[3])
        error = np.square(sr[rows_, columns] - hr[rows_, columns]).mean()
        expected = 10 * np.log10(255**2 / error)
        assert float(row["psnr_rgb_db"]) == pytest.approx(expected, abs=1e-3)

        saved = fastbg.AttributionResult.load(out / "arrays" / row["network"] / f"{name}.npz")
        torch.testing.assert_close(saved.attribution, result.attribution)
        torch.testing.assert_close(saved.images, result.images)
        assert saved.windows.tolist() == [list(inside)]
        assert (saved.scale, saved.passes) == (4, result.passes)
        with Image.open(out / "pictures" / row["network"] / f"{name}.png") as picture:
            drawn = np.array(picture)
        assert drawn.shape == (64, 128, 3)
        middle = (inside[0] + inside[2]) // 2, (inside[1] + inside[3]) // 2
        assert (drawn[middle] == hr[middle]).all(), "the image, inside its frame"
    told = capsys.readouterr().out
    assert told.index("Means over the images") < told.index("Differences on the same windows")
    assert f"{labels[1]} less" in " ".join(told.split())
    assert (out / "report.html").exists()
    assert "diffusion_scatter" in (out / "report.html").read_text(encoding="utf-8")
    assert table(out / "tables" / "diffusion_differences.csv")


def test_the_centre_is_the_middle_of_each_image(files: Path) -> None:
    with Image.open(files / "images" / "0.png") as image:
        odd = np.pad(np.array(image), ((0, 3), (0, 1), (0, 0)), mode="reflect")
    Image.fromarray(odd).save(files / "images" / "odd.png")
    assert main(command(files, "-q")) == 0
    rows = table(files / "out" / "diffusion.csv")
    assert len(rows) == 10
    for row in rows:
        box = [int(row[name]) for name in ("y0", "x0", "y1", "x1")]
        assert box == [32, 40, 48, 56], "of 80 x 96, and 83 x 97 cut to the LR grid"
        assert (row["input_y0"], row["input_x0"]) == ("8", "16")


def test_windows_that_were_used_give_the_same_again(files: Path) -> None:
    assert main(command(files, "--windows", "center", "-q", "--limit", 1)) == 0
    shutil.rmtree(files / "out")
    assert main(command(files, "--windows", "hard", "-q", "--limit", 2)) == 0
    used = files / "out" / "windows.csv"
    assert len(table(used)) == 2
    first = (files / "out" / "diffusion.csv").read_bytes()
    for name in ("2.png", "3.png"):
        (files / "images" / name).unlink()
    again = [*command(files, "--windows", used, "-q"), "--out", str(files / "again")]
    assert main(again) == 0
    assert (files / "again" / "diffusion.csv").read_bytes() == first


def test_it_resumes_and_makes_its_files_anew(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(files, "--limit", 1, "-q")) == 0
    first = table(files / "out" / "diffusion.csv")
    (files / "out" / "diffusion.csv").unlink()
    assert main(command(files)) == 0
    rows = table(files / "out" / "diffusion.csv")
    assert len(rows) == 8
    assert rows[:2] == first
    before = (files / "out" / "diffusion.csv").read_bytes()
    capsys.readouterr()
    assert main(command(files)) == 0
    assert capsys.readouterr().out.count("[resumed]") == 2
    assert (files / "out" / "diffusion.csv").read_bytes() == before


def test_windows_are_part_of_what_a_run_is(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = windows_file(files / "w.csv", EACH)
    assert main(command(files, "--windows", given, "-q")) == 0
    (files / "elsewhere").mkdir()
    moved = given.rename(files / "elsewhere" / "w.csv")
    assert main(command(files, "--windows", moved, "-q")) == 0, "the same windows"
    windows_file(moved, EACH | {"0.png": (4, 0, 20, 16)})
    assert main(command(files, "--windows", moved, "-q")) == 2
    assert "was run with windows = 'w.csv (SHA-256" in capsys.readouterr().err
    assert main(command(files, "-q")) == 2
    assert "not 'centre'" in capsys.readouterr().err


def test_a_window_without_detail_is_left_out_and_told(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = np.full((80, 96, 3), 77, np.uint8)
    flat[:10] = 200  # some detail, not in the window
    Image.fromarray(flat).save(files / "images" / "flat.png")
    assert main(command(files, "-q")) == 1
    assert "left out, as its window has no detail: flat.png" in capsys.readouterr().err
    assert {row["image"] for row in table(files / "out" / "diffusion.csv")} == {
        f"{i}.png" for i in range(4)
    }
    for i in range(4):
        (files / "images" / f"{i}.png").unlink()
    assert main([*command(files), "--out", str(files / "none")]) == 2
    assert "no window of images has detail" in capsys.readouterr().err


def test_estimates_write_nothing(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(files, "--dry-run")) == 0
    assert "diffusion" in capsys.readouterr().out
    assert not (files / "out").exists()


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (EACH | {"4.png": (0, 0, 8, 8)}, "image '4.png'; expected one of the set"),
        ({k: v for k, v in EACH.items() if k != "2.png"}, "no window for 2.png; expected one for"),
        (EACH | {"1.png": (0, 0, 8, 8)}, "image '1.png' twice; expected one window"),
        (EACH | {"3.png": (40, 40, 81, 60)}, "40:81, 40:60 in 3.png; expected .*inside its 80x96"),
        (
            EACH | {"3.png": (0, 0, 80, 16)},
            "0:80, 0:16 in 3.png; expected .*fits into 16x16 LR pixels, --size",
        ),
        (EACH | {"3.png": (8, 8, 8, 16)}, "line 5: 3.png,8,8,8,16; expected .* y0 < y1"),
        ({}, "without a line"),
    ],
)
def test_windows_of_other_images_are_refused(
    files: Path,
    capsys: pytest.CaptureFixture[str],
    lines: dict[str, tuple[int, ...]],
    told: str,
) -> None:
    given = windows_file(files / "w.csv", lines)
    assert main(command(files, "--windows", given)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("fastbg: --windows: got ")
    assert re.search(told, said), said
    assert not (files / "out" / "diffusion.csv").exists()


def test_a_file_name_that_two_images_have_is_refused(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "images" / "more").mkdir()
    (files / "images" / "0.png").rename(files / "images" / "more" / "1.png")
    given = windows_file(files / "w.csv", {k: v for k, v in EACH.items() if k != "0.png"})
    assert main(command(files, "--windows", given)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "image '1'; expected one of them, by its path: 1.png, more/1.png" in said
    paths = {k: v for k, v in EACH.items() if k in ("2.png", "3.png")}
    paths |= {"1.png": (0, 0, 16, 16), "more/1.png": (0, 0, 16, 16)}
    assert main(command(files, "--windows", windows_file(given, paths), "-q")) == 0


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--windows", "w.csv"], "--windows: got w.csv; expected a CSV file; it cannot be read"),
        (["--windows", "middle"], "--windows: got 'middle'; expected centre, hard or FILE.csv"),
        (["--window", "12"], "--window: got 12; expected a multiple of 8"),
        (["--window", "64"], "--window: got 64; expected less than the size 64"),
        (["--out", "images/out"], "--out: got images/out; expected a folder outside of"),
        (["--limit", "0"], "--limit: got 0; expected a whole number, at least 1"),
    ],
)
def test_bad_arguments_are_named(
    files: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(files)
    assert main(command(files, *more)) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_images_that_are_too_small_are_named(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(files, size=96)) == 2
    said = " ".join(capsys.readouterr().err.split())
    expected = "at most 80, as images of images are smaller: 0.png, 1.png, 2.png, 3.png"
    assert f"--size: got 96; expected {expected}" in said


def test_an_image_that_cannot_be_read_is_named(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "images" / "bad.png").write_bytes(b"no image")
    assert main(command(files)) == 2
    assert "bad.png" in capsys.readouterr().err


def test_no_two_images_share_a_file_name() -> None:
    found = names(["a.png", "a.jpg", "x/a.png", "x_a.png", "A.png", "b.png"])
    assert len({name.lower() for name in found.values()}) == 6
    assert found["b.png"] == "b"
