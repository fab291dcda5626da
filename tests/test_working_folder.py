"""The working folder is removed, before the process starts or while it runs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_run import make_network

from fastbg.cli import main
from fastbg.data.images import open_folder
from fastbg.errors import DataError, RunStoreError
from fastbg.models.checkpoints import load_model
from fastbg.runs import RunStore
from fastbg.working_folder import elsewhere, is_removed


@pytest.fixture
def homeless(tmp_path: Path) -> Iterator[Path]:
    """A removed working folder; absolute paths below the returned one exist."""
    before, folder = os.open(".", os.O_RDONLY), tmp_path / "removed"
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()
    assert is_removed()
    try:
        yield tmp_path
    finally:
        os.fchdir(before)
        os.close(before)


def test_elsewhere_is_for_a_moment_and_where_it_is_needed(homeless: Path) -> None:
    with elsewhere():
        assert os.getcwd() == "/"
    assert is_removed()
    os.chdir(homeless)
    with elsewhere():
        assert os.getcwd() == str(homeless)


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="a folder must be readable here")
def test_elsewhere_needs_no_right_to_read_the_folder(homeless: Path) -> None:
    os.chmod(".", 0o111)  # noqa: S103
    root = os.geteuid() == 0  # who may read it all the same
    if root:
        os.seteuid(65534)
    try:
        with elsewhere():
            assert os.getcwd() == "/"
        assert is_removed()
    finally:
        if root:
            os.seteuid(0)


def started_homeless(
    script: str, *arguments: str, folder: Path
) -> subprocess.CompletedProcess[str]:
    """A Python process whose working folder is removed before it starts."""
    home = folder / "start"
    home.mkdir()
    shell = 'cd "$0" && rmdir "$0" && exec "$@"'
    command = ["sh", "-c", shell, str(home), sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_networks_load_and_run_in_a_process_that_starts_without_it(tmp_path: Path) -> None:
    script = (
        "import os, fastbg, torch\n"
        "for name in ('swinir', 'edsr'):\n"
        "    print(fastbg.load_model(name)(torch.rand(1, 3, 8, 8)).shape)\n"
        "try: os.getcwd()\n"
        "except FileNotFoundError: print('still removed')"
    )
    done = started_homeless(script, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    size = "torch.Size([1, 3, 32, 32])"
    assert done.stdout.splitlines() == [size, size, "still removed"]


def test_a_process_that_loses_it_loads_swinir(tmp_path: Path) -> None:
    """PyTorch's compiler, which that loads, asks for the working folder's name."""
    script = (
        "import os, sys, torch, fastbg\n"
        "os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])\n"
        "print(fastbg.load_model('swinir').name)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "gone")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "swinir\n"), done.stderr


def test_relative_paths_are_refused_and_absolute_ones_work(
    homeless: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, images = make_network(homeless / "n.safetensors"), homeless / "images"
    images.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(images / "a.png")
    assert load_model(network).scale == 4
    with pytest.raises(DataError, match=r"^\.: cannot be opened: No such file"):
        open_folder(".")
    with pytest.raises(RunStoreError, match=r"^run: "):
        RunStore.open("run", {})

    evaluate = ["evaluate", "--data", str(images), "--model", str(network)]
    train = ["train", "edsr", "--data", str(images), "--steps", "1", "--batch", "1"]
    train += ["--patch", "8", "--out"]
    assert main([*evaluate, "--csv", str(homeless / "t.csv")]) == 0
    assert main([*train, str(homeless / "t.safetensors")]) == 0
    capsys.readouterr()
    for command in ([*evaluate, "--csv", "t.csv"], [*evaluate, "--save", "sr"], [*train, "t.pth"]):
        assert main(command) == 2
        assert "fastbg: the working folder was removed, and a path" in capsys.readouterr().err
