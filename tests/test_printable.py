"""Names of files and networks never steer a terminal, a report or another program."""

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_run import make_network

from fastbg.cli import main
from fastbg.data.images import open_folder
from fastbg.errors import DataError, FastbgError, InvalidArgument
from fastbg.printable import named, printable, printable_lines
from fastbg.reports.page import templates

HOSTILE = "a\x1b[31mred\rX\nfastbg: all is well\u202egnp"
SHOWN = r"a\x1b[31mred\rX\nfastbg: all is well\u202egnp"
UTF8 = os.fsdecode("é-日本".encode())


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name.png", "plain name.png"),
        ("é-日本\u3000👍🏽.png", "é-日本\u3000👍🏽.png"),
        (HOSTILE, SHOWN),
        ("\x07\x9b\x00", r"\x07\x9b\x00"),
        ("\u2066\u200f\u2028\ufeff", r"\u2066\u200f\u2028\ufeff"),
        (os.fsdecode(b"b\xff\xfe"), r"b\xff\xfe"),
        ("lone \ud800", r"lone \ud800"),
        (r"\x1b", r"\x1b"),
        (Path("a\tb"), r"a\tb"),
    ],
)
def test_what_cannot_be_printed_is_escaped(name: str | Path, shown: str) -> None:
    assert printable(name) == shown
    assert printable(shown) == shown  # a second time changes nothing
    shown.encode("utf-8")


def test_lines_stay_lines() -> None:
    assert printable_lines("one\x1b\ntwo\n") == "one\\x1b\ntwo\n"


def test_a_file_is_named_in_utf8() -> None:
    assert os.fsencode(named("é")) == "é".encode()


def test_errors_escape_names_and_keep_their_lines() -> None:
    assert str(InvalidArgument("--data", HOSTILE, "a folder")).startswith(f"--data: got {SHOWN};")
    assert str(InvalidArgument("--data", Path(HOSTILE), "a folder")).count("\n") == 0
    assert str(FastbgError("one:\n  \x1b[2Jtwo")) == "one:\n  \\x1b[2Jtwo"


def test_reports_escape_what_an_old_run_may_hold() -> None:
    text = templates(100).from_string("{{ name }}").render(name="<b>\u202e\x1b")
    assert text == r"&lt;b&gt;\u202e\x1b"


def put(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in names:
        Image.fromarray(pixels).save(folder / name, "PNG")
    return folder


def test_two_images_that_would_be_shown_alike_are_refused(tmp_path: Path) -> None:
    folder = put(tmp_path / "images", "a\x1b.png", r"a\x1b.png")
    with pytest.raises(DataError, match="two images are both shown as"):
        open_folder(folder)


def test_images_are_paired_by_names_that_are_escaped(tmp_path: Path) -> None:
    put(tmp_path / "HR", f"{HOSTILE}.png")
    low = put(tmp_path / "LR", f"{HOSTILE}x4.png") / f"{HOSTILE}x4.png"
    Image.new("RGB", (16, 16)).save(low)
    (item,) = open_folder(tmp_path).items
    assert item.key == f"{SHOWN}.png"
    assert item.lr_path(4) == low


def steering(text: str) -> set[str]:
    """Characters of `text` that are more than text, and lines that a name has made."""
    found = {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl")}
    return found | {line for line in text.split("\n") if line.startswith("fastbg: all is well")}


def commands(root: Path, stem: str) -> list[list[str]]:
    """Every command that reads or writes names; those that fail are about `stem` too."""
    good = put(root / f"{stem}dir", f"{stem}.png", "z.png")
    bad = put(root / f"{stem}bad", "z.png")
    (bad / f"{stem}.png").write_bytes(b"no image")
    net, image = str(make_network(root / f"{stem}.safetensors")), str(good / f"{stem}.png")
    window = ["--window", "8", "8", "16"]
    run = ["run", "slicing", "-o", "slicing.tile=32", "-o", "slicing.count=2", "--model", net]
    csv, js = (str(root / f"{stem}.{kind}") for kind in ("csv", "json"))
    evaluate = ["evaluate", "--model", net, "--data"]
    attribute = ["attribute", "--model", net, *window, "--steps", "1"]
    return [
        [*evaluate, str(good), "--csv", csv, "--json", js, "--save", str(root / "sr")],
        [*evaluate, str(bad), "--skip-bad"],
        [*evaluate, str(root / f"{stem}none")],
        ["evaluate", "--model", image, "--data", str(good)],
        ["evaluate", "--model", str(root / f"{stem}none.pth"), "--data", str(good)],
        [*attribute, image, "--out", str(root / f"{stem}.pdf")],
        [*attribute, image, "z.png", str(good), "--out", str(root / "many")],
        [*attribute, image, str(good), "--out", str(root / f"{stem}many")],
        [*attribute, str(bad / f"{stem}.png"), "--out", str(root / "b.png")],
        [*run, "--data", str(good), "--out", str(root / f"{stem}run")],
        [*run, "--data", str(good), "--out", str(root / f"{stem}run"), "--dry-run"],
        [*run, "--data", str(bad), "--out", str(root / "other")],
        [*run[:2], "--model", net, "--data", str(good), "--out", str(root / "small")],
        ["report", str(root / f"{stem}run")],
        ["report", str(root / f"{stem}none")],
        ["compare", *[str(root / f"{stem}run")] * 2, "--csv", str(root / f"{stem}c.csv")],
        ["train", "edsr", "--data", str(bad), "--out", str(root / f"{stem}t.safetensors")],
        [f"frob{stem}"],
    ]


def test_no_command_prints_or_writes_what_steers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    statuses = []
    for command in commands(tmp_path, HOSTILE):
        statuses.append(main(command))
        out, error = capsys.readouterr()
        assert not steering(out + error), command
    assert statuses == [0, 0, 2, 2, 2, 0, 2, 0, 2, 0, 0, 2, 2, 0, 2, 0, 2, 2]
    page = (tmp_path / f"{HOSTILE}run" / "report.html").read_text()
    assert SHOWN in page
    assert not steering(page)


@pytest.mark.parametrize(
    "surroundings",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
    ],
    ids=["a locale without encoding", "an output without it"],
)
def test_every_command_runs_whatever_the_encoding_is(
    surroundings: dict[str, str], tmp_path: Path
) -> None:
    """Names that the locale cannot decode, and characters that the output lacks."""
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from fastbg.cli import main; from test_printable import UTF8, commands\n"
        "print([main(c) for c in commands(Path(sys.argv[2]), UTF8)], main(['options']),"
        " main(['info']))"
    )
    tests = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", script, tests, str(tmp_path)],
        env={**os.environ, **surroundings},
        cwd=tmp_path,  # not the checkout, which may have no compiled modules
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    last = done.stdout.decode("ascii").splitlines()[-1]
    assert last == "[0, 0, 2, 2, 2, 0, 2, 0, 2, 0, 0, 2, 2, 0, 2, 0, 2, 2] 0 0"
    assert r"\xe9-\u65e5\u672c" in done.stdout.decode()
    assert (tmp_path / "sr" / "bicubic" / f"{UTF8}.png").is_file()
    assert "é-日本.png" in (tmp_path / f"{UTF8}.csv").read_text(encoding="utf-8")
