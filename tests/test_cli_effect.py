"""The command `fastbg effect`: what it writes, how it goes on, and what it refuses."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import make_network
from torch import Tensor

import fastbg
from fastbg.cli import main
from fastbg.data.degradation import downsample
from fastbg.runs import progress
from fastbg.runs.parts import StoredParts
from fastbg.runs.store import RunStore


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with hr.png, lr.png and net.safetensors."""
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (12, 14, 3), np.uint8)
    hr = np.asarray(Image.fromarray(smooth).resize((56, 48), Image.Resampling.BICUBIC))
    Image.fromarray(hr).save(tmp_path / "hr.png")
    Image.fromarray(downsample(hr, 4)).save(tmp_path / "lr.png")
    make_network(tmp_path / "net.safetensors")
    return tmp_path


def command(files: Path, *more: str) -> list[str]:
    given = {"--model": files / "net.safetensors", "--hr": files / "hr.png"}
    options = [str(part) for pair in given.items() for part in pair]
    window = ["--window", "16", "16", "16", "--fine", "3", "--out", str(files / "map.png")]
    return ["effect", str(files / "lr.png"), *options, *window, *more]


def opened(path: Path) -> Tensor:
    """Levels (1,3,h,w) of an image file."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]


def test_it_draws_the_map_and_tells_the_counts(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--save", str(files / "map.npz"), "--keep-interventions", str(files / "set.npz")]
    assert main(command(files, *more)) == 0
    told, *paths = capsys.readouterr().out.strip().splitlines()
    assert paths == [str(files / name) for name in ("map.png", "map.npz", "set.npz")]
    assert opened(files / "map.png").shape[-1] > 800
    result = fastbg.CausalEffectResult.load(files / "map.npz")
    harm, helps, idle = (int(kind[0]) for kind in result.counts())
    assert f"{helps} help, {harm} harm, {idle} are idle" in told
    assert harm + helps + idle == 6 * 7 - 4

    # As from Python, and again under the same interventions with another seed.
    lr, hr = (opened(files / name) for name in ("lr.png", "hr.png"))
    model = fastbg.load_model(files / "net.safetensors")
    direct = fastbg.CausalEffectMap(model, fine=3).effect(lr.float() / 255, (16, 16, 16), hr)
    torch.testing.assert_close(direct.effect, result.effect, rtol=0, atol=1e-9, equal_nan=True)
    again = ["--seed", "5", "--interventions", str(files / "set.npz")]
    assert main(command(files, *again, "--save", str(files / "again.npz"))) == 0
    loaded = fastbg.CausalEffectResult.load(files / "again.npz")
    torch.testing.assert_close(loaded.effect, result.effect, rtol=0, atol=0, equal_nan=True)


def test_it_says_how_far_it_is(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(progress.PAUSE, progress.NORMAL, 0.0)
    assert main(command(files)) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "blocks" in line]
    assert told[0].endswith("coarse replacements: 38 of 38 blocks")
    assert re.search(r"fine replacements: (\d+) of \1 blocks$", told[-1])


def test_a_stopped_map_goes_on(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped behind its first part; then that part is taken from the folder."""
    resume = ["--resume", str(files / "parts"), "--save", str(files / "map.npz")]
    kept = StoredParts.__setitem__

    def stopping(self: StoredParts, name: str, values: np.ndarray) -> None:
        kept(self, name, values)
        raise KeyboardInterrupt

    monkeypatch.setattr(StoredParts, "__setitem__", stopping)
    assert main(command(files, *resume)) == 130
    assert not (files / "map.npz").exists()
    with RunStore.read(files / "parts") as store:
        assert len(store.records("effect")) == 1
    monkeypatch.setattr(StoredParts, "__setitem__", kept)
    assert main(command(files, *resume)) == 0
    result = fastbg.CausalEffectResult.load(files / "map.npz")
    assert main(command(files, "--save", str(files / "whole.npz"))) == 0
    whole = fastbg.CausalEffectResult.load(files / "whole.npz")
    torch.testing.assert_close(result.effect, whole.effect, rtol=0, atol=0, equal_nan=True)
    capsys.readouterr()
    assert main(command(files, *resume, "--seed", "1")) == 2
    assert "seed" in capsys.readouterr().err


def test_its_folder_is_no_run_to_report_or_compare(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = str(files / "parts")
    assert main(command(files, "--resume", parts)) == 0
    both = ["compare", parts, parts]
    for arguments in (both, [*both, "--model", "a", "b"], ["report", parts]):
        capsys.readouterr()
        assert main(arguments) == 2
        expected = "holds parts of fastbg effect; expected the --out folder of fastbg run"
        assert expected in capsys.readouterr().err.replace("\n", " ")
    assert not (files / "parts" / "report.html").exists()


def test_the_first_device_may_be_taken(files: Path) -> None:
    assert main(command(files, "--device", "auto", "--save", str(files / "auto.npz"))) == 0
    assert main(command(files, "--save", str(files / "given.npz"))) == 0
    auto, given = (
        fastbg.CausalEffectResult.load(files / f"{name}.npz") for name in ("auto", "given")
    )
    torch.testing.assert_close(auto.effect, given.effect, rtol=0, atol=1e-2, equal_nan=True)


def test_a_map_in_another_precision_says_so(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In what is printed, in the file, and where parts in one precision are not mixed."""
    resume = ["--resume", str(files / "parts"), "--save", str(files / "map.npz")]
    assert main(command(files, *resume, "--precision", "bf16")) == 0
    assert "dB; precision bf16" in capsys.readouterr().out
    half = fastbg.CausalEffectResult.load(files / "map.npz")
    assert half.precision == "bf16"
    lr, hr = (opened(files / name) for name in ("lr.png", "hr.png"))
    effects = fastbg.CausalEffectMap(fastbg.load_model(files / "net.safetensors"), fine=3)
    with fastbg.use_precision("bf16"):
        direct = effects.effect(lr.float() / 255, (16, 16, 16), hr)
    torch.testing.assert_close(half.effect, direct.effect, rtol=0, atol=0, equal_nan=True)
    assert main(command(files, *resume)) == 2
    assert "precision" in capsys.readouterr().err
    assert main(command(files, "--save", str(files / "map.npz"))) == 0
    assert "precision" not in capsys.readouterr().out
    assert fastbg.CausalEffectResult.load(files / "map.npz").precision == "ieee"


def test_a_map_of_other_patches_is_not_gone_on_with(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Patches are known by their pixels: not by where they lie, nor by their file's name."""
    for folder in ("patches", "copy"):
        (files / folder).mkdir()
        Image.open(files / "lr.png").save(files / folder / "a.png")
    resume = ["--resume", str(files / "parts"), "--patches"]
    assert main(command(files, *resume, str(files / "patches"))) == 0
    assert main(command(files, *resume, str(files / "copy"))) == 0
    Image.new("RGB", (12, 14), "red").save(files / "patches" / "a.png")
    capsys.readouterr()
    assert main(command(files, *resume, str(files / "patches"))) == 2
    assert "patches" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--window", "40", "40", "16"], "--window"),
        (["--out", "map.txt"], "--out"),
        (["--out", "no/such/folder/map.png"], "--out"),
        (["--hr", "lr.png"], "--hr"),
        (["--hr", "missing.png"], "--hr"),
        (["--save", "hr.png"], "--save"),
        (["--interventions", "hr.png"], "--interventions"),
        (["--save", "a.npz", "--keep-interventions", "./a.npz"], "--keep-interventions"),
        (["--save", "map.png"], "--save"),
        (["--patches", "missing"], "--patches"),
        (["--block", "500"], "--window"),
        (["--tolerance", "-1"], "--tolerance"),
        (["--paths", "direct"], "--paths"),
        (["--metric", "mse", "--accuracy", "published"], "--accuracy"),
    ],
)
def test_bad_input_is_one_line(
    change: list[str],
    named: str,
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(files)
    assert main(command(files, *change)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"fastbg: {named}: got")
    assert "include_window" not in error


def test_the_truth_is_needed_by_what_compares_with_it(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(files)
    at = arguments.index("--hr")
    without = arguments[:at] + arguments[at + 2 :]
    assert main(without) == 2
    assert "--hr" in capsys.readouterr().err
    assert main([*without, "--metric", "change"]) == 0


class TestStoredParts:
    def test_it_is_a_mapping_that_outlives_its_store(self, tmp_path: Path) -> None:
        values = np.array([[1.0, np.nan], [3.0, 4.0]])
        with RunStore.open(tmp_path, {"a": 1}) as store:
            parts = StoredParts(store, "effect", "net")
            parts["0 0 coarse 0"] = values
        with RunStore.open(tmp_path, {"a": 1}) as store:
            parts = StoredParts(store, "effect", "net")
            assert list(parts) == ["0 0 coarse 0"]
            assert len(parts) == 1
            np.testing.assert_array_equal(parts["0 0 coarse 0"], values)
            with pytest.raises(KeyError):
                parts["0 0 coarse 64"]
            with pytest.raises(TypeError, match="not deleted"):
                del parts["0 0 coarse 0"]
            assert "0 0 coarse 64" not in parts
